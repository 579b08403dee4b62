"""Whole images from and to a registry: stores on both sides, Debian's docker-registry or a faulty one between."""

import hashlib
import json
import os
import shutil
import subprocess

import pytest

from firekiln.errors import FirekilnError, ImageNotFoundError
from firekiln.oci.credentials import Credentials
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.oci.registry import Network, Repository
from firekiln.rootfs.compare import differences
from firekiln.store import Store
from firekiln.store.transfer import pull, push
from machines import put_image
from registries import docker_registry, get
from trees import CAPABILITY, file, folder, link

AMD64 = Platform.parse("linux/amd64")
BASE = folder(
    {
        b"bin": folder(
            {
                b"app": file(os.urandom(300_000), mode=0o4755, mtime_ns=1_700_000_000_123_456_789),
                b"ping": file(b"x" * 5000, mode=0o755, xattrs=((b"security.capability", CAPABILITY),)),
                b"sh": link(b"app"),
            }
        ),
        b"etc": folder({b"passwd": file(b"root:x:0:0::/:/bin/sh\n")}),
        b"old": folder({b"gone": file(b"1")}),
    }
)


def top():
    from firekiln.rootfs.tree import Whiteout

    return folder({b"old": folder({b"gone": Whiteout()}), b"new": file(b"2", uid=1000, gid=1000)})


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def other(tmp_path):
    with Store.open(tmp_path / "other") as opened:
        yield opened


def repository(registry, name="kiln/app:1"):
    return Repository(Reference.parse(f"{registry.host}/{name}"), Network(), Credentials(os.devnull))


def put(store, registry, name="kiln/app:1"):
    config = {"entrypoint": ("/bin/app",), "user": "1000", "labels": {"a": "b"}}
    return put_image(store, f"{registry.host}/{name}", BASE, top(), **config)


def test_what_is_pushed_here_and_pulled_there_is_the_same_image(registry, store, other):
    image = put(store, registry)
    with repository(registry) as remote:
        pushed = push(store, remote, image)
        pulled = pull(other, remote, AMD64)
    assert pulled.image.digest == image.digest
    assert pulled.digest == pushed.digest
    assert not list(differences(other.layers.merged(pulled.image.layers), store.layers.merged(image.layers)))
    name = f"{registry.host}/kiln/app"
    assert pulled.image.repo_digests == (f"{name}@{pushed.digest}",)
    assert store.images.get(f"{name}@{pushed.digest}").digest == image.digest


def test_a_second_pull_fetches_nothing(registry, store, other):
    image = put(store, registry)
    moved = []
    with repository(registry) as remote:
        push(store, remote, image)
        assert pull(other, remote, AMD64, moved=lambda *event: moved.append(event)).is_new
        assert moved
        moved.clear()
        assert not pull(other, remote, AMD64, moved=lambda *event: moved.append(event)).is_new
    assert not moved


def test_a_second_push_sends_no_layer_and_makes_none(registry, store, monkeypatch):
    image = put(store, registry)
    with repository(registry) as remote:
        first = push(store, remote, image)
        monkeypatch.setattr("firekiln.store.transfer.make_layer", lambda *_: pytest.fail("a tar was made again"))
        assert push(store, remote, image) == first


def test_a_push_to_a_neighbour_mounts(registry, store):
    image = put(store, registry)
    with repository(registry) as remote:
        push(store, remote, image)
    moved = []
    store.images.tag(image.digest, f"{registry.host}/kiln/neighbour:2")
    with repository(registry, "kiln/neighbour:2") as remote:
        push(store, remote, store.images.get(image.digest), moved=lambda *event: moved.append(event))
    assert not moved


def test_two_stores_push_the_same_bytes(registry, store, other):
    digests = set()
    for here in (store, other):
        image = put(here, registry, "kiln/twice:1")
        with repository(registry, "kiln/twice:1") as remote:
            digests.add(push(here, remote, image).digest)
    assert len(digests) == 1


@pytest.mark.skipif(not shutil.which("skopeo"), reason="needs skopeo")
def test_skopeo_copies_what_we_pushed_and_we_pull_what_it_copied(registry, store, other, tmp_path):
    image = put(store, registry)
    with repository(registry) as remote:
        pushed = push(store, remote, image)
    layout = tmp_path / "layout"
    name = f"docker://{registry.host}/kiln/app:1"
    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests"]
    subprocess.run([*copy, name, f"oci:{layout}:1"], check=True)
    found = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    assert found == pushed.digest
    subprocess.run([*copy, f"oci:{layout}:1", f"docker://{registry.host}/from/skopeo:1"], check=True)
    with repository(registry, "from/skopeo:1") as remote:
        pulled = pull(other, remote, AMD64)
    assert (pulled.digest, pulled.image.digest) == (pushed.digest, image.digest)


def test_an_index_gives_the_platforms_image_and_its_own_digest_is_pinned(registry, store, other):
    image = put(store, registry)
    with repository(registry, "kiln/many:arm") as remote:
        pushed = push(store, remote, image)
        manifest = remote.resolve()[0]
        entries = [
            {**manifest.to_json(), "platform": {"os": "linux", "architecture": "amd64"}},
            {**manifest.to_json(), "platform": {"os": "unknown", "architecture": "unknown"}},
        ]
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
        data = json.dumps(index).encode()
        digest = remote.put_manifest(data, index["mediaType"], "1")
    assert digest != pushed.digest
    with repository(registry, "kiln/many:1") as remote:
        assert pull(other, remote, AMD64).digest == digest
        with pytest.raises(ImageNotFoundError, match="linux/arm64"):
            pull(other, remote, Platform.parse("linux/arm64"))
    with repository(registry, f"kiln/many@{digest}") as remote:
        assert pull(other, remote, AMD64).digest == digest


def test_a_failed_pull_leaves_nothing(faulty, store, other, connect):
    """A layer whose bytes are wrong, at each place of the image."""
    image = put_image(store, f"{faulty.host}/kiln/app:1", BASE, top(), folder({b"third": file(b"3")}))
    remote = connect(faulty.host)
    push(store, remote, image)
    manifest = json.loads(faulty.manifests["1"][1])
    for layer in (*manifest["layers"], manifest["config"]):
        good = faulty.blobs[layer["digest"]]
        faulty.blobs[layer["digest"]] = good[:-1] + bytes([good[-1] ^ 1])
        with pytest.raises(FirekilnError):
            pull(other, remote, AMD64)
        assert other.images.list() == []
        assert [path.name for path in other.temporary.folder.iterdir() if path.name != "lease"] == []
        faulty.blobs[layer["digest"]] = good
    assert pull(other, remote, AMD64).image.digest == image.digest


def test_a_layer_that_comes_wrong_once_is_asked_for_again(faulty, store, other, connect):
    image = put_image(store, f"{faulty.host}/kiln/app:1", BASE)
    remote = connect(faulty.host)
    push(store, remote, image)
    layer = json.loads(faulty.manifests["1"][1])["layers"][0]
    good = faulty.blobs[layer["digest"]]
    wrong = bytes(len(good))
    faulty.fault(layer["digest"], lambda handler: handler.answer(200, wrong))
    assert pull(other, remote, AMD64).image.digest == image.digest


def test_what_lies_in_the_registry_is_what_its_digest_says(registry, store):
    image = put(store, registry)
    with repository(registry) as remote:
        digest = push(store, remote, image).digest
    base = f"http://{registry.host}/v2/kiln/app"
    manifest = get(f"{base}/manifests/{digest}")
    assert f"sha256:{hashlib.sha256(manifest).hexdigest()}" == digest
    for blob in (json.loads(manifest)["config"], *json.loads(manifest)["layers"]):
        data = get(f"{base}/blobs/{blob['digest']}")
        assert (f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)) == (blob["digest"], blob["size"])
    assert json.loads(get(f"{base}/blobs/{json.loads(manifest)['config']['digest']}"))["config"]["User"] == "1000"
