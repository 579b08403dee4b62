"""Recipe files: TOML, ours beside this module, the user's in `recipes/` beside `config.toml`.

A user's recipe for a repository goes before ours. Whatever is wrong with a file is one UsageError that names the file
and the key.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import urlsplit

from firekiln.build.recipes.recipe import PATH, Distribution, Method, Mmdebstrap, RootArchive
from firekiln.errors import ReferenceFormatError, UsageError
from firekiln.oci.reference import Reference
from firekiln.store.paths import config_file

_OURS: Final = ("debian.toml", "ubuntu.toml", "alpine.toml")
_DEBIAN_ARCHITECTURES: Final = {
    "amd64": "amd64",
    "arm64": "arm64",
    "arm/v7": "armhf",
    "arm/v5": "armel",
    "386": "i386",
    "ppc64le": "ppc64el",
    "s390x": "s390x",
    "riscv64": "riscv64",
}
_WORD: Final = re.compile(r"[A-Za-z0-9{][A-Za-z0-9+.~_{}*-]*")
"""Of releases, components, packages and the like: nothing that a program would take for an option or two words."""
_SHA256: Final = re.compile("[0-9a-f]{64}")

_T = TypeVar("_T")


def recipes_folder() -> Path:
    """Where the user's recipes are looked for. It need not be there."""
    return config_file().parent / "recipes"


def distributions() -> tuple[Distribution, ...]:
    """The user's, in order of their files' names, then ours. UsageError for the first that is malformed."""
    folder = recipes_folder()
    try:
        texts = [(str(path), path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.toml"))]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"recipes in {folder}: {getattr(error, 'strerror', None) or error}") from error
    ours = [(name, (Path(__file__).parent / name).read_text(encoding="utf-8")) for name in _OURS]
    return tuple(read(text, file=name) for name, text in (*texts, *ours))


def read(text: str, *, file: str) -> Distribution:
    """One file's text. UsageError."""
    try:
        table = _Table(file, "", tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"recipe {file}: {error}") from error
    repository = table.take("repository", _repository)
    method = table.take("method", _one_of("mmdebstrap", "archive"))
    body, image = table.below(method), table.below("image")
    made = Distribution(
        file=file,
        repository=repository,
        system=table.take("system", _text, repository.rpartition("/")[2]),
        tags=table.take("tags", _releases),
        method=_METHODS[method](body),
        architectures=table.take("architectures", _words_by_name, _DEBIAN_ARCHITECTURES if method != "archive" else {}),
        inits=table.take("init", _packages_by_name, {}),
        env=image.take("env", _texts, (PATH,)),
        cmd=image.take("cmd", _texts, ("bash",)),
    )
    for part in (table, body, image):
        part.check_empty()
    return made


class _Table:
    """A table of a file, whose keys are taken one by one; what is left in the end nobody knows."""

    def __init__(self, file: str, name: str, data: Mapping[str, Any]) -> None:
        self._file, self._name, self._data = file, name, dict(data)

    def take(self, key: str, parse: Callable[[Any], _T], default: _T | None = None) -> _T:
        """What `parse` makes of the value, which says by a ValueError what it wants; `default` where it is missing."""
        if key not in self._data:
            if default is None:
                self.refuse(key, "is missing")
            return default
        try:
            return parse(self._data.pop(key))
        except ValueError as error:
            self.refuse(key, str(error))

    def below(self, key: str) -> _Table:
        """A table in it, empty where it is missing."""
        data = self._data.pop(key, {})
        if not isinstance(data, dict):
            self.refuse(key, "must be a table")
        return _Table(self._file, f"{key}.", data)

    def check_empty(self) -> None:
        for key in self._data:
            self.refuse(key, "is no key of a recipe")

    def refuse(self, key: str, why: str) -> NoReturn:
        raise UsageError(f"recipe {self._file}: {self._name}{key}: {why}", hint="docs/reference/bases.md has all keys")


def _mmdebstrap(table: _Table) -> Mmdebstrap:
    return Mmdebstrap(
        mirror=table.take("mirror", _address),
        keyrings=table.take("keyrings", _paths),
        keyring_package=table.take("keyring-package", _word, ""),
        origin=table.take("origin", _text, ""),
        security=table.take("security", _address, ""),
        security_label=table.take("security-label", _text, ""),
        ports=table.take("ports", _address, ""),
        suites=table.take("suites", _some_words, ("{release}", "{release}-updates")),
        security_suites=table.take("security-suites", _words, ("{release}-security",)),
        components=table.take("components", _words, ("main",)),
        variant=table.take("variant", _word, "minbase"),
        include=table.take("include", _words, ()),
        slim=table.take("slim", _flag, False),
        merged_usr=table.take("merged-usr", _words, ()),
        one_line_sources=table.take("one-line-sources", _words, ()),
    )


def _archive(table: _Table) -> RootArchive:
    made = RootArchive(
        mirror=table.take("mirror", _address, ""),
        releases=table.take("releases", _text, ""),
        flavor=table.take("flavor", _word, ""),
        url=table.take("url", _text, ""),
        sha256=table.take("sha256", _digests, {}),
        keyring=table.take("keyring", _path, ""),
        signature=table.take("signature", _text, ".asc"),
        install=table.take("install", _texts, ()),
    )
    if bool(made.url) == bool(made.releases):
        table.refuse("url", "either it or `releases` is wanted")
    if made.releases and not made.flavor:
        table.refuse("flavor", "`releases` wants it")
    if made.url and not (made.sha256 or made.keyring):
        table.refuse("url", "`sha256` or `keyring` is wanted, to know the right archive by")
    if made.releases and not made.keyring and not _is_safe(made.releases.replace("{mirror}", made.mirror)):
        table.refuse("releases", "without https a `keyring` is wanted, to know the right archive by")
    return made


_METHODS: Final[Mapping[str, Callable[[_Table], Method]]] = {"mmdebstrap": _mmdebstrap, "archive": _archive}


def _is_safe(address: str) -> bool:
    """Whether nobody on the way can have changed what comes from there: TLS, or this host itself."""
    parts = urlsplit(address)
    try:
        return parts.scheme == "https" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("must be a text of one line")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of texts")  # noqa: TRY004 - `take` is told so
    return tuple(map(_text, value))


def _word(value: Any) -> str:
    text = _text(value)
    if not _WORD.fullmatch(text):
        raise ValueError(f'"{text}" is no plain word')
    return text


def _words(value: Any) -> tuple[str, ...]:
    return tuple(map(_word, _texts(value)))


def _some_words(value: Any) -> tuple[str, ...]:
    found = _words(value)
    if not found:
        raise ValueError("is empty")
    return found


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 - `take` is told so
    return value


def _named(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not value:
        raise ValueError("must be a table with something in it")
    return value


def _words_by_name(value: Any) -> Mapping[str, str]:
    return {name: _word(item) for name, item in _named(value).items()}


def _releases(value: Any) -> Mapping[str, str]:
    found = _words_by_name(value)
    for tag, release in found.items():
        if not _WORD.fullmatch(tag) or release.count("*") > tag.count("*"):
            raise ValueError(f'"{tag}" is no tag, or its release has more stars')
    return found


def _packages_by_name(value: Any) -> Mapping[str, tuple[str, ...]]:
    return {name: _words(item) for name, item in _named(value).items()}


def _digests(value: Any) -> Mapping[str, str]:
    found = {"": value} if isinstance(value, str) else _named(value)
    if not all(isinstance(item, str) and _SHA256.fullmatch(item) for item in found.values()):
        raise ValueError("must be 64 hexadecimal digits, or a table of such by architecture")
    return found


def _address(value: Any) -> str:
    text = _text(value).rstrip("/")
    if urlsplit(text).scheme not in {"http", "https"} or " " in text:
        raise ValueError(f'"{text}" is no http or https address')
    return text


def _path(value: Any) -> str:
    text = _text(value)
    if not Path(text).is_absolute() or " " in text:
        raise ValueError(f'"{text}" is no absolute path without spaces')
    return text


def _paths(value: Any) -> tuple[str, ...]:
    found = tuple(map(_path, _texts(value)))
    if not found:
        raise ValueError("is empty")
    return found


def _repository(value: Any) -> str:
    try:
        parsed = Reference.parse(_text(value))
    except ReferenceFormatError as error:
        raise ValueError(error.message) from error
    if parsed.tag is not None or parsed.digest is not None:
        raise ValueError("must be a repository without a tag")
    return parsed.name


def _one_of(*names: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in names:
            raise ValueError(f"give {' or '.join(names)}")
        return str(value)

    return parse
