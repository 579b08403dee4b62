"""ADD from a URL: one file by HTTP or HTTPS, with the standard library's client.

Proxies are those of the environment (`HTTPS_PROXY`, `NO_PROXY`), certificates those that OpenSSL finds
(`SSL_CERT_FILE`). A server may redirect to other servers, but not to another kind of URL, and not to a link-local
address, where clouds keep their machines' credentials, unless the Dockerfile itself named one.
"""

from __future__ import annotations

import base64
import email.message
import email.utils
import hashlib
import http.client
import ipaddress
import posixpath
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from firekiln.build.graph import HttpSource
from firekiln.build.spool import Spool
from firekiln.build.urls import without_password
from firekiln.errors import BuildError
from firekiln.rootfs.tree import CHUNK, Directory, File, Meta, Tree
from firekiln.version import __version__

TIMEOUT_S: Final = 60.0
"""How long a connection may stand still."""
UNNAMED: Final = "__unnamed__"
"""What a file is called whose URL ends with a slash: BuildKit's name."""
_REDIRECTS: Final = 10
_ALGORITHMS: Final = frozenset({"sha256", "sha384", "sha512"})
_METADATA = ipaddress.ip_address("fd00:ec2::254")
"""Amazon's metadata service; its other address, and everybody else's, is link-local."""


def fetch(source: HttpSource, *, folder: Path | None = None, timeout_s: float = TIMEOUT_S) -> Tree:
    """The file at a URL, alone in a Tree: mode 0600, root's, its mtime the server's Last-Modified, or 0 without one.

    Its content lies in an unnamed file in `folder` (None: the host's temporary folder). BuildError where the server
    can't be reached, answers with another status than 2xx, ends early, or sends what `source.checksum` excludes.
    """
    shown = without_password(source.url)
    try:
        with _open(source.url, timeout_s) as response:
            spool, got = Spool(folder), _digester(source.checksum)
            for chunk in _chunks(response):
                got.update(chunk)
                spool.write(chunk)
    except urllib.error.HTTPError as error:
        with error:
            raise BuildError(f"{shown}: invalid response status {error.code}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        said = reason.strerror if isinstance(reason, OSError) else None
        raise BuildError(f"{shown}: {said or reason or type(reason).__name__}") from None
    digest = f"{got.name}:{got.hexdigest()}"
    if source.checksum and digest != source.checksum:
        raise BuildError(f"{shown}: digest mismatch {digest}: {source.checksum}")
    name = _filename(source, response.headers)
    meta = Meta(mode=0o600, mtime_ns=_last_modified(response.headers))
    file = File(meta=meta, size=spool.size, extents=spool.extents())
    return Directory(meta=Meta(mode=0o755), children={name: file})


def _open(url: str, timeout_s: float) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("not an HTTP URL")
    policy = _Policy()
    policy.check(parts.hostname)
    opener = urllib.request.OpenerDirector()
    handlers = (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(policy),
        _Http(policy),
        _Https(policy),
    )
    for handler in handlers:
        opener.add_handler(handler)
    # As it lies on the server: a compression that only the way there has would change digest and meaning.
    request = urllib.request.Request(  # noqa: S310 - the scheme was looked at above
        _without_user(url), headers={"User-Agent": f"firekiln/{__version__}", "Accept-Encoding": "identity"}
    )
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    response: http.client.HTTPResponse = opener.open(request, timeout=timeout_s)
    return response


class _Policy:
    """Which addresses a request may reach. The host that the Dockerfile names is the user's own choice."""

    def __init__(self) -> None:
        self.redirected = False
        self._named = False

    def check(self, host: str) -> None:
        """For each URL's host, and each address connected to before anything is sent there. ValueError to refuse."""
        local = _is_link_local(host)
        if not self.redirected:
            self._named = self._named or local
        elif local and not self._named:
            raise ValueError(f"refused a redirect to the link-local address {host}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = _REDIRECTS

    def __init__(self, policy: _Policy) -> None:
        self._policy = policy

    def redirect_request(  # noqa: PLR0917 - urllib's signature
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in {"http", "https"}:
            raise ValueError(f"refused a redirect to a {scheme or 'nameless'}: URL")
        self._policy.redirected = True
        self._policy.check(urlsplit(newurl).hostname or "")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Connection(http.client.HTTPConnection):
    def __init__(self, *args: Any, policy: _Policy, **options: Any) -> None:
        super().__init__(*args, **options)
        self._policy = policy

    def connect(self) -> None:
        super().connect()
        self._policy.check(self.sock.getpeername()[0])


class _TlsConnection(http.client.HTTPSConnection):
    def __init__(self, *args: Any, policy: _Policy, **options: Any) -> None:
        super().__init__(*args, **options)
        self._policy = policy

    def connect(self) -> None:
        super().connect()
        self._policy.check(self.sock.getpeername()[0])


class _Http(urllib.request.HTTPHandler):
    def __init__(self, policy: _Policy) -> None:
        super().__init__()
        self._policy = policy

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connection, policy=self._policy), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, policy: _Policy) -> None:
        super().__init__()
        self._policy = policy

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        connection = partial(_TlsConnection, policy=self._policy)
        return self.do_open(connection, req, context=ssl.create_default_context())


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body. http.client takes a connection that closes early for the end of the file: we count."""
    expected = response.headers.get("Content-Length", "")
    received = 0
    while chunk := response.read(CHUNK):
        received += len(chunk)
        yield chunk
    if expected.isdigit() and received != int(expected) and not response.headers.get("Transfer-Encoding"):
        raise ValueError(f"the connection ended after {received} of {expected} bytes")


def _digester(checksum: str | None) -> hashlib._Hash:
    algorithm = (checksum or "sha256:").partition(":")[0]
    if algorithm not in _ALGORITHMS:
        raise ValueError(f"unsupported digest algorithm in {checksum}")
    return hashlib.new(algorithm)


def _filename(source: HttpSource, headers: email.message.Message) -> bytes:
    """A single name: the graph's, else what the response or the URL calls it."""
    try:
        proposed = headers.get_filename("")
    except (ValueError, LookupError):  # a broken charset parameter
        proposed = ""
    for text in (source.filename or "", proposed, unquote(urlsplit(source.url).path)):
        name = posixpath.basename(text).encode(errors="surrogateescape")
        if name not in {b"", b".", b".."} and b"\0" not in name and len(name) <= 255:
            return name
    return UNNAMED.encode()


def _last_modified(headers: email.message.Message) -> int:
    try:
        moment = email.utils.parsedate_to_datetime(headers.get("Last-Modified", ""))
        return int(moment.timestamp()) * 10**9
    except (ValueError, TypeError, OverflowError):
        return 0


def _is_link_local(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return ip.is_link_local or ip == _METADATA


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
