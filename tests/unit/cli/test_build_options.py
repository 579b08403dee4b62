from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import urllib.request

import pytest

import registries
from firekiln.cli.build import _allowed, _context, _host, _secret
from firekiln.cli.options import build_arguments, manifest_annotations
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


def test_host_gateway_is_the_host_as_steps_reach_it():
    assert _host("here:host-gateway") == ("here", "127.0.0.1")
    assert _host("here=host-gateway") == ("here", "127.0.0.1")


@pytest.mark.parametrize("text", ["db:", "db:10.0.0", "db:10.0.0.1.2", "db=name", "db:[::g]"])
def test_a_host_whose_address_is_none_is_refused(text):
    with pytest.raises(UsageError, match="--add-host"):
        _host(text)


def test_only_known_entitlements_are_granted():
    assert _allowed(("network.host", "security.insecure")) == ("network.host", "security.insecure")
    with pytest.raises(UsageError, match=r"network\.hosts: unknown entitlement"):
        _allowed(("network.hosts",))


def test_annotations_are_the_manifests():
    texts = ["a=b", "manifest:org.x/y=1=2", "manifest[linux/amd64]:p=q", "empty="]
    assert manifest_annotations(texts) == {"a": "b", "org.x/y": "1=2", "p": "q", "empty": ""}
    for text in ("index:a=b", "manifest-descriptor:a=b", "index-descriptor[linux/amd64]:a=b"):
        with pytest.raises(UsageError, match="not supported for a single platform"):
            manifest_annotations([text])
    with pytest.raises(UsageError, match="expected NAME=VALUE"):
        manifest_annotations(["a"])


@pytest.fixture
def command(tmp_path):
    """`firekiln build` of a small context, with what it is given on standard input."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY f /\n")
    (context / "f").write_text("content")

    def run(*args, stdin=b"", **environment):
        argv = [sys.executable, "-m", "firekiln", "--root", tmp_path / "store", "build", *args]
        env = {**os.environ, **environment}
        done = subprocess.run(argv, input=stdin, env=env, capture_output=True, cwd=context, check=False)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run


def test_quiet_prints_the_digest_alone_and_load_changes_nothing(command):
    status, out, err = command("-q", "--load", ".")
    assert (status, err) == (0, "")
    assert out.startswith("sha256:")
    assert len(out.split()) == 1
    status, _, err = command("--progress=quiet", "--load", "--metadata-file", "m.json", "--iidfile", "i", ".")
    assert (status, err) == (0, "--load: images are kept in the store anyway\n")


def test_the_files_of_digests_agree_with_each_other_and_the_store(command, tmp_path):
    folder = tmp_path / "context"
    _, out, _ = command("-q", "--annotation", "a=b", "--metadata-file", "m.json", "--iidfile", "i", "-t", "x", ".")
    metadata = json.loads((folder / "m.json").read_bytes())
    assert metadata["containerimage.digest"] == out.strip() == (folder / "i").read_text()
    assert metadata["image.name"] == "docker.io/library/x:latest"
    blobs = tmp_path / "store/blobs/sha256"
    manifest = json.loads((blobs / metadata["containerimage.digest"][7:]).read_bytes())
    assert manifest["annotations"] == {"a": "b"}
    assert manifest["config"]["digest"] == metadata["containerimage.config.digest"]


def test_stdin_may_be_a_tar_a_dockerfile_or_the_dockerfile_of_a_folder(command):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, text in (("Dockerfile", b"FROM scratch\nCOPY g /\n"), ("g", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    assert command("-q", "-", stdin=data.getvalue())[0] == 0
    assert command("-q", "-", stdin=b"FROM scratch\nCOPY <<EOF /h\nEOF\n")[0] == 0
    assert command("-q", "-f", "-", ".", stdin=b"FROM scratch\nCOPY f /other\n")[0] == 0
    status, _, err = command("-", "-f", "Dockerfile", stdin=b"FROM scratch\n")
    assert status == 125
    assert "ambiguous Dockerfile source" in err


def test_buildkits_variable_chooses_the_progress_that_auto_means(command):
    _, _, plain = command(".", BUILDKIT_PROGRESS="plain")
    assert "#1 [internal] load build definition from Dockerfile" in plain
    _, _, raw = command(".", BUILDKIT_PROGRESS="rawjson")
    assert all(isinstance(json.loads(line), dict) for line in raw.splitlines())
    assert command(".", BUILDKIT_PROGRESS="quiet")[2] == ""


def test_options_that_may_stand_alone_take_no_word_but_their_own(command):
    assert command("-q", "--sbom", ".")[0] == 0
    assert command("-q", "--sbom", "false", "--pull", ".")[0] == 0
    for words in ([], ["--sbom"], ["--sbom", "true"]):
        status, _, err = command(*words)
        assert (status, "requires 1 argument" in err) == (125, True)


def test_a_cache_travels_by_the_command_line(command, tmp_path):
    exported = ["--cache-to", f"type=local,dest={tmp_path}/cache,mode=max"]
    assert command("-q", *exported, ".")[0] == 0
    (tmp_path / "store").rename(tmp_path / "old")
    status, _, err = command("--progress=plain", "--cache-from", f"type=local,src={tmp_path}/cache", ".")
    assert status == 0
    assert "[1/1] COPY f /\n#4 CACHED" in err
    status, _, err = command("--cache-to", "type=gha", ".")
    assert (status, "are not supported" in err) == (125, True)


def test_push_puts_the_image_and_its_annotations_into_the_registry_of_its_name(command, tmp_path):
    with registries.docker_registry(tmp_path) as registry:
        status, out, err = command("-q", "--push", "--annotation", "a=b", "-t", f"{registry.host}/app:1", ".")
        assert (status, err) == (0, "")
        accepted = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        url = f"http://{registry.host}/v2/app/manifests/1"
        with urllib.request.urlopen(urllib.request.Request(url, headers=accepted), timeout=10) as answer:
            assert json.load(answer)["annotations"] == {"a": "b"}
    status, _, err = command("--push", ".")
    assert (status, "tag is needed when pushing" in err) == (125, True)
    assert out.startswith("sha256:")
