"""Writing to a registry that misbehaves: the blob arrives, or an error says why it could not."""

import hashlib
import io
import json

import pytest

from firekiln.errors import RegistryError
from firekiln.oci.manifest import MEDIA_TYPE_MANIFEST
from registries import faulty_registry

DATA = hashlib.shake_256(b"upload").digest(350_000)
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


def push(repository, data=DATA, digest=DIGEST):
    moved = []
    sent = repository.put_blob(digest, len(data), lambda: io.BytesIO(data), moved=moved.append)
    return sent, sum(moved)


def cut_in_a_chunk(handler):
    """Reads a part of the chunk, and hangs up; the session is gone, as with distribution 2.8."""
    handler.rfile.read(1000)
    handler.registry.uploads.clear()
    handler.close_connection = True
    handler.connection.close()


def cut_between(handler):
    """Takes the whole chunk, and hangs up before the answer."""
    handler.registry.uploads[handler.path.rpartition("/")[2]] += handler.body()
    handler.close_connection = True
    handler.connection.close()


def status(code):
    def answer(handler):
        handler.body()
        handler.error(code, "TROUBLE")

    return answer


def test_a_blob_goes_in_chunks_and_what_moved_is_told(faulty, connect):
    assert push(connect(faulty.host)) == (True, len(DATA))
    assert faulty.blobs[DIGEST] == DATA
    ranges = [headers["Content-Range"] for method, _, headers in faulty.seen if method == "PATCH"]
    assert ranges == ["0-99999", "100000-199999", "200000-299999", "300000-349999"]


def test_a_blob_that_is_there_is_not_sent(faulty, connect):
    faulty.blob(DATA)
    assert push(connect(faulty.host)) == (False, 0)
    assert [method for method, _, _ in faulty.seen] == ["HEAD"]


def test_an_empty_blob_can_be_pushed(faulty, connect):
    empty = "sha256:" + hashlib.sha256(b"").hexdigest()
    assert push(connect(faulty.host), b"", empty) == (True, 0)
    assert faulty.blobs[empty] == b""


def test_a_blob_is_mounted_where_the_registry_can(faulty, connect):
    faulty.fault("/blobs/uploads/", lambda handler: handler.answer(201), method="POST")
    sent = connect(faulty.host).put_blob(DIGEST, 1, lambda: pytest.fail("nothing is read"), mount_from="kiln/other")
    assert not sent
    assert f"mount={DIGEST.replace(':', '%3A')}&from=kiln%2Fother" in faulty.seen[-1][1]


@pytest.mark.parametrize("break_", [cut_in_a_chunk, cut_between, status(500), status(429), status(404), status(416)])
@pytest.mark.parametrize("times", [1, 2])
def test_a_session_that_breaks_is_taken_up_or_begun_anew(faulty, connect, break_, times):
    faulty.fault("/blobs/uploads/", break_, times=times, method="PATCH")
    assert push(connect(faulty.host)) == (True, len(DATA))
    assert faulty.blobs[DIGEST] == DATA


def test_a_whole_chunk_that_arrived_is_not_sent_again(faulty, connect):
    faulty.fault("/blobs/uploads/", cut_between, method="PATCH")
    push(connect(faulty.host))
    assert len([1 for method, _, _ in faulty.seen if method == "PATCH"]) == 4
    assert faulty.count["sessions"] == 1


@pytest.mark.parametrize("break_", [status(404), status(502)])
def test_a_session_that_is_lost_at_its_end_is_begun_anew(faulty, connect, break_):
    faulty.fault("/blobs/uploads/", break_, method="PUT")
    assert push(connect(faulty.host)) == (True, len(DATA))
    assert faulty.blobs[DIGEST] == DATA


def test_a_registry_that_never_takes_it_is_given_up(faulty, connect):
    faulty.fault("/blobs/uploads/", cut_in_a_chunk, times=1000, method="PATCH")
    with pytest.raises(RegistryError, match="push of blob"):
        push(connect(faulty.host))
    assert faulty.count["sessions"] <= 3


def test_content_of_another_digest_is_the_registrys_refusal(faulty, connect):
    with pytest.raises(RegistryError, match="digest_invalid"):
        push(connect(faulty.host), DATA[:-1] + b"x")


@pytest.mark.parametrize("location", ["file:///tmp/x", "gopher://x/"])
def test_an_upload_to_nowhere_is_refused(faulty, connect, location):
    faulty.fault("/blobs/uploads/", lambda handler: handler.answer(202, Location=location), method="POST")
    with pytest.raises(RegistryError, match="refused to upload"):
        push(connect(faulty.host))


def test_an_upload_to_another_host_carries_no_credentials(faulty, connect, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"auths": {faulty.host: {"username": "a", "password": "b"}}}))
    faulty.requires = "Basic YTpi"
    faulty.fault("/blobs/", lambda handler: handler.error(401, "X", WWW_Authenticate='Basic realm="x"'))
    with faulty_registry() as other:
        other.uploads["s"] = bytearray()
        target = f"http://{other.host}/v2/x/blobs/uploads/s"
        faulty.fault("/blobs/uploads/", lambda handler: handler.answer(202, Location=target), method="POST")
        assert push(connect(faulty.host)) == (True, len(DATA))
        assert other.blobs[DIGEST] == DATA
        assert not [headers for _, _, headers in other.seen if "Authorization" in headers]


def test_a_referrer_is_found_by_the_tag_where_the_registry_keeps_none(faulty, connect):
    repository = connect(faulty.host)
    subject = "sha256:" + "1" * 64
    made = []
    for number in range(2):
        document = {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE_MANIFEST,
            "artifactType": f"application/x.test{number}",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": DIGEST, "size": 2},
            "layers": [],
            "subject": {"mediaType": MEDIA_TYPE_MANIFEST, "digest": subject, "size": 1},
        }
        made.append(repository.put_manifest(json.dumps(document).encode(), MEDIA_TYPE_MANIFEST))
    assert {item.digest for item in repository.referrers(subject).manifests} == set(made)
    assert [item.digest for item in repository.referrers(subject, "application/x.test1").manifests] == made[1:]
    assert f"sha256-{'1' * 64}" in faulty.manifests
