"""Caches that travel: what one store exports as a layout, another one finds, and what is damaged or forged misses."""

from __future__ import annotations

import json
import shutil

import pytest

import firekiln
from firekiln.build.cachespec import InlineTo, LocalTo, Mode, RegistryFrom, RegistryTo, parse_cache_from, parse_cache_to
from firekiln.build.events import Cached, Started, Warned
from firekiln.build.registry import open_repository
from firekiln.errors import UsageError
from firekiln.oci import digest as digests
from firekiln.oci.reference import Reference
from firekiln.rootfs import erofs
from firekiln.rootfs.tree import Directory, File, Meta
from firekiln.store import Store
from registries import docker_registry, get

TEXT = b"""
FROM scratch AS builder
COPY big /big
FROM scratch
COPY --from=builder /big /copied
COPY small /
ENV A=b
"""


class Project:
    """A context, stores by name, and the folder that the cache is exchanged in."""

    def __init__(self, folder):
        self.folder = folder
        self.context = folder / "context"
        self.context.mkdir()
        (self.context / "big").write_bytes(b"big" * 10000)
        (self.context / "small").write_bytes(b"small")
        self.cache = folder / "cache"
        self.events = []

    def build(self, store, **options):
        self.events = []
        return firekiln.build(
            self.context,
            dockerfile=TEXT,
            store=self.folder / store,
            build_args={"SOURCE_DATE_EPOCH": "1700000000"},  # for equal digests
            on_event=self.events.append,
            **options,
        )

    def export(self, mode="min"):
        return self.build("first", cache_to=[f"type=local,dest={self.cache},mode={mode}"])

    def imported(self, store="second"):
        return self.build(store, cache_from=[f"type=local,src={self.cache}"])

    def copies(self, kind):
        return {event.task.name for event in self.events if isinstance(event, kind) and "COPY" in event.task.name}

    def warnings(self):
        return [event.message for event in self.events if isinstance(event, Warned)]

    def blobs(self):
        return sorted((self.cache / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)

    def layers_in(self, store):
        with Store.open(self.folder / store) as opened:
            return {
                blob.digest for blob in opened.blobs.all() if blob.path.read_bytes()[1024:1028] == b"\xe2\xe1\xf5\xe0"
            }


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path)
    yield made
    for store in tmp_path.glob("*/tmp"):
        assert list(store.iterdir()) == []


def test_an_imported_cache_runs_nothing_and_makes_the_same_image(project):
    first = project.export()
    second = project.imported()
    assert second.digest == first.digest
    assert project.copies(Started) == set()
    assert len(project.copies(Cached)) == 3
    assert project.warnings() == []


def test_what_was_imported_is_the_stores_own_afterwards(project):
    first = project.export()
    project.imported()
    shutil.rmtree(project.cache)
    assert project.build("second").digest == first.digest
    assert project.copies(Started) == set()


@pytest.mark.parametrize(("mode", "layers"), [("min", 2), ("max", 3)])
def test_mode_says_whose_layers_go_along_and_only_what_is_needed_is_fetched(project, mode, layers):
    project.export(mode)
    [entry] = json.loads((project.cache / "index.json").read_bytes())["manifests"]
    manifest = json.loads((project.cache / "blobs/sha256" / entry["digest"][7:]).read_bytes())
    assert len(manifest["layers"]) == layers
    project.imported()
    assert len(project.layers_in("second")) == 2, "the builder's layer is needed by nobody"
    (project.context / "small").write_bytes(b"other")
    project.imported("third")
    assert project.copies(Started) == {"[stage-1 2/2] COPY small /"}


def test_exports_to_one_folder_add_up_under_their_tags(project):
    for tags in ("ab", "a"):
        project.build("first", cache_to=[f"type=local,dest={project.cache},tag={tag}" for tag in tags])
    listed = json.loads((project.cache / "index.json").read_bytes())["manifests"]
    assert sorted(item["annotations"]["org.opencontainers.image.ref.name"] for item in listed) == ["a", "b"]
    project.build("second", cache_from=[f"type=local,src={project.cache},tag=b"])
    assert project.copies(Started) == set()
    project.build("third", cache_from=[f"type=local,src={project.cache},digest={listed[0]['digest']}"])
    assert project.copies(Started) == set()
    project.build("fourth", cache_from=[f"type=local,src={project.cache},tag=c"])
    assert "no image c" in project.warnings()[0]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("which", range(-1, -5, -1))
@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_damaged_cache_is_a_warning_and_a_miss(project, which, damage):
    first = project.export()
    damage(project.blobs()[which])
    second = project.imported()
    assert [layer.digest for layer in second.image.layers] == [layer.digest for layer in first.image.layers]
    assert project.copies(Started) != set()
    assert "importing cache" in project.warnings()[0]


@pytest.mark.parametrize("text", ["", "[]", '{"manifests": 1}', '{"manifests": [{"digest": "sha256:../../x"}]}'])
def test_a_cache_without_a_sound_index_is_a_warning_and_a_miss(project, text):
    project.export()
    (project.cache / "index.json").write_text(text)
    project.imported()
    assert len(project.copies(Started)) == 3
    assert "importing cache" in project.warnings()[0]


def republish(project, change):
    """Rewrite the cache's config and whatever names it by digest, as a forger would."""
    folder = project.cache / "blobs/sha256"
    index = json.loads((project.cache / "index.json").read_bytes())
    manifest = json.loads((folder / index["manifests"][0]["digest"][7:]).read_bytes())
    config = json.loads((folder / manifest["config"]["digest"][7:]).read_bytes())
    change(config, manifest)

    def put(document):
        data = json.dumps(document).encode()
        (folder / digests.of(data)[7:]).write_bytes(data)
        return {"digest": digests.of(data), "size": len(data)}

    manifest["config"] |= put(config)
    index["manifests"][0] |= put(manifest)
    (project.cache / "index.json").write_text(json.dumps(index))


def other_builder(config, manifest):
    manifest["config"]["mediaType"] = "application/vnd.buildkit.cacheconfig.v0"


def foreign_layer_number(config, manifest):
    config["records"][0]["chains"][0]["layers"] = [99]


def key_that_is_none(config, manifest):
    config["records"][0]["digest"] = "sha256:../../../etc/passwd"


def chain_that_is_none(config, manifest):
    config["records"][0]["chain"] = ["x"]


@pytest.mark.parametrize("change", [other_builder, foreign_layer_number, key_that_is_none, chain_that_is_none])
def test_a_cache_that_makes_no_sense_is_a_warning_and_a_miss(project, change):
    project.export()
    republish(project, change)
    project.imported()
    assert len(project.copies(Started)) == 3
    assert "importing cache" in project.warnings()[0]


def test_a_layer_that_our_writer_did_not_write_never_reaches_the_store(project, tmp_path):
    """Its digest is right everywhere. The kernel would mount it."""
    project.export()
    made = tmp_path / "made"
    written = erofs.write(Directory(meta=Meta(mode=0o755), children={b"f": File.of(b"x", Meta(mode=0o644))}), made)
    data = bytearray(made.read_bytes())
    data[1024 + 64 : 1024 + 80] = b"another's volume"  # the superblock's volume name: harmless, and not ours
    forged = digests.of(bytes(data))
    (project.cache / "blobs/sha256" / forged[7:]).write_bytes(data)
    assert forged != written.digest

    def swap(config, manifest):
        old = manifest["layers"][-1]["digest"]
        manifest["layers"][-1] |= {"digest": forged, "size": len(data)}
        for layer in config["layers"]:
            if layer["blob"] == old:
                layer["blob"] = forged

    republish(project, swap)
    project.imported()
    assert "was not written by firekiln" in project.warnings()[0]
    assert forged not in project.layers_in("second")
    assert len(project.copies(Started)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type=registry", "requires ref"),
        ("type=registry,ref=x/B", "must be lowercase"),
        ("type=registry,ref=x,dest=y", "unknown field dest"),
        ("type=gha", "caches of type gha are not supported"),
        ("type=odd,dest=x", "unknown type odd"),
        ("dest=x", "type is required"),
        ("type=local", "requires dest"),
        ("type=local,dest=x,mode=all", "'all' is not a valid Mode"),
        ("type=local,dest=x,colour=red", "unknown field colour"),
        ("type=local,dest=x,compression=zstd", "exported as they are"),
    ],
)
def test_a_destination_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_cache_to(text)


def test_the_words_of_an_exchange_are_buildx(tmp_path):
    made = parse_cache_to(f"type=local,dest={tmp_path},mode=max,oci-mediatypes=true,ignore-error=true")
    assert made == LocalTo(dest=tmp_path, mode=Mode.MAX, ignore_error=True)
    assert parse_cache_from(f"type=local,src={tmp_path},tag=t").tag == "t"
    for text, message in (("type=local", "requires src"), ("type=local,src=x,digest=y", "is no digest")):
        with pytest.raises(UsageError, match=message):
            parse_cache_from(text)


def test_a_registry_may_hold_the_cache(tmp_path):
    assert parse_cache_to("type=registry,ref=host.example/x,mode=max") == RegistryTo(
        ref="host.example/x:latest", mode=Mode.MAX
    )
    assert parse_cache_from("host.example/x:cache") == RegistryFrom(ref="host.example/x:cache")


def test_a_cache_goes_by_a_registry_and_saves_the_other_stores_work(project, tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        name = f"{registry.host}/kiln/app:cache"
        first = project.build("first", cache_to=[f"type=registry,ref={name},mode=max"])
        second = project.build("second", cache_from=[f"type=registry,ref={name}"])
        assert second.digest == first.digest
        assert len(project.copies(Cached)) == 3
        assert project.copies(Started) == set()
        absent = project.build("third", cache_from=[f"type=registry,ref={registry.host}/kiln/absent"])
        assert absent.digest == first.digest
        assert "manifest unknown" in project.warnings()[0]
    gone = project.build("fourth", cache_from=[f"type=registry,ref={name}"])
    assert gone.digest == first.digest
    assert project.warnings()


# --- in the image itself ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def pushed(project, registry):
    """The name under which an image with its cache is in a registry, of whose first COPY the cache knows nothing."""
    name = f"{registry.host}/kiln/inline:{project.folder.name}"
    project.build("first", cache_to=["type=inline"], tags=[name])
    firekiln.push(name, store=project.folder / "first")
    return name


def test_an_image_brings_the_cache_of_its_own_steps_along(project, pushed):
    built = project.build("second", cache_from=[f"type=registry,ref={pushed}"])
    assert project.copies(Cached) == {
        "[stage-1 1/2] COPY --from=builder /big /copied",
        "[stage-1 2/2] COPY small /",
    }
    assert project.warnings() == []
    plain = project.build("third")
    assert built.digest == plain.digest
    assert "dev.firekiln.cache.v1" not in built.image.image.extra


def test_what_an_image_brings_along_is_fetched_only_if_it_is_needed(project, pushed):
    first = project.build("first").image
    (project.context / "small").write_bytes(b"other")
    project.build("second", cache_from=[pushed])
    assert "[stage-1 2/2] COPY small /" in project.copies(Started)
    assert "[stage-1 1/2] COPY --from=builder /big /copied" in project.copies(Cached)
    assert [layer.digest in project.layers_in("second") for layer in first.layers] == [True, False]


def test_an_unchanged_rebuild_writes_the_same_cache_into_the_image(project):
    first, again = (project.build("first", cache_to=["type=inline"]) for _ in range(2))
    assert first.digest == again.digest
    assert first.image.image.extra["dev.firekiln.cache.v1"]["records"]
    other = project.build("second", cache_to=["type=inline"])
    assert first.digest == other.digest


def test_an_image_on_that_one_does_not_inherit_its_cache(project):
    project.build("first", cache_to=["type=inline"], tags=["base"])
    image = firekiln.build(None, dockerfile=b"FROM base\nENV B=c\n", store=project.folder / "first").image
    assert "dev.firekiln.cache.v1" not in image.image.extra


def test_an_image_without_a_cache_is_a_warning_and_a_miss(project, registry):
    name = f"{registry.host}/kiln/plain:1"
    project.build("first", tags=[name])
    firekiln.push(name, store=project.folder / "first")
    project.build("second", cache_from=[name])
    (warning,) = project.warnings()
    assert "is of an image that holds none: build it with --cache-to type=inline" in warning
    assert project.copies(Cached) == set()


def forged(config):
    """Another layer in the place of the first: what the tar becomes is not what the document says."""
    [first, second] = config["dev.firekiln.cache.v1"]["layers"]
    config["dev.firekiln.cache.v1"]["layers"] = [{**first, "blob": second["blob"]}, {**second, "blob": first["blob"]}]


def sized(config):
    for layer in config["dev.firekiln.cache.v1"]["layers"]:
        layer["annotations"]["size"] = 1


def unsized(config):
    del config["dev.firekiln.cache.v1"]["layers"][0]["annotations"]


def short(config):
    config["rootfs"]["diff_ids"].pop()


@pytest.mark.parametrize("change", [forged, sized, unsized, short])
def test_a_forged_cache_in_an_image_is_a_warning_and_a_miss(project, registry, pushed, change):
    plain = project.build("third")
    with open_repository(Reference.parse(pushed)) as repository:
        manifest = json.loads(repository.resolve()[1])
        config = json.loads(get(f"http://{registry.host}/v2/kiln/inline/blobs/{manifest['config']['digest']}"))
        change(config)
        data = json.dumps(config).encode()
        repository.put_bytes(digests.of(data), data)
        manifest["config"] |= {"digest": digests.of(data), "size": len(data)}
        repository.put_manifest(json.dumps(manifest).encode(), manifest["mediaType"], repository.reference.tag)
    built = project.build("second", cache_from=[pushed])
    assert len(project.warnings()) == 1
    assert built.digest == plain.digest


def test_a_cache_in_an_image_is_read_by_the_image_s_name():
    with pytest.raises(UsageError, match="a cache in an image is read by the image's name") as caught:
        parse_cache_from("type=inline")
    assert caught.value.hint == "type=registry,ref=IMAGE"
    assert parse_cache_to("type=inline") == InlineTo()
    with pytest.raises(UsageError, match="unknown field mode"):
        parse_cache_to("type=inline,mode=max")
