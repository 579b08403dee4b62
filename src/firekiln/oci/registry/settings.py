"""Where registries answer and how long they may take: pure values, and how the configuration file says them.

[registry."registry.example:5000"]
mirrors = ["https://mirror.example"]     # asked first, for reading only
plain_http = true                        # no TLS
ca = "/etc/ssl/private-ca.pem"           # certificates that sign this registry's
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from firekiln.errors import RegistryError, UsageError
from firekiln.oci.reference import DEFAULT_REGISTRY
from firekiln.values import dataclass

_DOCKER_HUB = "registry-1.docker.io"
_KEYS = frozenset({"mirrors", "plain_http", "ca", "blocked"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One server. `host` has the port where there is one; `plain_http` None: TLS, or without it on this host itself."""

    registry: str
    host: str
    plain_http: bool | None = False
    ca: Path | None = None
    mirror: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """What the configuration says of one registry."""

    mirrors: tuple[str, ...] = ()
    plain_http: bool | None = None
    ca: Path | None = None
    blocked: bool = False

    @classmethod
    def from_mapping(cls, registry: str, data: Mapping[str, Any]) -> RegistrySettings:
        """UsageError where the table holds something else than it may."""
        mirrors, plain_http, ca = data.get("mirrors", []), data.get("plain_http"), data.get("ca")
        blocked = data.get("blocked", False)
        unknown = sorted(data.keys() - _KEYS)
        if unknown:
            known = f"known: {', '.join(sorted(_KEYS))}"
            raise UsageError(f'registry."{registry}": {unknown[0]} is no setting', hint=known)
        if not isinstance(mirrors, list) or not all(isinstance(item, str) for item in mirrors):
            raise UsageError(f'registry."{registry}": mirrors must be a list of URLs')
        if not isinstance(plain_http, bool | None) or not isinstance(blocked, bool) or not isinstance(ca, str | None):
            raise UsageError(f'registry."{registry}": plain_http and blocked are true or false, ca the name of a file')
        return cls(mirrors=tuple(mirrors), plain_http=plain_http, ca=Path(ca) if ca else None, blocked=blocked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How patient the client is, and how much it takes. Times in seconds, sizes in bytes."""

    connect: float = 15.0
    silence: float = 30.0
    """How long a server may send nothing, or be about to answer."""
    window: float = 30.0
    least: int = 32 << 10
    """Bytes that must move within a window while content is transferred."""
    attempts: int = 5
    """How often something is tried whose failure may pass. Progress of a MiB starts the count anew."""
    backoff: float = 0.5
    """Before the second attempt; doubled each time."""
    longest_backoff: float = 30.0
    """What a Retry-After beyond this asks for is an error."""
    document: int = 4 << 20
    pages: int = 1000
    redirects: int = 5
    chunk: int = 64 << 20
    """What is uploaded in one request: a session that breaks is taken up at the last whole one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """All that there is to know before the first request. `registries` is keyed by name (`docker.io`, `host:5000`)."""

    registries: Mapping[str, RegistrySettings] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def read(cls, path: Path) -> Network:
        """What a configuration file says; nothing where there is none. UsageError where it is malformed."""
        import tomllib  # noqa: PLC0415 - most hosts have no such file

        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: {error}") from error
        tables = data.get("registry", {})
        if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
            raise UsageError(f"{path}: registry must hold tables", hint='such as [registry."localhost:5000"]')
        try:
            return cls(registries={name: RegistrySettings.from_mapping(name, table) for name, table in tables.items()})
        except UsageError as error:
            raise UsageError(f"{path}: {error.message}", hint=error.hint) from error

    def blocks(self, registry: str) -> bool:
        """Whether a registry is never to be asked."""
        return self.registries.get(registry, RegistrySettings()).blocked

    def endpoints(self, registry: str) -> tuple[Endpoint, ...]:
        """The servers of a registry in the order in which they are asked: mirrors, then itself. RegistryError."""
        settings = self.registries.get(registry, RegistrySettings())
        if self.blocks(registry):
            raise RegistryError(f"{registry} is blocked by the configuration", hint=f'see [registry."{registry}"]')
        mirrors = tuple(self._mirror(registry, url) for url in settings.mirrors)
        host = _DOCKER_HUB if registry == DEFAULT_REGISTRY else registry
        plain = settings.plain_http
        if plain is None:
            plain = None if is_local(host) else False
        return (*mirrors, Endpoint(registry=registry, host=host, plain_http=plain, ca=settings.ca))

    def _mirror(self, registry: str, url: str) -> Endpoint:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise UsageError(
                f'registry."{registry}": {url} is no address of a mirror', hint="such as https://host:5000"
            )
        own = self.registries.get(parts.netloc, RegistrySettings())
        plain = parts.scheme == "http" or bool(own.plain_http)
        return Endpoint(registry=parts.netloc, host=parts.netloc, plain_http=plain, ca=own.ca, mirror=True)


def is_local(host: str) -> bool:
    """Whether a host (with or without a port) is this machine: then it may lack TLS, as for Docker."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
