"""What `exec` without the rest of the command line understands, and what it leaves to that."""

import subprocess
import sys

import pytest

from firekiln.cli.quick import _request, run_exec


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("box true", {"machine": "box", "argv": ["true"]}),
        ("box sh -c -i", {"machine": "box", "argv": ["sh", "-c", "-i"]}),
        ("-i -e A=b -e C= -u web:www -w /srv box cat", {"stdin": True, "env": ["A=b", "C="], "user": "web:www"}),
        ("--interactive --user 0 --workdir / box cat", {"stdin": True, "user": "0", "cwd": "/"}),
        ("--env A=b=c box -x", {"env": ["A=b=c"], "argv": ["-x"]}),
    ],
)
def test_the_plain_form_is_understood(words, expected):
    request = _request(iter(words.split()))
    assert request is not None
    assert {name: request[name] for name in expected} == expected


@pytest.mark.parametrize(
    "words", ["", "box", "-d box true", "-it box true", "-t box true", "-e HOME box true", "--env=A=b box true", "-e"]
)
def test_anything_else_is_left_to_the_whole_command_line(words):
    assert _request(iter(words.split())) is None


def test_a_machine_that_is_not_there_is_left_to_the_whole_command_line(tmp_path):
    for name in ("box", "ab" * 32, "../" * 21 + "x"):
        assert run_exec(["--root", str(tmp_path), "exec", name, "true"]) is None
    assert list(tmp_path.iterdir()) == []


def test_neither_click_nor_pathlib_nor_inspect_is_loaded_before_the_machine_is_asked(tmp_path):
    program = (
        "import sys; from firekiln.cli.quick import run_exec; run_exec(sys.argv[1:]);"
        "print(*sorted({'click', 'dis', 'pathlib', 'shutil', 'subprocess'} & {*sys.modules}))"
    )
    argv = [sys.executable, "-c", program, "--root", str(tmp_path), "exec", "box", "true"]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "\n"
