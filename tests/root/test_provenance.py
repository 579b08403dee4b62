"""What is kept with an image on how it came about: an in-toto statement with SLSA's predicate."""

from __future__ import annotations

import hashlib
import json
import subprocess
from urllib.parse import urlencode

import pytest

import firekiln
import isolation
from building import BUSYBOX, Builds, write_base
from firekiln.build.registry import open_repository
from firekiln.errors import ImageNotFoundError
from firekiln.oci.attestation import MEDIA_TYPE_STATEMENT
from firekiln.oci.platform import Platform
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

TEXT = """\
FROM base AS tool
ARG GREETING=hello
RUN echo $GREETING > /greeting
FROM base
COPY --from=tool /greeting /greeting
COPY files/a files/b /copied/
ENV A=1
RUN --mount=type=secret,id=word true && \\
    touch /last
RUN true
"""


@pytest.fixture
def builds(tmp_path):
    made = Builds(tmp_path)
    write_base(tmp_path / "context/base")
    made.build("FROM scratch\nCOPY base /\n", tags=["base"])
    for name in "ab":
        (made.context / "files").mkdir(exist_ok=True)
        (made.context / "files" / name).write_text(name)
    return made


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def statement(builds, image):
    with Store.open(builds.root) as store:
        return json.loads(store.blobs.read(store.images.get(image.digest).attestations["provenance"]))


def predicate(builds, image):
    return statement(builds, image)["predicate"]


def test_provenance_names_the_dockerfile_the_arguments_the_bases_and_what_was_read_of_the_context(builds):
    image = builds.build(
        TEXT,
        tags=["web"],
        build_args={"GREETING": "hi", "HTTPS_PROXY": "http://me:password@proxy"},
        labels={"b": "2"},
        secrets={"word": b"do not tell"},
    )
    said = statement(builds, image)
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == "https://slsa.dev/provenance/v1"
    assert said["subject"] == [{"name": "web", "digest": {"sha256": image.digest.removeprefix("sha256:")}}]
    definition = said["predicate"]["buildDefinition"]
    text = hashlib.sha256(TEXT.encode()).hexdigest()
    external = definition["externalParameters"]
    assert external["configSource"] == {"path": "Dockerfile", "digest": {"sha256": text}}
    assert external["request"] == {
        "frontend": "dockerfile.v0",
        "args": {"build-arg:GREETING": "hi", "label:b": "2"},
        "locals": [{"name": "context"}],
        "secrets": [{"id": "word"}],
    }
    images, contexts = definition["resolvedDependencies"]
    with Store.open(builds.root) as store:
        base = store.images.get("base").digest
    assert images == {
        "uri": f"pkg:docker/base@latest?{urlencode({'platform': str(Platform.host())})}",
        "digest": {"sha256": base.removeprefix("sha256:")},
    }
    assert contexts["name"] == "context"
    assert [part["path"] for part in contexts["annotations"]["read"]] == ["/files/a", "/files/b"]
    whole = json.dumps(said)
    assert "do not tell" not in whole
    assert "password" not in whole
    assert str(builds.context) not in whole


def test_provenance_says_which_instruction_made_which_layer(builds):
    image = builds.build(TEXT)
    own = image.image.layers[-3:]
    made = predicate(builds, image)["runDetails"]["byproducts"]
    assert [item["digest"]["sha256"] for item in made] == [layer.digest.removeprefix("sha256:") for layer in own]
    assert [(item["annotations"]["instruction"].split()[0], item["annotations"]["lines"]) for item in made] == [
        ("COPY", [5, 5]),
        ("COPY", [6, 6]),
        ("RUN", [8, 9]),
    ]


def test_a_rebuild_says_the_same_and_another_context_or_argument_something_else(builds):
    first = builds.build(TEXT)
    assert builds.build(TEXT).digest == first.digest
    before = statement(builds, first)
    assert statement(builds, builds.build(TEXT)) == before
    (builds.context / "files/b").write_text("changed")
    after = statement(builds, builds.build(TEXT))
    read = [said["predicate"]["buildDefinition"]["resolvedDependencies"][1] for said in (before, after)]
    assert read[0]["digest"] != read[1]["digest"]
    first_parts, second_parts = (item["annotations"]["read"] for item in read)
    assert (first_parts[0], first_parts[1] != second_parts[1]) == (second_parts[0], True)


def test_provenance_may_be_less_or_nothing(builds):
    image = builds.build(TEXT, build_args={"GREETING": "private"}, provenance="min")
    assert "private" not in json.dumps(statement(builds, image))
    assert "byproducts" not in predicate(builds, image)["runDetails"]
    nothing = builds.build("FROM base\nRUN touch /other\n", provenance="none")
    with Store.open(builds.root) as store:
        assert store.images.get(nothing.digest).attestations == {}


def test_from_alone_keeps_the_provenance_of_the_base(builds):
    base = builds.build(TEXT, tags=["made"])
    before = statement(builds, base)
    assert builds.build("FROM made\n", tags=["again"]).digest == base.digest
    assert statement(builds, base) == before


def test_provenance_stays_as_long_as_its_image_under_all_its_names(builds):
    image = builds.build(TEXT, tags=["one"])
    with Store.open(builds.root) as store:
        store.images.tag("one", "two")
        store.images.remove("one")
        gc.collect(store)
        kept = store.images.get("two").attestations["provenance"]
        assert json.loads(store.blobs.read(kept))["subject"][0]["digest"] == {"sha256": image.digest[7:]}
        store.images.remove("two")
        gc.collect(store)
        assert store.blobs.find(kept) is None


def test_provenance_survives_the_loss_of_the_index(builds):
    image = builds.build(TEXT, tags=["web"])
    other = builds.build(TEXT, tags=["web"], build_args={"UNUSED": "1"})
    assert other.digest == image.digest
    before = statement(builds, image)
    for name in ("index.json", "index.json.copy"):
        (builds.root / name).write_text("garbage")
    assert statement(builds, image) == before
    with Store.open(builds.root) as store:
        gc.collect(store)
    assert statement(builds, image) == before


def test_inspect_shows_provenance_and_says_where_there_is_none(builds):
    builds.build(TEXT, tags=["web"])
    builds.build("FROM base\nRUN touch /none\n", tags=["none"], provenance="none")
    with Store.open(builds.root) as store:
        command = argv(store, "inspect", "--provenance")
    shown = subprocess.run([*command, "web"], capture_output=True, check=True)
    assert json.loads(shown.stdout)[0]["predicateType"] == "https://slsa.dev/provenance/v1"
    refused = subprocess.run([*command, "none"], capture_output=True, check=False, text=True)
    assert refused.returncode == 1
    assert refused.stderr.startswith("firekiln: none: there is no provenance of this image\n")
    wrong = subprocess.run(
        argv(store, "build", "--provenance=all", str(builds.context)), capture_output=True, check=False, text=True
    )
    assert "--provenance all: give true, false, mode=max or mode=min" in wrong.stderr


def test_provenance_travels_to_a_registry_as_what_refers_to_the_image(builds, registry):
    name = f"{registry.host}/kiln/web:1"
    image = builds.build(TEXT, tags=[name])
    pushed = firekiln.push(name, provenance=True, store=builds.root)
    with open_repository(Reference.parse(name)) as repository:
        [found] = repository.referrers(pushed.digest, MEDIA_TYPE_STATEMENT).manifests
        manifest = json.loads(get(f"http://{registry.host}/v2/kiln/web/manifests/{found.digest}"))
        layers = json.loads(repository.resolve()[1])["layers"]
    assert manifest["subject"]["digest"] == pushed.digest
    assert manifest["layers"][0]["annotations"] == {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"}
    said = json.loads(get(f"http://{registry.host}/v2/kiln/web/blobs/{manifest['layers'][0]['digest']}"))
    assert said["subject"][0]["digest"] == {"sha256": pushed.digest.removeprefix("sha256:")}
    own = [layer["digest"].removeprefix("sha256:") for layer in layers[-3:]]
    made = said["predicate"]["runDetails"]["byproducts"]
    assert [item["digest"]["sha256"] for item in made] == own
    assert said["predicate"]["buildDefinition"] == predicate(builds, image)["buildDefinition"]


def test_provenance_that_is_not_there_is_not_pushed_in_silence(builds, registry):
    name = f"{registry.host}/kiln/none:1"
    builds.build("FROM base\nRUN touch /none\n", tags=[name], provenance="none")
    with pytest.raises(ImageNotFoundError, match="there is no provenance of this image"):
        firekiln.push(name, provenance=True, store=builds.root)
