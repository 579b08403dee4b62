"""HTTP to one server, over urllib3: deadlines, retries, redirects, and who is shown which credentials.

Whatever a server does, a request ends: connecting, the wait for an answer and every silence have a limit, content must
move at a least speed, documents have a greatest size. A redirect may lead to another host, which then sees no
credentials, but neither to another scheme than http(s), nor from TLS to none, nor to a link-local address, where clouds
keep their machines' secrets.
"""

from __future__ import annotations

import email.utils
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from firekiln.errors import RegistryError
from firekiln.oci.registry.settings import Endpoint, Limits
from firekiln.version import __version__

READ: Final = 1 << 20
_BLOCK: Final = 1 << 18
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses whose cause may pass."""
_USER_AGENT: Final = f"firekiln/{__version__}"
_WRONG_VERSION: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})
"""How OpenSSL says that the other side speaks no TLS."""


class TransferError(Exception):
    """A request failed in a way that may pass: worth another attempt. The message is for people."""

    def __init__(self, message: str, *, retry_after: float | None = None, response: Response | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.response = response


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer whose body was read. The names of headers are found in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Pace:
    """Raises TransferError where less than `limits.least` bytes moved within `limits.window`."""

    limits: Limits
    _moved: int = 0
    _since: float = field(default_factory=time.monotonic)

    def moved(self, count: int) -> None:
        self._moved += count
        now = time.monotonic()
        if now - self._since < self.limits.window:
            return
        if self._moved < self.limits.least:
            raise TransferError(f"too slow: {self._moved} bytes within {self.limits.window:.0f} s")
        self._moved, self._since = 0, now


class _Connection(HTTPConnection):
    """Has an answer's head arrive within the time-out as a whole, not each piece of it: a drip would never end."""

    def getresponse(self) -> Any:
        with _deadline(self):
            return super().getresponse()


class _TlsConnection(HTTPSConnection):
    """As _Connection."""

    def getresponse(self) -> Any:
        with _deadline(self):
            return super().getresponse()


@contextmanager
def _deadline(connection: HTTPConnection) -> Iterator[None]:
    seconds = connection.timeout
    if not isinstance(seconds, int | float) or connection.sock is None:
        yield
        return
    passed = threading.Event()
    timer = threading.Timer(seconds, _cut, (connection.sock, passed))
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if passed.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()


def _cut(sock: socket.socket, passed: threading.Event) -> None:
    passed.set()
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class Transport:
    """Requests to one endpoint. Threads may share it. `sleep` is waiting's, so that a cancelled pull needn't."""

    def __init__(self, endpoint: Endpoint, limits: Limits, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """RegistryError where the endpoint's certificates can't be read."""
        self.endpoint = endpoint
        self.limits = limits
        self._sleep = sleep
        tls = _tls(endpoint)
        plain = _lacks_tls(endpoint, tls, limits) if endpoint.plain_http is None else endpoint.plain_http
        scheme = "http" if plain else "https"
        self.base = f"{scheme}://{endpoint.host}"
        proxy = _proxy(scheme, endpoint.host)
        options: dict[str, Any] = {
            "ssl_context": tls,
            "blocksize": _BLOCK,
            "maxsize": 8,
            "timeout": urllib3.Timeout(connect=limits.connect, read=limits.silence),
            "retries": False,
        }
        self._pools = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
        self._pools.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def close(self) -> None:
        self._pools.clear()

    def url(self, path: str) -> str:
        """A path, or a URL that the server gave (a Location, a Link), in full."""
        return urljoin(self.base + "/", path)

    def is_own(self, url: str) -> bool:
        """Whether a URL is the endpoint's: others are shown none of its credentials."""
        return _origin(url) == _origin(self.base)

    def attempt(self, action: Callable[[], Any], what: str, *, progress: Callable[[], int] = int) -> Any:
        """Do `action` until it doesn't raise TransferError, with growing pauses; RegistryError when patience ends.

        `progress` tells bytes moved so far: more than a MiB since the last failure, and patience is new.
        """
        failures, reached = 0, progress()
        while True:
            try:
                return action()
            except TransferError as error:
                if progress() - reached >= READ:
                    failures, reached = 0, progress()
                failures += 1
                pause = min(self.limits.backoff * 2 ** (failures - 1), self.limits.longest_backoff)
                asked = error.retry_after or 0.0
                if failures >= self.limits.attempts or asked > self.limits.longest_backoff:
                    later = f", asks to come back in {asked:.0f} s" if asked > self.limits.longest_backoff else ""
                    status = error.response.status if error.response else 0
                    raise RegistryError(
                        f"{self.endpoint.host}: {what}: {error}{later}", hint="try again later", status=status
                    ) from error
                self._sleep(max(pause, asked))

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: Any = None, limit: int = 0
    ) -> Response:
        """One request and its whole answer, of at most `limit` bytes (0: a document's). Redirects are followed.

        TransferError where it may pass; RegistryError where the server can't be trusted.
        """
        with self.open(method, url, headers=headers, body=body) as answer:
            return self.whole(answer, limit)

    @contextmanager
    def open(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """One request, the answer's body unread. As `send`. An Authorization goes to the host of `url` alone."""
        first = target = self.url(url)
        for _ in range(self.limits.redirects + 1):
            shown = {key: value for key, value in (headers or {}).items() if _is_for(key, first, target)}
            answer = self._request(method, target, shown, body)
            try:
                if answer.status not in _REDIRECTS or "Location" not in answer.headers or method not in ("GET", "HEAD"):
                    if answer.status in _PASSING:
                        raise self._passing(answer)
                    yield answer
                    return
                target = self._redirected(target, answer.headers["Location"])
            finally:
                if method == "HEAD":
                    answer.release_conn()
                answer.close()  # what was read to its end has given its connection back already
        raise RegistryError(f"{self.endpoint.host}: more than {self.limits.redirects} redirects")

    def _request(self, method: str, url: str, headers: dict[str, str], body: Any) -> urllib3.BaseHTTPResponse:
        common = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"}  # content is what its digest says
        try:
            return self._pools.request(
                method,
                url,
                headers={**common, **headers},
                body=body,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except urllib3.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise RegistryError(
                    f"{self.endpoint.host}: its certificate is not trusted: {_reason(error)}",
                    hint=f'name the authority in config.toml: [registry."{self.endpoint.registry}"] ca = "FILE"',
                ) from error
            raise TransferError(_reason(error)) from error
        except (urllib3.exceptions.LocationValueError, UnicodeError) as error:
            raise RegistryError(f"{self.endpoint.host}: {error}") from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise TransferError(_reason(error)) from error

    def _redirected(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        parts = urlsplit(target)
        refused = None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            refused = f"to a {parts.scheme or 'nameless'}: URL"
        elif url.startswith("https:") and parts.scheme == "http":
            refused = "from TLS to none"
        elif _is_link_local(parts.hostname) and not _is_link_local(urlsplit(self.base).hostname or ""):
            refused = f"to the link-local address {parts.hostname}"
        if refused:
            raise RegistryError(f"{self.endpoint.host}: refused a redirect {refused}")
        return target

    def whole(self, answer: urllib3.BaseHTTPResponse, limit: int = 0) -> Response:
        """An answer with its body, of at most `limit` bytes (0: a document's). As `send`."""
        limit = limit or self.limits.document
        pieces, size = [], 0
        for piece in stream(answer, self.limits):
            size += len(piece)
            if size > limit:
                raise RegistryError(f"{self.endpoint.host}: an answer is longer than {limit} bytes")
            pieces.append(piece)
        return Response(status=answer.status, headers=answer.headers, body=b"".join(pieces))

    def _passing(self, answer: urllib3.BaseHTTPResponse) -> TransferError:
        text = f"HTTP {answer.status}" + (f" {answer.reason}" if answer.reason else "")
        response = Response(status=answer.status, headers=answer.headers, body=b"")
        return TransferError(text, retry_after=retry_after(answer.headers.get("Retry-After")), response=response)


def stream(answer: urllib3.BaseHTTPResponse, limits: Limits) -> Iterator[bytes]:
    """A body as it arrives. TransferError where it breaks off, or is too slow."""
    pace = Pace(limits)
    try:
        while data := answer.read1(READ):
            pace.moved(len(data))
            yield data
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise TransferError(_reason(error)) from error


def retry_after(text: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date (RFC 9110, section 10.2.3)."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, moment - time.time())


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    context = ssl.create_default_context()
    folder = "/etc/docker/certs.d"  # where Docker looks
    try:
        if endpoint.ca is not None:
            context.load_verify_locations(cafile=endpoint.ca)
        with suppress(FileNotFoundError):
            context.load_verify_locations(cafile=f"{folder}/{endpoint.registry}/ca.crt")
    except (OSError, ssl.SSLError) as error:
        raise RegistryError(f"{endpoint.registry}: cannot read its authority's certificates: {error}") from error
    return context


def _proxy(scheme: str, host: str) -> str | None:
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - only for its reading of the environment

    return None if proxy_bypass(host) else getproxies().get(scheme)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_for(header: str, first: str, target: str) -> bool:
    return header != "Authorization" or _origin(first) == _origin(target)


def _is_link_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_link_local
    except ValueError:
        return False


def _lacks_tls(endpoint: Endpoint, tls: ssl.SSLContext, limits: Limits) -> bool:
    """Whether what listens at a port of this host speaks no TLS. One that doesn't answer at all is not decided here."""
    parts = urlsplit(f"//{endpoint.host}")
    name = parts.hostname or ""
    try:
        with (
            socket.create_connection((name, parts.port or 443), limits.connect) as plain,
            tls.wrap_socket(plain, server_hostname=name),
        ):
            return False
    except ssl.SSLError as error:
        return error.reason in _WRONG_VERSION
    except OSError:
        return parts.port is None  # nothing at TLS's own port


def _reason(error: Exception) -> str:
    """The cause in few words: urllib3 wraps the system's."""
    cause = error.__cause__ or error.__context__ or error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    match error:
        case urllib3.exceptions.NameResolutionError():
            return "its name cannot be resolved"
        case urllib3.exceptions.ConnectTimeoutError():
            return "no connection within the time-out"
        case urllib3.exceptions.ReadTimeoutError() | TimeoutError():
            return "no answer within the time-out"
        case urllib3.exceptions.ProtocolError():
            return "the connection broke"
    return str(error) or type(error).__name__
