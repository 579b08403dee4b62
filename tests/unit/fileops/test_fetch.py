"""ADD from a URL, against a server of our own on the loopback."""

from __future__ import annotations

import hashlib
import http.server
import threading

import pytest

from firekiln.build import fetch as fetch_module
from firekiln.build.fetch import fetch
from firekiln.build.graph import HttpSource
from firekiln.errors import BuildError
from httpserver import serve

DATA = b"some bytes\n" * 1000
SHA256 = "sha256:" + hashlib.sha256(DATA).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        answer = getattr(
            self, "get_" + self.path.strip("/").partition("/")[0].partition("?")[0].replace(".", "_"), None
        )
        if answer is None:
            self.send_error(404)
        else:
            answer()

    def send(self, *headers, status=200, data=DATA, length=None):
        self.send_response(status)
        for name, value in (("Content-Length", str(length or len(data))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def get_f_tgz(self):
        self.send(("Last-Modified", "Fri, 13 Feb 2009 23:31:30 GMT"))

    def get_plain(self):
        self.send()

    def get_named(self):
        self.send(("Content-Disposition", 'attachment; filename="../../etc/pass wd"'))

    def get_short(self):
        self.send(length=len(DATA) + 1)
        self.close_connection = True

    def get_slow(self):
        threading.Event().wait(1)

    def get_chunked(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nhello\r\n0\r\n\r\n")

    def get_who(self):
        self.send(data=self.headers.get("Authorization", "").encode() or b"nobody")

    def get_to(self):
        self.send(("Location", self.path.partition("?")[2]), status=302, data=b"")

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def url():
    with serve(Handler) as address:
        yield address


def only(tree):
    [(name, file)] = tree.children.items()
    return name, file


def test_a_file_is_roots_and_private_and_as_old_as_the_server_says(url):
    name, file = only(fetch(HttpSource(url=f"{url}/f.tgz")))
    assert name == b"f.tgz"
    assert (file.meta.mode, file.meta.uid, file.meta.gid) == (0o600, 0, 0)
    assert file.meta.mtime_ns == 1_234_567_890_000_000_000
    assert file.read() == DATA


def test_a_file_of_unknown_age_is_of_1970(url):
    assert only(fetch(HttpSource(url=f"{url}/plain")))[1].meta.mtime_ns == 0


@pytest.mark.parametrize(
    ("path", "filename", "name"),
    [
        ("/plain", None, b"plain"),
        ("/plain", "given", b"given"),
        ("/named", None, b"pass wd"),
        ("/plain/", None, b"__unnamed__"),
        ("/plain/a%20b", None, b"a b"),
        ("/plain/..", None, b"__unnamed__"),
    ],
)
def test_the_name_is_the_graphs_or_the_responses_or_the_urls(url, path, filename, name):
    assert only(fetch(HttpSource(url=url + path, filename=filename)))[0] == name


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_the_right_checksum_is_accepted(url, algorithm):
    checksum = f"{algorithm}:{hashlib.new(algorithm, DATA).hexdigest()}"
    assert only(fetch(HttpSource(url=f"{url}/plain", checksum=checksum)))[1].size == len(DATA)


def test_a_wrong_checksum_is_an_error_with_both_digests(url):
    wrong = "sha256:" + "0" * 64
    with pytest.raises(BuildError, match=f"digest mismatch {SHA256}: {wrong}"):
        fetch(HttpSource(url=f"{url}/plain", checksum=wrong))


def test_an_unknown_algorithm_is_an_error(url):
    with pytest.raises(BuildError, match="unsupported digest algorithm in md5:"):
        fetch(HttpSource(url=f"{url}/plain", checksum="md5:00"))


def test_a_bad_status_is_an_error(url):
    with pytest.raises(BuildError, match="/nope: invalid response status 404"):
        fetch(HttpSource(url=f"{url}/nope"))


def test_a_body_that_ends_early_is_an_error(url):
    with pytest.raises(BuildError, match="the connection ended after 11000 of 11001 bytes"):
        fetch(HttpSource(url=f"{url}/short"))


def test_a_chunked_body_is_read_whole(url):
    assert only(fetch(HttpSource(url=f"{url}/chunked")))[1].read() == b"hello"


def test_a_server_that_stands_still_is_an_error(url):
    with pytest.raises(BuildError, match="timed out"):
        fetch(HttpSource(url=f"{url}/slow"), timeout_s=0.1)


def test_a_server_that_is_not_there_is_an_error():
    with serve(Handler) as gone:
        pass
    with pytest.raises(BuildError, match="Connection refused"):
        fetch(HttpSource(url=f"{gone}/x"))


def test_redirects_are_followed_and_the_first_url_names_the_file(url):
    name, file = only(fetch(HttpSource(url=f"{url}/to?/to?/plain")))
    assert (name, file.read()) == (b"to", DATA)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("file:///etc/passwd", "invalid response status 302"),
        ("ftp://127.0.0.1/x", "refused a redirect to a ftp: URL"),
        ("http://169.254.169.254/latest", "refused a redirect to the link-local address 169.254.169.254"),
        ("http://[fe80::1]/", "refused a redirect to the link-local address fe80::1"),
        ("http://[::ffff:169.254.169.254]/", "refused a redirect to the link-local address"),
    ],
)
def test_a_redirect_to_another_kind_of_place_is_refused(url, target, reason):
    with pytest.raises(BuildError, match=reason.replace("[", "\\[")):
        fetch(HttpSource(url=f"{url}/to?{target}"))


def test_a_redirect_by_a_name_of_a_link_local_address_is_refused(url, monkeypatch):
    # The loopback stands for a link-local address here: what counts is the address connected to, not the name.
    monkeypatch.setattr(fetch_module, "_is_link_local", lambda host: host == "127.0.0.1")
    policy = fetch_module._Policy()
    policy.check("example.org")
    policy.redirected = True
    with pytest.raises(ValueError, match="link-local"):
        policy.check("127.0.0.1")


def test_a_link_local_host_that_the_dockerfile_names_may_redirect_to_itself(url, monkeypatch):
    monkeypatch.setattr(fetch_module, "_is_link_local", lambda host: host == "127.0.0.1")
    assert only(fetch(HttpSource(url=f"{url}/to?/plain")))[1].read() == DATA


def test_redirects_without_end_are_an_error(url):
    loop = "/to?" * 20
    with pytest.raises(BuildError, match="invalid response status 302"):
        fetch(HttpSource(url=f"{url}{loop}/plain"))


def test_a_user_in_the_url_is_sent_to_that_server_only_and_not_shown(url):
    with_user = url.replace("http://", "http://bob:s3cret@")
    assert only(fetch(HttpSource(url=f"{with_user}/who")))[1].read() == b"Basic Ym9iOnMzY3JldA=="
    assert only(fetch(HttpSource(url=f"{with_user}/to?/who")))[1].read() == b"nobody"
    with pytest.raises(BuildError) as error:
        fetch(HttpSource(url=f"{with_user}/nope"))
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "http:///x", "x"])
def test_only_http_is_fetched(url):
    with pytest.raises(BuildError, match="not an HTTP URL"):
        fetch(HttpSource(url=url))


def test_the_spool_leaves_no_file(url, tmp_path):
    tree = fetch(HttpSource(url=f"{url}/plain"), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert only(tree)[1].read() == DATA
