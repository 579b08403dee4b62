import os
import shutil
import subprocess
import sys

import pytest

from firekiln.cli.command import VERBS


def firekiln(*args, **variables):
    argv = [sys.executable, "-m", "firekiln", *args]
    environment = {**os.environ, **variables}
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, timeout=60)


def test_the_manual_names_every_verb():
    page = firekiln("man").stdout
    assert page.startswith('.TH "FIREKILN" 1')
    assert [verb for verb in VERBS if f"\\fB{verb}\\fR" not in page] == []


@pytest.mark.skipif(not shutil.which("groff"), reason="needs groff")
@pytest.mark.parametrize("verbs", [[], ["build"], ["run"], ["system", "df"]])
def test_groff_has_nothing_to_say_of_a_page(verbs):
    page = firekiln("man", *verbs).stdout
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww"], input=page, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "OPTIONS" in done.stdout


def test_an_unknown_verb_has_no_page():
    done = firekiln("man", "system", "nonsense")
    assert done.returncode == 125
    assert "nonsense" in done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_completion_script_is_printed(shell):
    assert "_FIREKILN_COMPLETE" in firekiln("completion", shell).stdout


def test_bash_completes_verbs_and_options(tmp_path):
    script = tmp_path / "completion"
    script.write_text(firekiln("completion", "bash").stdout)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "firekiln").write_text(f'#!/bin/sh\nexec {sys.executable} -m firekiln "$@"\n')
    (tmp_path / "bin" / "firekiln").chmod(0o755)
    asked = (
        'source "$1"; COMP_WORDS=(firekiln bui); COMP_CWORD=1; _firekiln_completion firekiln; echo "${COMPREPLY[*]}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", asked, "-", script], capture_output=True, text=True, check=False, env=environment
    )
    assert "build" in done.stdout.split()
