"""Answers to a registry's challenges: Basic, or a bearer token fetched from where it says (distribution's token spec).

Tokens are kept by scope until shortly before they end. Credentials go to the registry itself and to the realm it
names, never from TLS to a realm without.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode, urlsplit

from firekiln.errors import RegistryError
from firekiln.oci.credentials import Credential
from firekiln.oci.registry import challenge as challenges
from firekiln.oci.registry.challenge import Challenge
from firekiln.oci.registry.transport import Response, Transport
from firekiln.values import dataclass

_CLIENT_ID = "firekiln"
_LEAST_SECONDS = 60.0
"""How long a token is good that doesn't say (the specification's number)."""
_MARGIN = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    value: str
    until: float


class Authorizer:
    """The Authorization header of each request. `credential` is asked once, when a registry first wants one."""

    def __init__(self, transport: Transport, credential: Callable[[], Credential | None]) -> None:
        self._transport = transport
        self._ask = credential
        self._lock = threading.RLock()
        self._asked = False
        self._known: Credential | None = None
        self._challenge: Challenge | None = None
        self._tokens: dict[str, _Token] = {}

    @property
    def anonymous(self) -> bool:
        """Whether there are no credentials to show."""
        return self._credential() is None

    def headers(self, scope: str) -> dict[str, str]:
        """What a request of that scope (`repository:NAME:pull`) carries, as far as is known what is asked for."""
        with self._lock:
            match self._challenge:
                case None:
                    return {}
                case Challenge(scheme="basic"):
                    found = self._credential()
                    return {"Authorization": _basic(found)} if found else {}
                case Challenge() as bearer:
                    token = self._tokens.get(scope)
                    if token is None or token.until < time.monotonic():
                        token = self._tokens[scope] = self._fetch(bearer, scope)
                    return {"Authorization": f"Bearer {token.value}"} if token.value else {}

    def challenged(self, answer: Response, scope: str, sent: Mapping[str, str]) -> bool:
        """Note what a 401 asks for. Whether it is worth asking again: not where just that was shown already."""
        found = challenges.parse(answer.headers.get("WWW-Authenticate", ""))
        if not found:
            return False
        with self._lock:
            bearer = next((item for item in found if item.scheme == "bearer"), None)
            self._challenge = bearer or found[0]
            stale = sent.get("Authorization", "")
            if self._challenge.scheme == "basic":
                return not stale and self._credential() is not None
            token = self._tokens.get(scope)
            if token is not None and stale in ("", f"Bearer {token.value}"):
                del self._tokens[scope]  # it has ended before its time, or was revoked
            return True

    def _credential(self) -> Credential | None:
        with self._lock:
            if not self._asked:
                self._known, self._asked = self._ask(), True
            return self._known

    def _fetch(self, bearer: Challenge, scope: str) -> _Token:
        realm = self._realm(bearer)
        found = self._credential()
        service = {"service": bearer.parameters["service"]} if "service" in bearer.parameters else {}
        what = f"token for {scope or 'login'}"

        def ask() -> Response:
            if found is not None and found.identity_token:
                form = {"grant_type": "refresh_token", "refresh_token": found.identity_token, "client_id": _CLIENT_ID}
                body = urlencode({**form, **service, "scope": scope}).encode()
                kind = {"Content-Type": "application/x-www-form-urlencoded"}
                return self._transport.send("POST", realm, headers=kind, body=body)
            query = {**service, **({"scope": scope} if scope else {})}
            if found is not None:
                query |= {"account": found.username}
            separator = "&" if urlsplit(realm).query else "?"
            shown = {"Authorization": _basic(found)} if found else {}
            return self._transport.send("GET", f"{realm}{separator}{urlencode(query)}", headers=shown)

        answer: Response = self._transport.attempt(ask, what)
        return self._parse(answer)

    def _realm(self, bearer: Challenge) -> str:
        realm = bearer.parameters.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryError(f"{self._transport.endpoint.host}: it names no usable place for tokens: {realm!r}")
        if parts.scheme == "http" and self._transport.base.startswith("https:"):
            raise RegistryError(f"{self._transport.endpoint.host}: refused to get a token without TLS from {realm}")
        return realm

    def _parse(self, answer: Response) -> _Token:
        host = self._transport.endpoint.host
        if answer.status in (401, 403):
            raise RegistryError(
                f"{host}: incorrect username or password", hint=f"firekiln login {host}", status=answer.status
            )
        try:
            fields = json.loads(answer.body)
            value = fields.get("token") or fields.get("access_token") or ""
            seconds = float(fields.get("expires_in") or _LEAST_SECONDS)
        except (ValueError, TypeError, AttributeError):
            value, seconds = "", 0.0
        if answer.status != 200 or not isinstance(value, str) or not value or not value.isprintable():
            raise RegistryError(f"{host}: its token service gave no token (HTTP {answer.status})", status=answer.status)
        return _Token(value=value, until=time.monotonic() + max(0.0, seconds - _MARGIN))


def _basic(credential: Credential) -> str:
    pair = f"{credential.username}:{credential.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"
