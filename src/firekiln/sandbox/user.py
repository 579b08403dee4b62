"""USER as BuildKit and runc resolve it: moby/sys/user's GetExecUser on the image's own passwd and group.

Pure: the files come as bytes (None where the image has none). The oddities are theirs, and users rely on them: an
unknown number is taken as it is and gets group 0; `user:group` drops the supplementary groups.
"""

from __future__ import annotations

from collections.abc import Iterator

from firekiln.values import dataclass

MAX_ID = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whom a process runs as. `groups` are the supplementary ones; `home` is `/` where passwd does not say."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _User:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


def resolve(word: str, *, passwd: bytes | None, group: bytes | None) -> Identity:
    """The identity that `word` (`user`, `uid`, `user:group`, empty for root) names.

    LookupError with BuildKit's words where a name is not in its file, or a number out of range.
    """
    users = list(_users(passwd or b""))
    who, _, which = word.partition(":")
    which = which.partition(":")[0]
    user_id, group_id = _number(who), _number(which)
    if word == "" or (user_id is not None and group_id is not None):
        # BuildKit's short cut: the files are not looked at
        return Identity(uid=user_id or 0, gid=group_id or 0, groups=(), home=_home(user_id or 0, users))
    uid, gid, groups = _looked_up(who, which, users, list(_groups(group or b"")))
    return Identity(uid=uid, gid=gid, groups=groups, home=_home(uid, users))


def _looked_up(who: str, which: str, users: list[_User], groups: list[_Group]) -> tuple[int, int, tuple[int, ...]]:
    number = _number(who)
    match = next((user for user in users if (user.uid == number if number is not None else user.name == who)), None)
    if not who:
        match = next((user for user in users if user.uid == 0), None)
    if match is None and who and number is None:
        raise LookupError(f"unable to find user {who}: no matching entries in passwd file")
    uid, gid = (match.uid, match.gid) if match else (_ranged(number or 0), 0)
    if which:
        return uid, _group_id(which, groups), ()
    if match is None:
        return uid, gid, ()
    return uid, gid, tuple(group.gid for group in groups if match.name in group.members)


def _group_id(which: str, groups: list[_Group]) -> int:
    number = _number(which)
    for group in groups:
        if group.gid == number if number is not None else group.name == which:
            return group.gid
    if number is None:
        raise LookupError(f"unable to find group {which}: no matching entries in group file")
    return _ranged(number)


def _home(uid: int, users: list[_User]) -> str:
    return next((user.home for user in users if user.uid == uid), "") or "/"


def _number(word: str) -> int | None:
    digits = word[1:] if word[:1] in {"+", "-"} else word
    return int(word) if digits.isascii() and digits.isdecimal() else None


def _ranged(number: int) -> int:
    if not 0 <= number <= MAX_ID:
        raise LookupError(f"uids and gids must be in range 0-{MAX_ID}")
    return number


def _users(passwd: bytes) -> Iterator[_User]:
    for name, *fields in _rows(passwd):
        _, uid, gid, _, home, *_ = [*fields, "", "", "", "", ""]
        yield _User(name=name, uid=_number(uid) or 0, gid=_number(gid) or 0, home=home)


def _groups(group: bytes) -> Iterator[_Group]:
    for name, *fields in _rows(group):
        _, gid, members, *_ = [*fields, "", "", ""]
        yield _Group(name=name, gid=_number(gid) or 0, members=tuple(filter(None, members.split(","))))


def _rows(text: bytes) -> Iterator[list[str]]:
    for line in text.decode(errors="surrogateescape").split("\n"):
        stripped = line.strip()
        if stripped:
            yield stripped.split(":")
