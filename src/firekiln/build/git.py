"""ADD from a git repository, by git's own client.

The client reads no configuration but ours: neither the host's, nor the user's, nor hooks and filters of a template.
Nothing that a Dockerfile says is ever taken for an option.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

from firekiln.build.context import without_ignored
from firekiln.build.gitaccess import NO_ACCESS, GitAccess
from firekiln.build.graph import GitSource
from firekiln.build.urls import without_password
from firekiln.dockerfile.ignore import IgnorePatterns
from firekiln.errors import BuildError, MissingProgramError
from firekiln.rootfs import directory, lookup
from firekiln.rootfs.tree import Directory, Tree

_PROTOCOLS: Final = "https:http:ssh:git"
_OPTIONS: Final = (
    "advice.detachedHead=false",
    "core.autocrlf=false",
    "core.hooksPath=/dev/null",
    "core.symlinks=true",
    "http.lowSpeedLimit=1",  # bytes a second: a connection that stands still for a minute is given up
    "http.lowSpeedTime=60",
    "init.defaultBranch=main",
)
_KEPT: Final = frozenset({"GIT_SSL_CAINFO", "GIT_SSL_CAPATH"})
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


def checkout(source: GitSource, folder: Path, access: GitAccess = NO_ACCESS) -> Tree:
    """The files of a commit, root's, without `.git` (with it, if `keep_git_dir`); those of `subdir` if it is given.

    `folder` is an empty directory that has to stay as long as the Tree. BuildError where the repository, the ref or
    the directory isn't there, or the commit isn't `checksum` (the beginning of its hexadecimal name);
    MissingProgramError without git.
    """
    _check(source)
    git = _Git(folder, source.remote, access)
    commit = _begun(git, source)
    if source.checksum and not commit.startswith(source.checksum):
        raise BuildError(
            f"{without_password(source.remote)}: expected checksum to match {source.checksum}, got {commit}"
        )
    git.run("checkout", "--quiet", "--force", "--detach", commit, "--")
    # What a submodule's address leads to is its repository's business: secrets go to the hosts of their scope alone.
    if source.submodules and (folder / ".gitmodules").is_file():
        git.run("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
    ignored = IgnorePatterns(() if source.keep_git_dir else ("**/.git",))
    return _subdir(without_ignored(directory.read(folder), ignored), source)


def commit_time(source: GitSource, folder: Path, access: GitAccess = NO_ACCESS) -> int:
    """When the commit was made, in seconds since 1970. As `checkout`."""
    _check(source)
    git = _Git(folder, source.remote, access)
    return int(git.run("show", "--no-patch", "--format=%ct", _begun(git, source)))


def committed(folder: Path) -> int:
    """When the commit that was checked out in `folder` was made, in seconds since 1970."""
    return int(_Git(folder, "", NO_ACCESS).run("show", "--no-patch", "--format=%ct", "HEAD"))


def _begun(git: _Git, source: GitSource) -> str:
    """A new repository that has the commit; its name."""
    git.run("init", "--quiet", "--template=")
    git.run("remote", "add", "origin", source.remote)  # which relative URLs of submodules start from
    return _fetch(git, source)


def _check(source: GitSource) -> None:
    if not source.remote or source.remote.startswith("-"):
        raise BuildError(f'"{source.remote}" is no git repository')
    if source.ref.startswith("-") or re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{", source.ref):
        raise BuildError(f'{without_password(source.remote)}: "{source.ref}" is no git reference')
    if ".." in source.subdir.split("/"):
        raise BuildError(f'{without_password(source.remote)}: "{source.subdir}" leads out of the repository')


def _fetch(git: _Git, source: GitSource) -> str:
    """Fetch what `source` asks for, as little as the server lets us; the commit's hexadecimal name."""
    ref = source.ref or "HEAD"
    shallow = git.attempt("fetch", "--quiet", "--no-tags", "--depth=1", "--", "origin", ref)
    if shallow.returncode == 0:
        return git.run("rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}").strip()
    if not _COMMIT.fullmatch(ref):
        raise git.error(shallow)
    # Servers give away a commit by its name only if it is a full one, and some not even then: ask for all of them.
    git.run("fetch", "--quiet", "--tags", "--", "origin", "+refs/heads/*:refs/remotes/origin/*")
    found = git.attempt("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if found.returncode != 0:
        raise BuildError(f"{without_password(source.remote)}: the repository does not have {ref}")
    return found.stdout.strip()


def _subdir(tree: Tree, source: GitSource) -> Tree:
    path = source.subdir.strip("/")
    if not path:
        return tree
    node = lookup.get(tree, path.encode(errors="surrogateescape"))
    if not isinstance(node, Directory):
        raise BuildError(f"{without_password(source.remote)}: the repository has no directory {path}")
    return node


class _Git:
    def __init__(self, folder: Path, remote: str, access: GitAccess) -> None:
        self._folder = folder
        self._access = access.environment(remote)
        self._shown = without_password(remote)

    def attempt(self, command: str, *args: str) -> subprocess.CompletedProcess[str]:
        options = [word for option in _OPTIONS for word in ("-c", option)]
        try:
            return subprocess.run(
                ["git", *options, command, *args],
                cwd=self._folder,
                env=_environment() | self._access,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                umask=0o022,
                check=False,
            )
        except FileNotFoundError:
            raise MissingProgramError("ADD from a git repository needs git", hint="apt-get install git") from None

    def run(self, command: str, *args: str) -> str:
        done = self.attempt(command, *args)
        if done.returncode != 0:
            raise self.error(done)
        return done.stdout

    def error(self, done: subprocess.CompletedProcess[str]) -> BuildError:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "")
        return BuildError(f"{self._shown}: git: {said.partition(': ')[2] or said or done.returncode}")


def _environment() -> dict[str, str]:
    """The caller's, for proxies, certificates and the ssh agent, without what would steer git elsewhere."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name == "GIT_SSL_CAINFO"
    }
    return kept | {
        "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
        "LC_ALL": "C",
    }
