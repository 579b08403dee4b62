from __future__ import annotations

import sys

import pytest

from firekiln.cli.build import _context, _host, _secret
from firekiln.cli.options import build_arguments
from firekiln.errors import UsageError


def test_a_build_argument_without_a_value_is_the_environments(monkeypatch):
    monkeypatch.setenv("KNOWN", "here")
    monkeypatch.delenv("UNKNOWN", raising=False)
    assert build_arguments(["A=1", "B=x=y", "C=", "KNOWN", "UNKNOWN"]) == {
        "A": "1",
        "B": "x=y",
        "C": "",
        "KNOWN": "here",
    }
    with pytest.raises(UsageError, match="a name is missing"):
        build_arguments(["=1"])


def test_a_secret_is_a_file_or_a_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"of the file")
    monkeypatch.setenv("VARIABLE", "of the variable")
    assert _secret(f"id=s,src={tmp_path}/file") == ("s", b"of the file")
    assert _secret(f"type=file,id=s,source={tmp_path}/file") == ("s", b"of the file")
    assert _secret("id=s,env=VARIABLE") == ("s", b"of the variable")
    assert _secret("id=VARIABLE") == ("VARIABLE", b"of the variable")


@pytest.mark.parametrize(
    "text", ["id=s,src=/nonexistent", "src=x", "id=s,colour=red", "id", "type=odd,id=s", "id=s,env=NOPE_X"]
)
def test_a_secret_that_cannot_be_read_is_refused(text):
    with pytest.raises(UsageError, match="--secret"):
        _secret(text)


def test_a_host_is_a_name_and_an_address():
    assert _host("db:10.0.0.1") == ("db", "10.0.0.1")
    assert _host("db=[::1]") == ("db", "::1")
    assert _host("db:::1") == ("db", "::1")
    with pytest.raises(UsageError, match="NAME:IP"):
        _host("db")


def test_stdin_is_the_context_or_the_dockerfile_but_not_both():
    with pytest.raises(UsageError, match="requires 1 argument"):
        _context(None, None)
    with pytest.raises(UsageError, match="can't use stdin for both build context and dockerfile"):
        _context("-", "-")
    assert _context("-", "sub/Dockerfile") == (sys.stdin.buffer, "sub/Dockerfile")
    assert _context("https://example.org/x.git", None) == ("https://example.org/x.git", None)
