"""One server that holds a repository: requests with the right credentials, answers in Docker's words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import urllib3

from firekiln.errors import RegistryError
from firekiln.oci.credentials import Credential
from firekiln.oci.reference import Reference
from firekiln.oci.registry.authorization import Authorizer
from firekiln.oci.registry.settings import Endpoint, Limits
from firekiln.oci.registry.transport import Response, Transport

PULL: Final = "pull"
PUSH: Final = "pull,push"
_TEXT: Final = 300


class Server:
    """A repository at one endpoint. `actions` are what a request needs to be allowed: PULL or PUSH."""

    def __init__(
        self,
        reference: Reference,
        endpoint: Endpoint,
        limits: Limits,
        credential: Callable[[], Credential | None],
        sleep: Callable[[float], None],
    ) -> None:
        self.reference = reference
        self.limits = limits
        self.transport = Transport(endpoint, limits, sleep=sleep)
        self._authorizer = Authorizer(self.transport, credential)

    @property
    def name(self) -> str:
        return f"{self.transport.endpoint.registry}/{self.reference.repository}"

    def url(self, path: str) -> str:
        """A path below the repository, or an address that the server gave, in full."""
        own = path if "://" in path or path.startswith("/") else f"/v2/{self.reference.repository}/{path}"
        return self.transport.url(own)

    def send(
        self,
        method: str,
        path: str,
        actions: str,
        what: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> Response:
        """One request, tried again while that may help, and its whole answer, whatever its status. RegistryError."""

        def once() -> Response:
            return self.try_send(method, path, actions, headers=headers, body=body)

        answer: Response = self.transport.attempt(once, f"{what} of {self.reference.repository}")
        return answer

    def try_send(
        self, method: str, path: str, actions: str, *, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> Response:
        """As `send`, tried once. TransferError where another attempt may help."""
        url, scope = self.url(path), self._scope(actions)
        shown = self._shown(url, scope)
        answer = self.transport.send(method, url, headers={**(headers or {}), **shown}, body=body)
        if self._answered(answer, url, scope, shown):
            again = {**(headers or {}), **self._shown(url, scope)}
            answer = self.transport.send(method, url, headers=again, body=body)
        return answer

    @contextmanager
    def open(
        self, path: str, actions: str, headers: Mapping[str, str]
    ) -> Iterator[urllib3.BaseHTTPResponse | Response]:
        """A GET whose body is still to be read; a Response where it was refused. TransferError as `try_send`."""
        url, scope = self.url(path), self._scope(actions)
        for last in (False, True):
            shown = self._shown(url, scope)
            with self.transport.open("GET", url, headers={**headers, **shown}) as answer:
                if answer.status < 400:
                    yield answer
                    return
                refused = self.transport.whole(answer)
            if last or not self._answered(refused, url, scope, shown):
                break
        yield refused

    def expect(self, answer: Response, *statuses: int, what: str) -> Response:
        """The answer, if its status is one of these. RegistryError."""
        if answer.status not in statuses:
            raise self.refusal(answer, what)
        return answer

    def refusal(self, answer: Response, what: str) -> RegistryError:
        """What a refused request is told its user."""
        codes, message = _complaint(answer.body)
        if answer.status in (401, 403):
            denied = (
                f"{what} access denied for {self.name}, repository does not exist or may require authentication"
                + (f": {message}" if message else "")
            )
            hint = f"firekiln login {self.reference.registry}"
            return RegistryError(denied, hint=hint, status=answer.status, codes=codes)
        text = f"{self.name}: {what}: HTTP {answer.status}" + (f": {message}" if message else "")
        return RegistryError(text, status=answer.status, codes=codes)

    def _scope(self, actions: str) -> str:
        return f"repository:{self.reference.repository}:{actions}" if actions else ""

    def _shown(self, url: str, scope: str) -> dict[str, str]:
        return self._authorizer.headers(scope) if self.transport.is_own(url) else {}

    def _answered(self, answer: Response, url: str, scope: str, shown: Mapping[str, str]) -> bool:
        """Whether a 401 is to be answered with credentials, which were not shown or have ended."""
        return answer.status == 401 and self.transport.is_own(url) and self._authorizer.challenged(answer, scope, shown)


def _complaint(body: bytes) -> tuple[tuple[str, ...], str]:
    """The codes and first message of a distribution error document, printable and short."""
    try:
        errors = json.loads(body).get("errors") or []
        codes = tuple(str(item.get("code", "")) for item in errors)
        message = str(errors[0].get("message") or "") if errors else ""
    except (ValueError, TypeError, AttributeError, IndexError, KeyError):
        return (), ""
    return codes, "".join(char for char in message[:_TEXT] if char.isprintable())
