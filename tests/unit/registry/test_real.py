"""Against Debian's own docker-registry, with htpasswd and TLS from a test's authority, and beside skopeo."""

import hashlib
import io
import json
import shutil
import subprocess

import pytest

from firekiln.errors import RegistryError
from firekiln.oci.blobsource import read_blob
from firekiln.oci.credentials import Credential, Credentials
from firekiln.oci.manifest import (
    MEDIA_TYPE_CONFIG,
    MEDIA_TYPE_LAYER_TAR,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Manifest,
)
from firekiln.oci.reference import Reference
from firekiln.oci.registry import Limits, Network, RegistrySettings, Repository
from registries import PASSWORD, USER, docker_registry

LAYER = hashlib.shake_256(b"layer").digest(5_000_000)


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("registry"), tls=True, auth=True) as registry:
        yield registry


def describe(media_type, data):
    return Descriptor(media_type=media_type, digest="sha256:" + hashlib.sha256(data).hexdigest(), size=len(data))


def open_at(registry, credentials, name="kiln/app:1", **settings):
    known = {registry.host: RegistrySettings(ca=registry.ca, **settings)}
    network = Network(registries=known, limits=Limits(chunk=1_000_000, attempts=2, backoff=0.01))
    return Repository(Reference.parse(f"{registry.host}/{name}"), network, credentials)


@pytest.fixture
def credentials(secured, tmp_path):
    made = Credentials(tmp_path / "config.json")
    made.put(secured.host, Credential(username=USER, password=PASSWORD))
    return made


def push(repository, layer=LAYER):
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    manifest = Manifest(config=describe(MEDIA_TYPE_CONFIG, config), layers=(describe(MEDIA_TYPE_LAYER_TAR, layer),))
    for data in (config, layer):
        repository.put_blob(describe("", data).digest, len(data), lambda data=data: io.BytesIO(data))
    return repository.put_manifest(manifest.encode(), MEDIA_TYPE_MANIFEST, "1")


def test_what_is_pushed_is_what_is_pulled_and_what_skopeo_sees(secured, credentials):
    with open_at(secured, credentials) as repository:
        digest = push(repository)
        descriptor, data = repository.resolve()
        assert (descriptor.digest, descriptor.media_type) == (digest, MEDIA_TYPE_MANIFEST)
        assert read_blob(repository, Manifest.from_json(json.loads(data)).layers[0], limit=1 << 30) == LAYER
        assert repository.tags() == ["1"]
    if shutil.which("skopeo"):
        argv = ["skopeo", "inspect", "--tls-verify=false", f"--creds={USER}:{PASSWORD}"]
        seen = json.loads(subprocess.check_output([*argv, f"docker://{secured.host}/kiln/app:1"]))
        assert seen["Digest"] == digest
        assert seen["Layers"] == [describe("", LAYER).digest]


def test_a_blob_is_mounted_from_a_neighbour(secured, credentials):
    with open_at(secured, credentials) as first:
        push(first)
    with open_at(secured, credentials, "kiln/neighbour:1") as second:
        digest = describe("", LAYER).digest
        assert not second.put_blob(digest, len(LAYER), lambda: pytest.fail("sent"), mount_from="kiln/app")
        assert second.has_blob(digest)


def test_a_referrer_survives_a_registry_without_their_api(secured, credentials):
    with open_at(secured, credentials) as repository:
        subject = push(repository)
        empty = describe("application/vnd.oci.empty.v1+json", b"{}")
        repository.put_blob(empty.digest, 2, lambda: io.BytesIO(b"{}"))
        artifact = Manifest(
            config=empty,
            layers=(empty,),
            extra={
                "artifactType": "application/x.test",
                "subject": {"mediaType": MEDIA_TYPE_MANIFEST, "digest": subject, "size": 1},
            },
        )
        digest = repository.put_manifest(artifact.encode(), MEDIA_TYPE_MANIFEST)
        assert [item.digest for item in repository.referrers(subject).manifests] == [digest]


def test_a_login_is_checked_and_a_wrong_one_refused(secured, credentials, tmp_path):
    with open_at(secured, credentials) as repository:
        repository.check()
    wrong = Credentials(tmp_path / "wrong.json")
    wrong.put(secured.host, Credential(username=USER, password="nope"))
    for refused in (wrong, Credentials(tmp_path / "none.json")):
        with open_at(secured, refused) as repository, pytest.raises(RegistryError, match="access denied") as caught:
            repository.check()
        assert caught.value.status == 401


def test_a_certificate_of_an_unknown_authority_is_refused_and_says_what_to_do(secured, credentials):
    network = Network(limits=Limits(attempts=2, backoff=0.01))
    with (
        Repository(Reference.parse(f"{secured.host}/kiln/app:1"), network, credentials) as repository,
        pytest.raises(RegistryError, match="not trusted") as caught,
    ):
        repository.resolve()
    assert "ca =" in caught.value.hint


def test_a_registry_of_this_host_may_lack_tls(tmp_path):
    with (
        docker_registry(tmp_path) as plain,
        Repository(Reference.parse(f"{plain.host}/a:1"), Network(), Credentials(tmp_path / "x")) as repository,
    ):
        push(repository)
        assert repository.resolve()[0].media_type == MEDIA_TYPE_MANIFEST
