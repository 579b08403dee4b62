"""Registries for tests: Debian's `docker-registry` itself, with htpasswd and TLS, and one that misbehaves."""

import contextlib
import hashlib
import json
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

USER, PASSWORD = "kiln", "s3cret-of-the-kiln"
CONFIG = """\
version: 0.1
storage:
  filesystem: {{rootdirectory: {folder}/data}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}
{tls}{auth}"""


@dataclass(frozen=True)
class Registry:
    """A running one. `host` is `127.0.0.1:PORT`; `ca` signs its certificate, if it has one."""

    host: str
    ca: Path | None = None


@contextlib.contextmanager
def docker_registry(folder: Path, *, tls: bool = False, auth: bool = False) -> Iterator[Registry]:
    """Debian's registry on a free port, its data in `folder`."""
    program = shutil.which("docker-registry") or pytest.skip("needs docker-registry")
    port = free_port()
    ca = certificates(folder) if tls else None
    files = f"  tls: {{certificate: {folder}/server.pem, key: {folder}/server.key}}\n" if tls else ""
    wanted = f"auth:\n  htpasswd: {{realm: kiln, path: {folder}/htpasswd}}\n" if auth else ""
    if auth:
        if not shutil.which("htpasswd"):
            pytest.skip("needs htpasswd, of apache2-utils")
        argv = ["htpasswd", "-Bbn", USER, PASSWORD]
        (folder / "htpasswd").write_bytes(subprocess.run(argv, check=True, capture_output=True).stdout)
    (folder / "config.yml").write_text(CONFIG.format(folder=folder, port=port, tls=files, auth=wanted))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        wait_for(port, process)
        yield Registry(host=f"127.0.0.1:{port}", ca=ca)
    finally:
        process.kill()
        process.wait()


def certificates(folder: Path) -> Path:
    """An authority and, signed by it, a certificate for 127.0.0.1 and localhost; returns the authority's."""
    run = lambda *argv: subprocess.run(["openssl", *argv], cwd=folder, check=True, capture_output=True)  # noqa: E731 - short
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    run("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=a test's authority")
    run("req", *new[:-2], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    run("x509", "-req", "-in", "server.csr", "-out", "server.pem", *signing)
    return folder / "ca.pem"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen) -> None:
    for _ in range(200):
        assert process.poll() is None, "the registry ended at once"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("the registry does not listen")


@dataclass
class Faulty:
    """A registry in memory that does what a test tells it to. `faults` maps a word of a request's path to a function
    that answers in the registry's place, given the handler, as often as its number says; `seen` holds all requests.
    """

    host: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    faults: list[list] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    count: Counter = field(default_factory=Counter)
    requires: str = ""

    def blob(self, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def fault(self, word: str, answer: Callable, times: int = 1, method: str = "") -> None:
        self.faults.append([word, method, answer, times])

    def headers(self, word: str) -> list[dict[str, str]]:
        return [headers for _, path, headers in self.seen if word in path]


@contextlib.contextmanager
def faulty_registry(tls: tuple[Path, Path] | None = None) -> Iterator[Faulty]:
    state = Faulty()

    class Handler(_Handler):
        registry = state

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        state.host = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    registry: Faulty
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes, and the second would wait 40 ms

    def handle(self):
        with contextlib.suppress(ConnectionError, socketserver.socket.timeout):
            super().handle()

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers and "Transfer_Encoding" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status, code, **headers):
        self.answer(status, json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode(), **headers)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _do(self):
        state = self.registry
        state.seen.append((self.command, self.path, dict(self.headers)))
        for entry in state.faults:
            word, method, answer, times = entry
            if word in self.path and method in ("", self.command) and times:
                entry[3] -= 1
                return answer(self)
        if state.requires and self.headers.get("Authorization") != state.requires:
            realm = f'Bearer realm="http://{state.host}/token",service="kiln",scope="x"'
            self.body()
            return self.error(401, "UNAUTHORIZED", WWW_Authenticate=realm)
        return self._route(state)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _do  # noqa: N815 - http.server's names

    def _route(self, state):
        path = self.path.partition("?")[0]
        if path == "/v2/":
            return self.answer(200)
        if "/blobs/uploads/" in path:
            return self._upload(state, path)
        if "/blobs/" in path:
            return self._blob(state, path.rpartition("/")[2])
        if "/manifests/" in path:
            return self._manifest(state, path.rpartition("/")[2])
        return self.error(404, "NOT_FOUND")

    def _blob(self, state, digest):
        data = state.blobs.get(digest)
        if data is None:
            return self.error(404, "BLOB_UNKNOWN")
        start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        if start:
            where = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.answer(206, data[start:], Content_Range=where)
        return self.answer(200, data)

    def _manifest(self, state, name):
        if self.command == "PUT":
            data = self.body()
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            for key in (name, digest):
                state.manifests[key] = (self.headers["Content-Type"], data)
            return self.answer(201)
        if name not in state.manifests:
            return self.error(404, "MANIFEST_UNKNOWN")
        kind, data = state.manifests[name]
        return self.answer(200, data, Content_Type=kind)

    def _upload(self, state, path):
        session = path.rpartition("/")[2]
        if self.command == "POST":
            state.count["sessions"] += 1
            name = f"s{state.count['sessions']}"
            state.uploads[name] = bytearray()
            return self.answer(202, Location=f"{path}{name}")
        data = self.body()
        if session not in state.uploads:
            return self.error(404, "BLOB_UPLOAD_UNKNOWN")
        held = state.uploads[session]
        held += data
        last = f"0-{max(len(held) - 1, 0)}"
        if self.command == "PATCH":
            return self.answer(202, Location=path, Range=last)
        if self.command == "GET":
            return self.answer(204, Location=path, Range=last)
        digest = self.path.partition("digest=")[2].replace("%3A", ":")
        if state.blob(bytes(held)) != digest:
            return self.error(400, "DIGEST_INVALID")
        return self.answer(201)


def get(url: str) -> bytes:
    """What stands at a URL of a registry without authentication."""
    request = urllib.request.Request(url, headers={"Accept": "application/vnd.oci.image.manifest.v1+json, */*"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()
