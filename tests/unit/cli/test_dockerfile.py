"""`firekiln dockerfile …` and `build --check`, started as people start them; hostile files end soon and say why."""

import json
import os
import resource
import subprocess
import sys
import time

import pytest

MEMORY = 1500 * 2**20
"""Bytes of address space that a hostile file may make us ask for."""


def firekiln(*args, text=b"", memory=None):
    def limit():
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    return subprocess.run(
        [sys.executable, "-m", "firekiln", *args],
        input=text.encode() if isinstance(text, str) else text,
        capture_output=True,
        timeout=60,
        check=False,
        preexec_fn=limit,
    )


def test_parse_prints_instructions_as_buildkits_parser_has_them():
    done = firekiln("dockerfile", "parse", "-", "--format", "json", text='# v\nFROM a\nCMD ["x"]\n')
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert [item["Cmd"] for item in document["instructions"]] == ["FROM", "CMD"]
    assert document["instructions"][1]["JSON"] is True
    assert (document["escape"], document["warnings"]) == ("\\", None)


def test_bytes_that_are_no_utf8_are_shown_as_replacement_characters():
    for verb in ("parse", "plan"):
        done = firekiln("dockerfile", verb, "-", text=b"FROM a\nRUN x\xff\xfe\n")
        assert (done.returncode, done.stderr) == (0, b"")
        assert "x\ufffd\ufffd" in done.stdout.decode()
    assert firekiln("dockerfile", "parse", "-", text=b"\xff\xfe\0").returncode == 0


def test_plan_prints_config_runs_files_and_sources():
    text = "ARG T=1\nFROM b:$T AS one\nRUN x\nFROM one\nCOPY a /\n"
    done = firekiln("dockerfile", "plan", "-", "--format", "json", "--build-arg", "T=2", text=text)
    document = json.loads(done.stdout)
    assert sorted(document) == ["config", "files", "runs", "sources"]
    assert document["sources"] == ["docker-image://docker.io/library/b:2", "local://context"]
    done = firekiln("dockerfile", "plan", "-", "--target", "one", text=text)
    assert json.loads(done.stdout)["files"] == []


OUTLINED = """# VERSION of the tool
ARG VERSION=1
ARG NOBODY=x
# tool is what we ship
FROM b:$VERSION AS tool
# FLAVOUR sweet or sour
ARG FLAVOUR=sweet
RUN --mount=type=secret,id=key,required --mount=type=cache,id=$FLAVOUR,target=/c --mount=type=ssh make
FROM tool
"""


def test_outline_lists_what_a_target_takes():
    document = json.loads(firekiln("dockerfile", "outline", "-", "--format", "json", text=OUTLINED).stdout)
    assert [(t["name"], t["base"], t["description"], t["default"]) for t in document["targets"]] == [
        ("tool", "b:1", "is what we ship", False),
        ("", "tool", "", True),
    ]
    assert document["args"] == [
        {"name": "VERSION", "value": "1", "description": "of the tool"},
        {"name": "FLAVOUR", "value": "sweet", "description": "sweet or sour"},
    ]
    assert document["secrets"] == [{"id": "key", "required": True}]
    assert document["ssh"] == [{"id": "default", "required": False}]
    assert document["caches"] == [{"id": "sweet", "target": "/c", "sharing": "shared"}]
    table = firekiln("dockerfile", "outline", "-", "--build-arg", "FLAVOUR=sour", text=OUTLINED).stdout.decode()
    assert "FLAVOUR     sour    sweet or sour" in table
    assert "1 (default)   tool" in table


@pytest.mark.parametrize("command", [("dockerfile", "check", "-"), ("build", "--check", "-")])
def test_check_shows_each_warning_with_its_place_and_fails(command):
    done = firekiln(*command, text="FROM a AS Web\nCMD $X y\n")
    assert done.returncode == 1
    assert done.stdout.decode().splitlines()[:10] == [
        "Check complete, 2 warnings have been found!",
        "",
        "WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
        "stage name 'Web' should be lowercase",
        "Dockerfile:1",
        "--------------------",
        "   1 | >>> FROM a AS Web",
        "     |               ^^^",
        "   2 |     CMD $X y",
        "   3 |",
    ]
    done = firekiln(*command, text='FROM a\nCMD ["x"]\n')
    assert (done.returncode, done.stdout) == (0, b"Check complete, no warnings found.\n")


def test_check_as_json_has_buildkits_keys():
    done = firekiln("dockerfile", "check", "-", "--format", "json", text="FROM a\nCMD x\n")
    [warning] = json.loads(done.stdout)["warnings"]
    assert warning["ruleName"] == "JSONArgsRecommended"
    assert warning["location"] == {"file": "Dockerfile", "start": 2, "end": 2}


@pytest.mark.parametrize(
    ("command", "text", "message", "caret"),
    [
        ("parse", "FROM a\nENV x=1 y\n", 'Dockerfile:2: Syntax error - can\'t find = in "y"', "y"),
        ("plan", "FROM a\nRUNN x\n", "Dockerfile:2: unknown instruction: RUNN (did you mean RUN?)", "RUNN"),
        ("plan", "FROM a\nWORKDIR ${x:?no x}\n", 'Dockerfile:2: failed to process "${x:?no x}": x: no x', "${x:?no x}"),
        ("outline", "FROM a\nCOPY --form=b c d\n", "Dockerfile:2: unknown flag: --form (did you mean from?)", "--form"),
        ("check", "# check=oops\nFROM a\n", "Dockerfile:1: failed to parse check options", "oops"),
    ],
)
def test_an_error_names_its_line_and_underlines_the_word(command, text, message, caret):
    done = firekiln("dockerfile", command, "-", text=text)
    assert done.returncode == 1
    error = done.stderr.decode()
    assert f"firekiln: {message}" in error
    assert "Traceback" not in error
    marked, below = next(
        pair for pair in zip(error.splitlines(), error.splitlines()[1:], strict=False) if ">>>" in pair[0]
    )
    assert marked[below.index("^") :].startswith(caret)
    assert below.count("^") == len(caret)


def test_an_error_does_not_command_the_terminal():
    done = firekiln("dockerfile", "plan", "-", text="FROM a\nRU\x1b[2JNN x\n")
    assert done.returncode == 1
    assert b"\x1b" not in done.stderr


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path):
    done = firekiln("dockerfile", "parse", str(tmp_path / "none"))
    assert done.returncode == 125
    assert b"no such file or directory" in done.stderr


def test_parse_starts_fast():
    best = min(_seconds("FROM a\n") for _ in range(5))
    assert best < 0.2  # a tenth on an idle machine


def _seconds(text):
    before = os.times()
    firekiln("dockerfile", "parse", "-", text=text)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def numbered(line, count):
    return "".join(line.replace("#", str(number)).replace("+", str(number + 1)) for number in range(count))


HOSTILE = {
    "a file of 100 MB": ("RUN " + "x" * 10**8, "maximum allowed size"),
    "a file of endless lines": ("\n" * 10**7, "more than 250000 lines"),
    "a line of 64 KiB": ("FROM b\nRUN " + "x" * 65536, "Dockerfile:2: dockerfile line greater than max allowed size"),
    "ONBUILD of ONBUILD": ("FROM b\nONBUILD ONBUILD RUN x\n", "Chaining ONBUILD"),
    "ONBUILD without end": ("FROM b\n" + "ONBUILD " * 5000 + "RUN x\n", "ONBUILD nested"),
    "stages in a circle": (
        "FROM b AS x\nCOPY --from=y /a /b\nFROM b AS y\nCOPY --from=x /a /b\n",
        "circular dependency detected on stage: x",
    ),
    "a doubling variable": ("FROM b\nENV A=x\n" + "ENV A=$A$A\n" * 60, "out of all proportion"),
    "a doubling global argument": ("ARG A=x\n" + "ARG A=$A$A\n" * 60 + "FROM b$A\n", "out of all proportion"),
    "a doubling argument": ("FROM b\nARG A=x\n" + "ARG A=$A$A\n" * 60, "out of all proportion"),
    "a variable that doubles from stage to stage": (
        "FROM b AS s0\nENV A=x\n" + numbered("FROM s# AS s+\nENV A=$A$A\n", 60),
        "out of all proportion",
    ),
    "a pattern that multiplies": ("FROM b\nENV A=aaaa\n" + "ENV A=${A//a/$A}\n" * 60, "replacing all matches"),
    "long values in many steps": (
        "FROM b\nENV A=" + "a" * 60000 + "\n" + "RUN $A $A\n" * 5000,
        "out of all proportion",
    ),
    "many variables in many steps": ("FROM b\n" + numbered("ARG x#=1\n", 5000) + "RUN x\n" * 4900, "out of all"),
    "a working directory that grows": ("FROM b\n" + f"WORKDIR {'a' * 60}\n" * 9000, "out of all proportion"),
    "many triggers in many stages": (
        "FROM b AS s\n"
        + numbered("ONBUILD RUN x#\n", 4000)
        + "FROM s AS t\n" * 2000
        + numbered("COPY --from=+ / /\n", 1900),
        "out of all proportion",
    ),
    "all ports, again and again": ("FROM b\n" + "EXPOSE 1-65535/tcp 1-65535/udp\n" * 200, "out of all proportion"),
    "too many instructions": ("FROM b\n" + "RUN x\n" * 10_000, "more than 10000 instructions"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_soon_in_one_clear_error(name):
    text, message = HOSTILE[name]
    before = os.times()
    begun = time.monotonic()
    done = firekiln("dockerfile", "plan", "-", text=text, memory=MEMORY)
    seconds = os.times().children_user - before.children_user
    assert done.returncode == 1
    assert message in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    # Of the processor's time, since tests share it; a second, and as much again for slow machines.
    assert seconds < 2, f"{seconds} s of {time.monotonic() - begun}"
