"""What opens private repositories: a build's secrets of BuildKit's names, and its ssh agent.

`GIT_AUTH_HEADER` is the value of an Authorization header, `GIT_AUTH_TOKEN` a token, both perhaps for one host alone
(`GIT_AUTH_TOKEN.git.example`), which goes before (BuildKit, source/git). They reach git by its environment, so that
they stand in no command line, no configuration file and no message.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from firekiln.errors import BuildError
from firekiln.values import dataclass

_HEADER: Final = "GIT_AUTH_HEADER"
_TOKEN: Final = "GIT_AUTH_TOKEN"  # noqa: S105 - a name
_WHOLE_HOSTS: Final = ("https://github.com/", "https://www.github.com/")
"""Where a token is sent for every repository, so that submodules of the same host are reached too: BuildKit's list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GitAccess:
    """The values of all secrets of the build, by id; the socket of its ssh agent, None for the caller's own."""

    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    agent: Path | None = None

    def environment(self, remote: str) -> dict[str, str]:
        """What git's environment needs for `remote`. BuildError where a secret is no header."""
        made = {"SSH_AUTH_SOCK": str(self.agent)} if self.agent is not None else {}
        value = authorization(remote, self.secrets)
        if value is not None:
            made |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{_scope(remote)}.extraheader",
                "GIT_CONFIG_VALUE_0": f"Authorization: {value}",
            }
        return made


NO_ACCESS: Final = GitAccess()


def authorization(remote: str, secrets: Mapping[str, bytes]) -> str | None:
    """The value of the Authorization header for a repository; None where it is not reached by HTTP, or has none."""
    try:
        parts = urlsplit(remote)
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"}:
        return None
    host = parts.netloc.rpartition("@")[2]
    for name in (f"{_HEADER}.{host}", f"{_TOKEN}.{host}", _HEADER, _TOKEN):
        if name not in secrets:
            continue
        value = secrets[name].strip()
        if not value or any(byte < 0x20 or byte > 0x7E for byte in value):
            raise BuildError(f"the secret {name} is no line of text", hint=f"--secret id={name},env=VARIABLE")
        if name.startswith(_TOKEN):
            return f"basic {base64.b64encode(b'x-access-token:' + value).decode()}"
        return value.decode()
    return None


def _scope(remote: str) -> str:
    return next((prefix for prefix in _WHOLE_HOSTS if remote.startswith(prefix)), remote)
