"""Credentials for registries, as `docker login` keeps them: in `~/.docker/config.json`, or with a credential helper.

The file is Docker's, or Podman's where REGISTRY_AUTH_FILE names one; both have the same shape. `auths` holds them in
base64, `credHelpers` names a program for one registry, `credsStore` one for all: `docker-credential-NAME`, which speaks
JSON on its standard streams (docker/docker-credential-helpers). What firekiln doesn't know in the file stays as it is.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from firekiln.errors import MissingProgramError, RegistryError
from firekiln.oci.reference import DEFAULT_REGISTRY
from firekiln.values import dataclass

_DOCKER_HUB = "https://index.docker.io/v1/"
"""Docker's name for its own registry in this file, which no address answers to any more."""
_TOKEN_USER = "<token>"  # noqa: S105 - a helper's user name, which says that the secret is an identity token
_NOT_FOUND = "credentials not found"
_HELPER_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A user name and a password, or an identity token (OAuth 2's refresh token) in place of both."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


class CredentialSource(Protocol):
    """Whoever knows what a registry is to be shown for a repository."""

    def get(self, registry: str, repository: str = "") -> Credential | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One credential for whoever asks: to try it before it is kept."""

    credential: Credential

    def get(self, registry: str, repository: str = "") -> Credential | None:  # noqa: ARG002 - the protocol's
        return self.credential


def config_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Which file holds them: REGISTRY_AUTH_FILE, `$DOCKER_CONFIG/config.json`, `~/.docker/config.json`."""
    if named := environment.get("REGISTRY_AUTH_FILE"):
        return Path(named)
    folder = environment.get("DOCKER_CONFIG")
    return (Path(folder) if folder else Path.home() / ".docker") / "config.json"


class Credentials:
    """The credentials of one file. It is read each time, so that a login elsewhere is seen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, registry: str, repository: str = "") -> Credential | None:
        """What a registry (`docker.io`, `localhost:5000`) is to be shown for a repository, None without any.

        RegistryError where the file is malformed or a helper fails, MissingProgramError where that is not there.
        """
        data = self._read()
        if helper := _helper(data, registry):
            return _from_helper(helper, _server(registry))
        auths = _mapping(data.get("auths"))
        return next((found for key in _keys(registry, repository, auths) if (found := self._decode(auths[key]))), None)

    def put(self, registry: str, credential: Credential) -> str:
        """Keep a credential, with the registry's helper where there is one. Returns where it is now, for people."""
        data = self._read()
        server = _server(registry)
        if helper := _helper(data, registry):
            name, secret = credential.username, credential.password
            if credential.identity_token:
                name, secret = _TOKEN_USER, credential.identity_token
            _run_helper(helper, "store", json.dumps({"ServerURL": server, "Username": name, "Secret": secret}))
            return f"docker-credential-{helper}"
        pair = f"{credential.username}:{credential.password}".encode()
        entry = {"auth": base64.b64encode(pair).decode()}
        if credential.identity_token:
            entry["identitytoken"] = credential.identity_token
        self._write({**data, "auths": {**_mapping(data.get("auths")), server: entry}})
        return str(self.path)

    def erase(self, registry: str) -> bool:
        """Forget a registry's credentials. Whether there were any."""
        data = self._read()
        server = _server(registry)
        known = False
        if helper := _helper(data, registry):
            known = _from_helper(helper, server) is not None
            if known:
                _run_helper(helper, "erase", server)
        auths = _mapping(data.get("auths"))
        keys = [key for key in auths if _host(key) == _host(server)]
        if keys:
            self._write({**data, "auths": {key: value for key, value in auths.items() if key not in keys}})
        return known or bool(keys)

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise RegistryError(f"{self.path}: cannot read credentials: {_reason(error)}") from error
        return _mapping(data)

    def _write(self, data: Mapping[str, Any]) -> None:
        path = Path(os.path.realpath(self.path))  # a file that is a link, into somebody's dotfiles, stays one
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _replacing(path) as file:
                file.write(json.dumps(data, indent="\t").encode() + b"\n")
        except OSError as error:
            raise RegistryError(f"{self.path}: cannot write credentials: {_reason(error)}") from error

    def _decode(self, entry: Any) -> Credential | None:
        fields = _mapping(entry)
        token = str(fields.get("identitytoken") or "")
        name, password = str(fields.get("username") or ""), str(fields.get("password") or "")
        if fields.get("auth"):
            try:
                text = base64.b64decode(str(fields["auth"]), validate=True).decode()
            except (binascii.Error, ValueError) as error:
                raise RegistryError(
                    f"{self.path}: an `auth` in it is no base64", hint="firekiln login again"
                ) from error
            name, _, password = text.partition(":")
        if not name and not token:
            return None
        return Credential(username=name, password=password.rstrip("\0"), identity_token=token)


@contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """A new file, 0600, that takes the place of `path` at the end."""
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _server(registry: str) -> str:
    return _DOCKER_HUB if registry == DEFAULT_REGISTRY else registry


def _host(key: str) -> str:
    """The registry that a key of `auths` means: keys of old have a scheme and a path."""
    host = urlsplit(key).netloc if "://" in key else key.partition("/")[0]
    return DEFAULT_REGISTRY if host in ("index.docker.io", "registry-1.docker.io") else host


def _keys(registry: str, repository: str, auths: Mapping[str, Any]) -> Iterator[str]:
    """The keys that hold for a repository, the closest first: Podman knows some for a part of a registry."""
    parts = f"{registry}/{repository}".rstrip("/").split("/")
    candidates = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
    yield from (key for key in candidates if key in auths)
    yield from (key for key in auths if key not in candidates and "://" in key and _host(key) == registry)


def _helper(data: Mapping[str, Any], registry: str) -> str:
    helpers = _mapping(data.get("credHelpers"))
    name = str(helpers.get(_server(registry)) or helpers.get(registry) or data.get("credsStore") or "")
    if "/" in name:
        raise RegistryError(f'"{name}" is no name of a credential helper')
    return name


def _from_helper(helper: str, server: str) -> Credential | None:
    answer = _run_helper(helper, "get", server, absent_ok=True)
    if answer is None:
        return None
    try:
        fields = _mapping(json.loads(answer))
    except ValueError as error:
        raise RegistryError(f"docker-credential-{helper}: its answer is no JSON") from error
    name, secret = str(fields.get("Username") or ""), str(fields.get("Secret") or "")
    if name == _TOKEN_USER:
        return Credential(identity_token=secret)
    return Credential(username=name, password=secret) if name else None


def _run_helper(helper: str, action: str, text: str, *, absent_ok: bool = False) -> bytes | None:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, action], input=text.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise MissingProgramError(
            f"{program} is not installed",
            hint="~/.docker/config.json names it under credsStore or credHelpers: install it, or remove the entry",
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RegistryError(f"{program}: {_reason(error)}") from error
    if done.returncode == 0:
        return done.stdout
    complaint = (done.stdout + done.stderr).decode(errors="replace").strip()
    if absent_ok and _NOT_FOUND in complaint:
        return None
    raise RegistryError(f"{program} {action}: {complaint or f'ended with status {done.returncode}'}")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
