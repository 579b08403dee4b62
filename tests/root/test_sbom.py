"""What is installed in an image, kept with it and pushed, from the command line."""

from __future__ import annotations

import json
import subprocess

import pytest

import firekiln
import isolation
from building import BUSYBOX, Builds, write_base
from firekiln.build.registry import open_repository
from firekiln.oci.attestation import MEDIA_TYPE_STATEMENT
from firekiln.oci.reference import Reference
from firekiln.store import Store, gc
from machines import argv
from registries import docker_registry, get

pytestmark = [
    pytest.mark.root,
    pytest.mark.rootless,
    isolation.needed,
    pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static"),
]

STATUS = "Package: {name}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n"
TEXT = """\
FROM base
COPY <<end /var/lib/dpkg/status
Package: tool
Status: install ok installed
Version: 2
end
"""


@pytest.fixture
def builds(tmp_path):
    made = Builds(tmp_path)
    write_base(tmp_path / "context/base")
    (tmp_path / "context/base/var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "context/base/var/lib/dpkg/status").write_text(STATUS.format(name="old"))
    made.build("FROM scratch\nCOPY base /\n", tags=["base"])
    return made


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def firekiln_says(builds, *words: str, status: int = 0) -> str:
    with Store.open(builds.root) as store:
        command = argv(store, *words)
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def packages(document) -> list[str]:
    return [package["name"] for package in document["packages"][1:]]


@pytest.mark.parametrize("words", [["--sbom"], ["--sbom", "true"], ["--sbom=1"], ["--attest", "type=sbom"]])
def test_a_build_keeps_what_its_uppermost_layers_show_to_be_installed(builds, words):
    (builds.context / "Dockerfile").write_text(TEXT)
    firekiln_says(builds, "build", *words, "-t", "web", str(builds.context))
    (statement,) = json.loads(firekiln_says(builds, "inspect", "--sbom", "web"))
    with Store.open(builds.root) as store:
        image = store.images.get("web")
        assert json.loads(store.blobs.read(image.attestations["sbom"])) == statement
    assert statement["predicateType"] == "https://spdx.dev/Document"
    assert statement["subject"] == [{"name": "web", "digest": {"sha256": image.digest.removeprefix("sha256:")}}]
    assert packages(statement["predicate"]) == ["tool"]


def test_an_unchanged_rebuild_keeps_the_same_list_and_one_that_wants_none_leaves_it(builds):
    first, again = (builds.build(TEXT, tags=["web"], sbom=True) for _ in range(2))
    assert first.image.attestations == again.image.attestations
    assert builds.build(TEXT, tags=["web"]).image.attestations == first.image.attestations
    with Store.open(builds.root) as store:
        gc.collect(store)
        assert store.blobs.find(first.image.attestations["sbom"]) is not None


def test_the_list_is_made_when_it_is_asked_for_where_none_is_kept(builds):
    image = builds.build(TEXT, tags=["web"]).image
    (statement,) = json.loads(firekiln_says(builds, "inspect", "--sbom", "web"))
    assert packages(statement["predicate"]) == ["tool"]
    with Store.open(builds.root) as store:
        assert store.images.get("web").attestations == image.attestations
    assert set(image.attestations) == {"provenance"}


def test_a_list_survives_the_loss_of_the_index_beside_the_provenance(builds):
    image = builds.build(TEXT, tags=["web"], sbom=True).image
    for name in ("index.json", "index.json.copy"):
        (builds.root / name).write_text("garbage")
    with Store.open(builds.root) as store:
        assert store.images.get(image.digest).attestations == image.attestations


def test_sbom_shows_a_table_or_writes_a_document(builds, tmp_path):
    builds.build(TEXT, tags=["web"])
    shown = [row.split() for row in firekiln_says(builds, "sbom", "web").splitlines()]
    assert shown == [["NAME", "VERSION", "TYPE"], ["tool", "2", "deb"]]
    assert packages(json.loads(firekiln_says(builds, "sbom", "--format=spdx-json", "web"))) == ["tool"]
    firekiln_says(builds, "sbom", "--format=cyclonedx-json", "-o", str(tmp_path / "bom.json"), "web")
    assert [item["name"] for item in json.loads((tmp_path / "bom.json").read_text())["components"]] == ["tool"]
    assert "No such image: nothing" in firekiln_says(builds, "sbom", "nothing", status=1)
    assert "a table is for people" in firekiln_says(builds, "sbom", "-o", "x", "web", status=125)


def test_a_database_that_is_not_read_is_a_warning(builds):
    builds.build("FROM base\nRUN mkdir -p /var/lib/rpm && touch /var/lib/rpm/Packages\n", tags=["rpm"], sbom=True)
    note = "/var/lib/rpm/Packages: rpm's database in Berkeley DB's form is not read"
    assert f"sbom: {note}" in [event.message for event in builds.events if type(event).__name__ == "Warned"]
    with Store.open(builds.root) as store:
        command = argv(store, "sbom", "rpm")
    shown = subprocess.run(command, capture_output=True, check=True, text=True)
    assert shown.stderr == f"firekiln: warning: {note}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sbom=generator=example.org/scanner"], "runs no generator's image"),
        (["--sbom=perhaps"], "--sbom perhaps: give true or false"),
        (["--attest", "type=other"], "--attest type=other: give type=provenance or type=sbom"),
        (["--attest", "type=sbom", "--sbom"], "--attest type=sbom: --sbom is given too"),
    ],
)
def test_what_is_no_wish_for_a_list_is_refused(builds, words, said):
    assert said in firekiln_says(builds, "build", *words, str(builds.context), status=125)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "made for the push"])
def test_a_list_travels_to_a_registry_as_what_refers_to_the_image(builds, registry, kept):
    name = f"{registry.host}/kiln/sbom{int(kept)}:1"
    builds.build(TEXT, tags=[name], sbom=kept)
    firekiln_says(builds, "push", "--sbom", "-q", name)
    with open_repository(Reference.parse(name)) as repository:
        pushed = repository.resolve()[0]
        (found,) = repository.referrers(pushed.digest, MEDIA_TYPE_STATEMENT).manifests
    base = f"http://{registry.host}/v2/kiln/sbom{int(kept)}"
    (layer,) = json.loads(get(f"{base}/manifests/{found.digest}"))["layers"]
    assert layer["annotations"] == {"in-toto.io/predicate-type": "https://spdx.dev/Document"}
    said = json.loads(get(f"{base}/blobs/{layer['digest']}"))
    assert said["subject"][0]["digest"] == {"sha256": pushed.digest.removeprefix("sha256:")}
    assert packages(said["predicate"]) == ["tool"]


def test_build_pushes_list_and_provenance_that_were_asked_for(builds, registry):
    (builds.context / "Dockerfile").write_text(TEXT)
    name = f"{registry.host}/kiln/both:1"
    wanted = ["--attest", "type=provenance,mode=min", "--sbom", "true"]
    firekiln_says(builds, "build", *wanted, "--push", "-t", name, str(builds.context))
    with open_repository(Reference.parse(name)) as repository:
        found = repository.referrers(repository.resolve()[0].digest, MEDIA_TYPE_STATEMENT).manifests
    kinds = {item.annotations["in-toto.io/predicate-type"] for item in found}
    assert kinds == {"https://slsa.dev/provenance/v1", "https://spdx.dev/Document"}


def test_the_python_api_gives_the_document(builds):
    builds.build(TEXT, tags=["web"])
    assert packages(json.loads(firekiln.sbom("web", store=builds.root))) == ["tool"]
