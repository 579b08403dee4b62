"""Reading from a registry that misbehaves: each fault ends in the right bytes or in an error, soon."""

import hashlib
import json
import time

import pytest

from firekiln.errors import FirekilnError, ImageFormatError, ImageNotFoundError, RegistryError
from firekiln.oci.blobsource import read_blob
from firekiln.oci.manifest import MEDIA_TYPE_INDEX, MEDIA_TYPE_LAYER_TAR, MEDIA_TYPE_MANIFEST, Descriptor
from registries import faulty_registry

DATA = hashlib.shake_256(b"kiln").digest(3_000_000)


def blob(registry, data=DATA):
    return Descriptor(media_type=MEDIA_TYPE_LAYER_TAR, digest=registry.blob(data), size=len(data))


def cut(after):
    """Answers with a right length and fewer bytes, and hangs up."""

    def answer(handler):
        start = int(handler.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        handler.send_header("Content-Length", str(len(DATA) - start))
        handler.end_headers()
        handler.wfile.write(DATA[start : start + after])
        handler.close_connection = True
        handler.connection.close()

    return answer


def clean_end(data):
    return lambda handler: handler.answer(200, data)


def dripping(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(DATA)))
    handler.end_headers()
    for number in range(200):
        handler.wfile.write(DATA[number : number + 1])
        handler.wfile.flush()
        time.sleep(0.05)


def hanging(handler):
    time.sleep(3)
    handler.close_connection = True


def endless_head(handler):
    for _ in range(100):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n"[:1])
        handler.wfile.flush()
        time.sleep(0.05)


def status(code, **headers):
    return lambda handler: handler.error(code, "TROUBLE", **headers)


def redirect(target):
    return lambda handler: handler.answer(307, Location=target)


def test_a_blob_arrives_as_it_is(faulty, connect):
    assert read_blob(connect(faulty.host), blob(faulty)) == DATA


def test_a_connection_that_is_cut_is_taken_up_where_it_ended(faulty, connect):
    descriptor = blob(faulty)
    faulty.fault("/blobs/", cut(1_100_000), times=2)
    assert read_blob(connect(faulty.host), descriptor) == DATA
    assert [headers.get("Range") for headers in faulty.headers("/blobs/")] == [None, "bytes=1100000-", "bytes=2200000-"]


def test_a_server_that_knows_no_ranges_sends_all_again_and_that_is_skipped(faulty, connect):
    descriptor = blob(faulty)
    faulty.fault("/blobs/", cut(1_100_000))
    faulty.fault("/blobs/", clean_end(DATA))
    assert read_blob(connect(faulty.host), descriptor) == DATA


def test_a_clean_end_that_comes_too_early_is_not_believed(faulty, connect):
    descriptor = blob(faulty)
    faulty.fault("/blobs/", clean_end(DATA[:1000]), times=1)
    assert read_blob(connect(faulty.host), descriptor) == DATA
    faulty.fault("/blobs/", clean_end(DATA[:1000]), times=100)
    with pytest.raises(RegistryError, match="ended after"):
        read_blob(connect(faulty.host), descriptor)


@pytest.mark.parametrize("wrong", [DATA[:-1] + b"x", b"x" * len(DATA)])
def test_wrong_content_is_refused(faulty, connect, wrong):
    descriptor = blob(faulty)
    faulty.fault("/blobs/", clean_end(wrong), times=100)
    with pytest.raises(ImageFormatError, match="damaged"):
        read_blob(connect(faulty.host), descriptor)


def test_more_content_than_was_said_is_refused(faulty, connect):
    descriptor = blob(faulty)
    faulty.fault("/blobs/", clean_end(DATA + b"x"), times=100)
    with pytest.raises(ImageFormatError, match="larger than"):
        read_blob(connect(faulty.host), descriptor)


def test_a_rest_that_does_not_fit_is_refused(faulty, connect):
    descriptor = blob(faulty)
    faulty.fault("/blobs/", cut(1_100_000))
    faulty.fault("/blobs/", lambda handler: handler.answer(206, DATA[5:], Content_Range="bytes 5-2999999/3000000"))
    with pytest.raises(RegistryError, match="another part"):
        read_blob(connect(faulty.host), descriptor)


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_passing_trouble_passes(faulty, connect, code):
    descriptor = blob(faulty)
    faulty.fault("/blobs/", status(code), times=2)
    assert read_blob(connect(faulty.host), descriptor) == DATA


def test_a_lasting_trouble_ends_in_an_error_that_names_it(faulty, connect):
    descriptor = blob(faulty)
    faulty.fault("/blobs/", status(503), times=100)
    with pytest.raises(RegistryError, match="HTTP 503") as caught:
        read_blob(connect(faulty.host), descriptor)
    assert caught.value.status == 503
    assert len(faulty.seen) == 3


def test_retry_after_is_obeyed(faulty, connect):
    descriptor = blob(faulty)
    faulty.fault("/blobs/", status(429, Retry_After="1"))
    before = time.monotonic()
    assert read_blob(connect(faulty.host), descriptor) == DATA
    assert time.monotonic() - before >= 1


def test_a_retry_after_of_an_hour_is_an_error_that_says_so(faulty, connect):
    descriptor = blob(faulty)
    faulty.fault("/blobs/", status(429, Retry_After="3600"), times=100)
    with pytest.raises(RegistryError, match="come back in 3600 s"):
        read_blob(connect(faulty.host), descriptor)
    assert len(faulty.seen) == 1


@pytest.mark.parametrize(
    ("fault", "words"), [(dripping, "too slow"), (hanging, "no answer"), (endless_head, "no answer")]
)
def test_a_server_that_keeps_one_waiting_is_given_up(faulty, connect, fault, words):
    descriptor = blob(faulty)
    faulty.fault("/blobs/", fault, times=100)
    before = time.monotonic()
    with pytest.raises(RegistryError, match=words):
        read_blob(connect(faulty.host), descriptor)
    assert time.monotonic() - before < 10


def test_a_server_that_is_not_there_is_an_error(connect):
    with pytest.raises(RegistryError, match="refused"):
        connect("127.0.0.1:1").resolve()


def test_a_missing_manifest_is_an_image_that_is_not_found(faulty, connect):
    with pytest.raises(ImageNotFoundError, match="manifest unknown"):
        connect(faulty.host).resolve()


def test_a_manifest_asked_for_by_digest_is_compared(faulty, connect):
    digest = "sha256:" + "0" * 64
    faulty.manifests[digest] = (MEDIA_TYPE_MANIFEST, b"{}")
    with pytest.raises(ImageFormatError, match="with digest"):
        connect(faulty.host).resolve(digest)


def test_a_huge_manifest_is_refused_early(faulty, connect):
    faulty.manifests["1"] = (MEDIA_TYPE_MANIFEST, b" " * (5 << 20))
    with pytest.raises(RegistryError, match="longer than"):
        connect(faulty.host).resolve()


def test_an_image_of_schema_1_is_refused(faulty, connect):
    faulty.manifests["1"] = ("application/vnd.docker.distribution.manifest.v1+prettyjws", b'{"schemaVersion": 1}')
    with pytest.raises(ImageFormatError, match="schema 1"):
        connect(faulty.host).resolve()


def test_a_foreign_layer_is_refused_and_its_address_not_asked(faulty, connect):
    digest = "sha256:" + "0" * 64
    descriptor = Descriptor(
        media_type=MEDIA_TYPE_LAYER_TAR, digest=digest, size=1, extra={"urls": [f"http://{faulty.host}/x"]}
    )
    with pytest.raises(ImageFormatError, match="foreign layer"):
        read_blob(connect(faulty.host), descriptor)
    assert faulty.seen == []


def test_a_redirect_to_another_host_is_followed_without_credentials(faulty, connect, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"auths": {faulty.host: {"username": "a", "password": "b"}}}))
    faulty.requires = "Bearer t"
    faulty.fault("/token", lambda handler: handler.answer(200, b'{"token": "t"}'), times=10)
    descriptor = blob(faulty)
    with faulty_registry() as other:
        other.blob(DATA)
        target = f"http://localhost:{other.host.partition(':')[2]}/v2/x/blobs/{descriptor.digest}"
        faulty.fault("/blobs/", status(401, WWW_Authenticate=f'Bearer realm="http://{faulty.host}/token"'))
        faulty.fault("/blobs/", redirect(target))
        assert read_blob(connect(faulty.host), descriptor) == DATA
        assert [headers.get("Authorization") for headers in other.headers("/blobs/")] == [None]
    assert faulty.headers("/blobs/")[-1]["Authorization"] == "Bearer t"
    assert "Basic" in faulty.headers("/token")[0]["Authorization"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("file:///etc/passwd", "file: URL"),
        ("ftp://x/y", "ftp: URL"),
        ("http://169.254.169.254/latest/meta-data", "link-local"),
    ],
)
def test_a_redirect_to_where_none_should_lead_is_refused(faulty, connect, target, words):
    descriptor = blob(faulty)
    faulty.fault("/blobs/", redirect(target), times=100)
    with pytest.raises(RegistryError, match=words):
        read_blob(connect(faulty.host), descriptor)


def test_redirects_in_a_circle_end(faulty, connect):
    descriptor = blob(faulty)
    faulty.fault("/blobs/", redirect(f"/v2/kiln/app/blobs/{descriptor.digest}"), times=100)
    with pytest.raises(RegistryError, match="redirects"):
        read_blob(connect(faulty.host), descriptor)


def test_a_token_that_ends_in_the_middle_is_renewed_once(faulty, connect):
    tokens = iter(["old", "new"])
    faulty.fault("/token", lambda handler: handler.answer(200, json.dumps({"token": next(tokens)}).encode()), times=2)
    faulty.requires = "Bearer old"
    first, second = blob(faulty), blob(faulty, b"second")
    repository = connect(faulty.host)
    assert read_blob(repository, first) == DATA
    faulty.requires = "Bearer new"
    assert read_blob(repository, second) == b"second"
    assert len(faulty.headers("/token")) == 2


def test_credentials_that_are_refused_do_not_loop(faulty, connect):
    faulty.requires = "Bearer never"
    faulty.fault("/token", lambda handler: handler.answer(200, b'{"token": "t"}'), times=100)
    with pytest.raises(RegistryError, match="access denied") as caught:
        connect(faulty.host).resolve()
    assert "login" in caught.value.hint
    assert len(faulty.headers("/token")) <= 2


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"token": 5}', b'{"token": "a\\nb"}', b'{"token": "t", "expires_in": "x"}']
)
def test_a_token_service_that_talks_nonsense_is_an_error(faulty, connect, answer):
    faulty.requires = "Bearer t"
    faulty.fault("/token", lambda handler: handler.answer(200, answer), times=100)
    with pytest.raises(RegistryError, match="no token"):
        connect(faulty.host).resolve()


def test_pages_of_tags_are_joined_and_do_not_go_on_for_ever(faulty, connect):
    def page(handler):
        last = int(handler.path.partition("last=")[2] or 0)
        link = f'</v2/kiln/app/tags/list?n=1000&last={last + 1}>; rel="next"' if last < limit else ""
        handler.answer(200, json.dumps({"tags": [f"t{last}"]}).encode(), **({"Link": link} if link else {}))

    limit = 2
    faulty.fault("/tags/", page, times=10_000)
    assert connect(faulty.host).tags() == ["t0", "t1", "t2"]
    limit = 10_000
    with pytest.raises(RegistryError, match="pages"):
        connect(faulty.host).tags()


def test_a_mirror_is_asked_first_and_the_registry_where_it_fails(faulty, connect):
    with faulty_registry() as mirror:
        descriptor = blob(faulty)
        mirror.manifests["1"] = (MEDIA_TYPE_INDEX, b'{"manifests": []}')
        repository = connect(faulty.host, mirrors=(f"http://{mirror.host}",))
        assert repository.resolve()[0].media_type == MEDIA_TYPE_INDEX
        assert faulty.seen == []
        assert read_blob(repository, descriptor) == DATA
        assert len(mirror.headers("/blobs/")) == 1


def test_every_failure_is_one_of_ours(faulty, connect):
    """Whatever bytes a server sends in place of HTTP."""
    descriptor = blob(faulty)

    def noise(handler):
        handler.wfile.write(hashlib.shake_256(bytes([number])).digest(200))
        handler.close_connection = True

    faulty.fault("/blobs/", noise, times=10_000)
    for number in range(50):  # noqa: B007 - what the noise is made of
        with pytest.raises(FirekilnError):
            read_blob(connect(faulty.host), descriptor)
