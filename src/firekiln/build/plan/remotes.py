"""Sources of ADD that lie elsewhere: files on HTTP servers and git repositories, as BuildKit tells them apart."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from firekiln.values import dataclass

_SCHEME = re.compile(r"^[a-zA-Z0-9]+://")
_SCP = re.compile(r"([a-zA-Z0-9_-]+@[a-zA-Z0-9.-]+:.*?)(?:\?([^#]*))?(?:#(.*))?")
_GIT_SCHEMES = frozenset({"http", "https", "ssh", "git"})
_TRUE, _FALSE = (
    frozenset({"1", "t", "true", "T", "TRUE", "True"}),
    frozenset({"0", "f", "false", "F", "FALSE", "False"}),
)
UNNAMED = "__unnamed__"


@dataclass(frozen=True, slots=True, kw_only=True)
class GitReference:
    """A repository as ADD names it: `https://host/repo.git#ref:subdir`, or the same things as a query.

    `keep_git_dir` and `submodules` are None where the reference does not speak of them.
    """

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None


def parse_git(source: str) -> GitReference | None:
    """The repository that `source` names; None where it is a path or a plain URL. ValueError: a wrong query."""
    if _SCHEME.match(source):
        try:
            url = urlsplit(source)
        except ValueError:
            return None
        if url.scheme.lower() not in _GIT_SCHEMES:
            return None
        if url.scheme.lower() in ("http", "https") and not url.path.endswith(".git"):
            return None
        remote = urlunsplit((url.scheme, url.netloc, url.path, "", ""))
        return _git(remote, url.query, unquote(url.fragment))
    scp = _SCP.fullmatch(source)
    return None if scp is None else _git(scp[1], scp[2] or "", scp[3] or "")


def parse_context(source: str) -> GitReference | None:
    """As `parse_git`, for a build context: there Docker knows the short form `github.com/owner/name` too."""
    if not source.startswith("github.com/"):
        return parse_git(source)
    url = urlsplit(f"https://{source}")
    return _git(urlunsplit((url.scheme, url.netloc, url.path, "", "")), url.query, unquote(url.fragment))


def is_http(source: str) -> bool:
    """Whether ADD fetches `source` as one file."""
    return source.startswith(("http://", "https://")) and not is_git(source)


def is_git(source: str) -> bool:
    try:
        return parse_git(source) is not None
    except ValueError:
        return False


def http_filename(url: str) -> str:
    """What the fetched file is called: the last part of the URL's path."""
    try:
        path = unquote(urlsplit(url).path, errors="strict")
    except ValueError:
        return UNNAMED
    return posixpath.basename(path.rstrip("/")) or UNNAMED


def _git(remote: str, query: str, fragment: str) -> GitReference:
    ref, _, subdir = fragment.partition(":")
    words = _query(query)
    ref = _agreed("ref", ref, words.get("ref", ""))
    subdir = _agreed("subdir", subdir, words.get("subdir", ""))
    if words.get("tag") and words.get("branch"):
        raise ValueError("branch conflicts with tag")
    for key, prefix in (("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if words.get(key):
            ref = _agreed("ref", ref, prefix + words[key].removeprefix(prefix))
    checksum = words.get("checksum") or words.get("commit") or ""
    return GitReference(
        remote=remote,
        ref=ref or checksum,
        subdir=subdir,
        checksum=checksum,
        keep_git_dir=_flag(words, "keep-git-dir"),
        submodules=_flag(words, "submodules"),
    )


def _query(query: str) -> dict[str, str]:
    words: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in ("ref", "tag", "branch", "subdir", "checksum", "commit", "keep-git-dir", "submodules"):
            raise ValueError(f'unexpected query "{key}"')
        if key in words:
            raise ValueError(f'query "{key}" has multiple values')
        if not value and key not in ("keep-git-dir", "submodules"):
            raise ValueError(f'query "{key}" has no value')
        words[key] = value
    return words


def _agreed(what: str, one: str, other: str) -> str:
    if one and other and one != other:
        raise ValueError(f'{what} conflicts: "{one}" vs "{other}"')
    return one or other


def _flag(words: dict[str, str], key: str) -> bool | None:
    value = words.get(key)
    if value is None:
        return None
    if not value or value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ValueError(f'invalid {key} value: "{value}"')
