"""Private repositories as contexts and for ADD, private keys for steps, and the time of what a build is made of."""

from __future__ import annotations

import base64
import datetime as dt
import io
import os
import shutil
import subprocess
import tarfile

import pytest

import firekiln
import isolation
from building import BUSYBOX, Builds, write_base
from firekiln.build.gitaccess import GitAccess, authorization
from firekiln.build.sshagent import agent_with
from firekiln.errors import BuildError, UsageError
from firekiln.rootfs import lookup
from firekiln.store import Store
from gitserver import git, served, served_by_http
from httpserver import serve_folder
from machines import argv

pytestmark = [pytest.mark.root, pytest.mark.rootless, isolation.needed]

TOKEN = "s3cr3t-t0ken"
BASIC = f"basic {base64.b64encode(f'x-access-token:{TOKEN}'.encode()).decode()}"
MADE = 1_600_000_000


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    if shutil.which("git") is None:
        pytest.skip("needs git")
    root = tmp_path_factory.mktemp("repositories")
    (root / "repo").mkdir()
    git(root / "repo", "init", "--quiet")
    (root / "repo/Dockerfile").write_text("ARG SOURCE_DATE_EPOCH=context\nFROM scratch\nCOPY file /\n")
    (root / "repo/file").write_text("of the repository\n")
    git(root / "repo", "add", ".")
    when = {"GIT_COMMITTER_DATE": f"@{MADE} +0000", "GIT_AUTHOR_DATE": "@1 +0000"}
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(
        ["git", *who, "commit", "--quiet", "-m", "one"], cwd=root / "repo", env={**os.environ, **when}, check=True
    )
    return root


def read(store, image, path: bytes) -> bytes:
    with Store.open(store) as opened:
        return lookup.get(opened.layers.merged(image.layers), path).read()


@pytest.mark.parametrize(
    ("secrets", "header"),
    [
        ({"GIT_AUTH_TOKEN": f"{TOKEN}\n"}, BASIC),
        ({"GIT_AUTH_HEADER": "Bearer abc"}, "Bearer abc"),
        ({"GIT_AUTH_TOKEN.{host}": TOKEN, "GIT_AUTH_TOKEN": "other", "GIT_AUTH_HEADER": "other"}, BASIC),
        ({"GIT_AUTH_HEADER.{host}": "Bearer abc", "GIT_AUTH_TOKEN.{host}": "other"}, "Bearer abc"),
    ],
)
def test_a_private_repository_is_opened_by_a_secret(repositories, tmp_path, secrets, header):
    with served_by_http(repositories, header) as url:
        host = url.removeprefix("http://")
        given = {name.format(host=host): value.encode() for name, value in secrets.items()}
        built = firekiln.build(f"{url}/repo/.git", secrets=given, store=tmp_path / "store")
        added = firekiln.build(
            None, dockerfile=f"FROM scratch\nADD {url}/repo/.git /r\n".encode(), secrets=given, store=tmp_path / "store"
        )
    assert read(tmp_path / "store", built.image, b"file") == b"of the repository\n"
    assert read(tmp_path / "store", added.image, b"r/file") == b"of the repository\n"


def test_a_secret_stays_out_of_the_store_and_the_git_dir(repositories, tmp_path):
    with served_by_http(repositories, BASIC) as url:
        text = f"FROM scratch\nADD --keep-git-dir=true {url}/repo/.git /r\n".encode()
        firekiln.build(None, dockerfile=text, secrets={"GIT_AUTH_TOKEN": TOKEN.encode()}, store=tmp_path / "store")
    for word in (TOKEN.encode(), BASIC.encode()):
        assert not any(word in path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "secrets", [{}, {"GIT_AUTH_TOKEN": b"wrong"}, {"GIT_AUTH_TOKEN.other.example": TOKEN.encode()}]
)
def test_without_the_right_secret_a_private_repository_stays_closed(repositories, tmp_path, secrets):
    with served_by_http(repositories, BASIC) as url, pytest.raises(BuildError) as caught:
        firekiln.build(f"{url}/repo/.git", secrets=secrets, store=tmp_path / "store")
    assert TOKEN not in str(caught.value)
    assert "git" in caught.value.message


def test_a_secret_is_for_its_own_host_and_for_http_alone():
    secrets = {"GIT_AUTH_TOKEN.git.example:8080": b"t"}
    assert authorization("https://git.example:8080/x.git", secrets) is not None
    assert authorization("https://user@git.example:8080/x.git", secrets) is not None
    for remote in (
        "https://git.example/x.git",
        "https://other.example/x",
        "ssh://git.example:8080/x",
        "git@host:x.git",
    ):
        assert authorization(remote, secrets) is None
    scope = GitAccess(secrets={"GIT_AUTH_TOKEN": b"t"}).environment
    assert scope("https://github.com/a/b.git")["GIT_CONFIG_KEY_0"] == "http.https://github.com/.extraheader"
    assert scope("https://git.example/a/b.git")["GIT_CONFIG_KEY_0"] == "http.https://git.example/a/b.git.extraheader"


@pytest.mark.parametrize("value", [b"", b"a\nb", b"a\rb: c", b"\xff"])
def test_a_secret_that_is_no_line_of_text_is_refused(value):
    with pytest.raises(BuildError, match="the secret GIT_AUTH_HEADER is no line of text"):
        authorization("https://git.example/x", {"GIT_AUTH_HEADER": value})


# --- private keys ----------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path):
    """Two private keys, and one with a passphrase."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("needs openssh-client")
    for name, words in (("one", ""), ("two", ""), ("closed", "passphrase")):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", words, "-C", name, "-f", tmp_path / name], check=True
        )
    return tmp_path


def held_by(socket) -> list[str]:
    environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
    listed = subprocess.run(["ssh-add", "-L"], env=environment, capture_output=True, check=False)
    return [line.split()[2] for line in listed.stdout.decode().splitlines() if line.startswith("ssh-")]


def test_an_agent_holds_keys_as_long_as_it_is_wanted_and_leaves_nothing(keys):
    place = keys / "a folder with a name that is long enough for no socket to have room below it" / ("x" * 60)
    place.mkdir(parents=True)
    with agent_with([keys / "one", keys / "two"], place) as socket:
        assert held_by(socket) == ["one", "two"]
        assert subprocess.run(["pgrep", "-P", str(os.getpid()), "ssh-agent"], capture_output=True, check=True).stdout
    assert (
        subprocess.run(["pgrep", "-P", str(os.getpid()), "ssh-agent"], capture_output=True, check=False).stdout == b""
    )
    assert [path for path in place.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("name", ["closed", "one.pub", "absent"])
def test_a_key_that_cannot_be_used_is_named(keys, name):
    with (
        pytest.raises(UsageError, match=f"--ssh: .*/{name}: cannot use this key: ") as caught,
        agent_with([keys / name], keys),
    ):
        pass
    assert "passphrase" in caught.value.hint


@pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static")
def test_a_step_reaches_an_agent_with_the_keys_that_the_command_line_names(keys):
    (keys / "builds").mkdir()
    builds = Builds(keys / "builds")
    write_base(builds.context / "base")
    (builds.context / "Dockerfile").write_text(
        "FROM scratch\nCOPY base /\nRUN --mount=type=ssh,required test -S $SSH_AUTH_SOCK && echo reached\n"
    )
    with Store.open(builds.root) as store:
        command = argv(
            store, "build", "--progress=plain", "--ssh", f"default={keys}/one,{keys}/two", str(builds.context)
        )
        wrong = argv(store, "build", "--ssh", f"default={keys}/absent", str(builds.context))
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    assert "reached" in done.stderr
    refused = subprocess.run(wrong, capture_output=True, check=False, text=True)
    assert refused.returncode == 125
    assert f"{keys}/absent is not an agent's socket or a private key" in refused.stderr


# --- SOURCE_DATE_EPOCH=context ---------------------------------------------------------------------------------------


def at(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_the_time_of_a_repository_is_its_commit_s(repositories, tmp_path):
    with served(repositories) as url:
        image = firekiln.build(f"{url}/repo/.git", store=tmp_path / "store").image
        named = firekiln.build(
            None,
            dockerfile=b"FROM scratch\nCOPY --from=code file /\n",
            contexts={"code": f"{url}/repo/.git"},
            build_args={"SOURCE_DATE_EPOCH": "code"},
            store=tmp_path / "store",
        ).image
    assert image.image.created == at(MADE)
    assert named.image.created == at(MADE)
    with Store.open(tmp_path / "store") as store:
        assert lookup.get(store.layers.merged(image.layers), b"file").meta.mtime_ns == MADE * 10**9


def archive() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as written:
        for name, text, time in (("Dockerfile", b"FROM scratch\nCOPY f /\n", 5), ("f", b"x", MADE + 7)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(text), time
            written.addfile(entry, io.BytesIO(text))
    return made.getvalue()


def test_the_time_of_an_archive_is_when_the_server_says_it_was_modified(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files/c.tar").write_bytes(archive())
    os.utime(tmp_path / "files/c.tar", (MADE, MADE))
    with serve_folder(tmp_path / "files") as url:
        epoch = {"SOURCE_DATE_EPOCH": "context"}
        image = firekiln.build(f"{url}/c.tar", build_args=epoch, store=tmp_path / "store").image
        stage = firekiln.build(
            None,
            dockerfile=f"ARG SOURCE_DATE_EPOCH=code\nFROM scratch AS code\nADD {url}/c.tar /\nFROM scratch\n"
            "COPY --from=code / /\n".encode(),
            store=tmp_path / "store",
        ).image
    assert image.image.created == at(MADE)
    assert stage.image.created == at(MADE)


def test_a_folder_tells_no_time(tmp_path):
    (tmp_path / "context").mkdir()
    events = []
    before = dt.datetime.now(dt.UTC).replace(microsecond=0)
    image = firekiln.build(
        tmp_path / "context",
        dockerfile=b"FROM scratch\nCOPY . /\n",
        build_args={"SOURCE_DATE_EPOCH": "context"},
        on_event=events.append,
        store=tmp_path / "store",
    ).image
    assert dt.datetime.fromisoformat(image.image.created) >= before
    assert any("SOURCE_DATE_EPOCH=context tells no time" in getattr(event, "message", "") for event in events)
