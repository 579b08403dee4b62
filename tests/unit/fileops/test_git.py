"""ADD from a git repository, against git's own daemon on the loopback."""

from __future__ import annotations

import pytest

from copying import describe
from firekiln.build.git import checkout
from firekiln.build.graph import GitSource
from firekiln.errors import BuildError, MissingProgramError
from gitserver import DAEMON, git, served

pytestmark = pytest.mark.skipif(not DAEMON.exists(), reason="needs git and its daemon")


def write(path, text, mode=0o644):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    root = tmp_path_factory.mktemp("git")
    (root / "sub").mkdir()
    git(root / "sub", "init", "--quiet")
    write(root / "sub" / "inner", "inner")
    git(root / "sub", "add", ".")
    git(root / "sub", "commit", "--quiet", "-m", "sub")
    repo = root / "repo"
    repo.mkdir()
    git(repo, "init", "--quiet")
    write(repo / "run", "one", 0o755)
    write(repo / "docs" / "page", "page")
    (repo / "link").symlink_to("run")
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "-m", "one")
    git(repo, "tag", "-m", "v1", "v1")
    git(repo, "checkout", "--quiet", "-b", "dev")
    write(repo / "run", "two", 0o755)
    git(repo, "submodule", "--quiet", "add", "../sub", "module")
    git(repo, "commit", "--quiet", "-am", "two")
    git(repo, "checkout", "--quiet", "main")
    return root


@pytest.fixture(scope="module")
def server(repositories):
    with served(repositories) as url:
        yield f"{url}/repo"


def test_the_default_branch_without_git_dir(server, tmp_path):
    got = checkout(GitSource(remote=server), tmp_path)
    assert describe(got) == {
        "docs": "d 0755 0:0",
        "docs/page": "f 0644 0:0 4",
        "link": "l 0777 0:0 ->run",
        "run": "f 0755 0:0 3",
    }
    assert got.children[b"run"].read() == b"one"


@pytest.mark.parametrize("ref", ["v1", "refs/tags/v1", "main", "refs/heads/main"])
def test_tags_and_branches(server, tmp_path, ref):
    assert checkout(GitSource(remote=server, ref=ref), tmp_path).children[b"run"].read() == b"one"


@pytest.mark.parametrize("length", [40, 12])
def test_a_commit_by_its_name_also_a_short_one(server, repositories, tmp_path, length):
    commit = git(repositories / "repo", "rev-parse", "dev")[:length]
    got = checkout(GitSource(remote=server, ref=commit, submodules=False), tmp_path)
    assert got.children[b"run"].read() == b"two"


def test_submodules_come_along_without_their_git_files(server, tmp_path):
    got = checkout(GitSource(remote=server, ref="dev"), tmp_path)
    assert set(describe(got)) >= {"module/inner", ".gitmodules"}
    assert not any(path.endswith(".git") for path in describe(got))


def test_submodules_can_be_left_out(server, tmp_path):
    got = checkout(GitSource(remote=server, ref="dev", submodules=False), tmp_path)
    assert "module/inner" not in describe(got)


def test_the_git_dir_can_be_kept(server, tmp_path):
    assert ".git/HEAD" in describe(checkout(GitSource(remote=server, keep_git_dir=True), tmp_path))


def test_a_subdirectory_becomes_the_root(server, tmp_path):
    assert set(describe(checkout(GitSource(remote=server, subdir="docs"), tmp_path))) == {"page"}


def test_the_commit_must_begin_with_the_checksum(server, repositories, tmp_path):
    commit = git(repositories / "repo", "rev-parse", "main")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    checkout(GitSource(remote=server, checksum=commit[:10]), tmp_path / "a")
    with pytest.raises(BuildError, match=f"expected checksum to match {'0' * 40}, got {commit}"):
        checkout(GitSource(remote=server, checksum="0" * 40), tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ref": "nope"}, "git: couldn't find remote ref nope"),
        ({"ref": "0123456789abcdef"}, "does not have 0123456789abcdef"),
        ({"subdir": "nope"}, "has no directory nope"),
        ({"subdir": "link"}, "has no directory link"),
        ({"subdir": "../.."}, "leads out of the repository"),
        ({"ref": "--upload-pack=touch /tmp/x"}, "is no git reference"),
        ({"ref": "a..b"}, "is no git reference"),
    ],
)
def test_what_is_not_there_or_hostile_is_an_error(server, tmp_path, options, message):
    with pytest.raises(BuildError, match=message):
        checkout(GitSource(remote=server, **options), tmp_path)


@pytest.mark.parametrize(
    ("remote", "message"),
    [
        ("--upload-pack=touch x", "is no git repository"),
        ("", "is no git repository"),
        ("ext::sh -c touch% x", "transport 'ext' not allowed"),
        ("file:///etc", "transport 'file' not allowed"),
    ],
)
def test_only_git_over_the_network_is_spoken(tmp_path, remote, message):
    with pytest.raises(BuildError, match=message):
        checkout(GitSource(remote=remote), tmp_path)


def test_without_git_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgramError) as error:
        checkout(GitSource(remote="https://example.org/x.git"), tmp_path)
    assert error.value.hint == "apt-get install git"


def test_the_hosts_configuration_is_not_read(server, tmp_path, monkeypatch):
    (tmp_path / ".gitconfig").write_text(
        '[core]\n\tautocrlf = true\n[url "git://127.0.0.1:1/"]\n\tinsteadOf = git://\n'
    )
    (tmp_path / "x").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert checkout(GitSource(remote=server), tmp_path / "x").children[b"run"].read() == b"one"
