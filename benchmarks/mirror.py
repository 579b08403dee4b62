"""A caching mirror on 127.0.0.1: Debian's archive as an HTTP proxy has it, PyPI under an address of its own.

Every builder downloads from here, so that all have the same network: what was fetched once comes from memory. PyPI is
served without TLS (`index_url`), as no builder's containers know the certificates of a host whose network breaks TLS
open; where files lie is rewritten in its pages. Nothing is checked here: apt and pip do that.
"""

import contextlib
import http.client
import http.server
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus

PYPI = "https://pypi.org"
FILES = "https://files.pythonhosted.org"
SECONDS = 120
KEPT = ("Content-Type", "Last-Modified", "ETag")


class Mirror(http.server.ThreadingHTTPServer):
    """`proxy` is what `http_proxy` is to be; `index_url` what PIP_INDEX_URL is."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.proxy = f"http://127.0.0.1:{self.server_port}"
        self.index_url = f"{self.proxy}/simple/"
        self._cache: dict[tuple[str, str], tuple[int, list[tuple[str, str]], bytes]] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._guard = threading.Lock()

    def answer(self, url: str, accept: str) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body; each address is fetched once, by whoever comes first."""
        key = (url, accept if "/simple/" in url else "")
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._cache:
                self._cache[key] = self._fetch(url, accept)
            return self._cache[key]

    def _fetch(self, url: str, accept: str) -> tuple[int, list[tuple[str, str]], bytes]:
        request = urllib.request.Request(url, headers={"Accept": accept or "*/*", "User-Agent": "firekiln-benchmark"})
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                body = response.read()
                headers = [(name, response.headers[name]) for name in KEPT if response.headers[name]]
        except urllib.error.HTTPError as error:
            return error.code, [], error.read()
        except (OSError, http.client.HTTPException) as error:
            return HTTPStatus.BAD_GATEWAY, [], str(error).encode()
        if url.startswith(PYPI):
            body = body.replace(FILES.encode(), self.proxy.encode() + b"/files")
        return HTTPStatus.OK, headers, body


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """Else the end of an answer waits 40 ms for the client's delayed acknowledgement of its beginning."""
    server: Mirror

    def do_GET(self) -> None:
        status, headers, body = self.server.answer(self._upstream(), self.headers.get("Accept", ""))
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and status == HTTPStatus.OK and 0 < int(asked[1]) < len(body):
            start = int(asked[1])
            status = HTTPStatus.PARTIAL_CONTENT
            headers = [*headers, ("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")]
            body = body[start:]
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):  # apt hangs up on what it has got
                self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def _upstream(self) -> str:
        """As a proxy we are asked for whole addresses, as an index for paths."""
        if self.path.startswith("/simple/"):
            return PYPI + self.path
        if self.path.startswith("/files/"):
            return FILES + self.path.removeprefix("/files")
        return self.path

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Mirror]:
    with Mirror() as mirror:
        thread = threading.Thread(target=mirror.serve_forever, daemon=True)
        thread.start()
        try:
            yield mirror
        finally:
            mirror.shutdown()
            thread.join()
