from __future__ import annotations

import json

import pytest

from firekiln.errors import ConflictError, ImageNotFoundError
from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform
from firekiln.rootfs.tree import Directory, File, Meta
from firekiln.store import Store, gc, locks

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


def layer_of(store, content=b"x"):
    tree = Directory(meta=Meta(mode=0o755), children={b"f": File.of(content, Meta(mode=0o644))})
    return store.layers.commit(tree)


def image_of(word="a", platform=AMD64):
    return Image(platform=platform, config=ImageConfig(labels={"word": word}), created="2026-01-01T00:00:00Z")


def test_an_image_comes_back_as_it_was_put(store):
    layer = layer_of(store)
    put = store.images.put(image_of(), [layer], references=["web"])
    assert put.references == ("docker.io/library/web:latest",)
    assert put.layers == (layer,)
    assert put.image == image_of()
    for name in ("web", "docker.io/library/web:latest", put.digest, put.digest[7:19]):
        assert store.images.get(name) == put


def test_images_outlive_the_process_and_the_index(tmp_path):
    with Store.open(tmp_path) as store:
        put = store.images.put(image_of(), [layer_of(store)], references=["web"])
    (tmp_path / "index.db").write_bytes(b"garbage" * 1000)
    with Store.open(tmp_path) as store:
        assert store.index.result("anything") is None
        assert store.images.get("web") == put
    assert (tmp_path / "index.db.damaged").exists()


def test_the_store_is_an_oci_layout(store):
    put = store.images.put(image_of(), [layer_of(store)], references=["web"])
    index = json.loads((store.root / "index.json").read_bytes())
    assert json.loads((store.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert [item["digest"] for item in index["manifests"]] == [put.digest]


def test_putting_the_same_image_again_changes_nothing(store):
    layer = layer_of(store)
    store.images.put(image_of(), [layer], references=["web"])
    before = (store.root / "index.json").stat().st_ino
    store.images.put(image_of(), [layer], references=["web"])
    assert (store.root / "index.json").stat().st_ino == before


def test_a_name_moves_to_the_newer_image_and_the_older_stays_without_one(store):
    layer = layer_of(store)
    old = store.images.put(image_of("old"), [layer], references=["web"])
    new = store.images.put(image_of("new"), [layer], references=["web"])
    assert store.images.get("web").digest == new.digest
    assert store.images.get(old.digest).references == ()


def test_a_name_stands_for_one_image_per_platform(store):
    layer = layer_of(store)
    amd = store.images.put(image_of(platform=AMD64), [layer], references=["web"])
    arm = store.images.put(image_of(platform=ARM64), [layer], references=["web"])
    assert store.images.get("web", AMD64).digest == amd.digest
    assert store.images.get("web", ARM64).digest == arm.digest
    assert store.images.find("web", Platform("linux", "s390x")) is None


def test_a_tag_is_one_more_name(store):
    put = store.images.put(image_of(), [layer_of(store)], references=["web"])
    store.images.tag("web", "other:1")
    assert store.images.get("other:1").digest == put.digest
    assert set(store.images.get("web").references) == {"docker.io/library/web:latest", "docker.io/library/other:1"}


def test_tagging_an_image_without_a_name_gives_it_that_name_only(store):
    put = store.images.put(image_of(), [layer_of(store)])
    store.images.tag(put.digest[7:19], "named")
    assert [image.references for image in store.images.list()] == [("docker.io/library/named:latest",)]


def test_removing_the_last_name_removes_the_image(store):
    put = store.images.put(image_of(), [layer_of(store)], references=["a", "b"])
    assert store.images.remove("a").deleted == ()
    removed = store.images.remove("b")
    assert (removed.untagged, removed.deleted) == (("docker.io/library/b:latest",), (put.digest,))
    assert store.images.list() == []
    with pytest.raises(ImageNotFoundError, match="No such image: b"):
        store.images.remove("b")


def test_an_image_of_two_names_is_removed_by_its_digest_only_by_force(store):
    put = store.images.put(image_of(), [layer_of(store)], references=["a", "b"])
    with pytest.raises(ConflictError, match="must be forced"):
        store.images.remove(put.digest)
    assert store.images.remove(put.digest, force=True).deleted == (put.digest,)


def test_an_unknown_name_is_said_in_dockers_words(store):
    with pytest.raises(ImageNotFoundError, match="No such image: nope"):
        store.images.get("nope")
    assert store.images.find("Not A Reference") is None


def test_collecting_keeps_what_images_and_leases_need(store):
    used, leased, lost = layer_of(store, b"1"), layer_of(store, b"2"), layer_of(store, b"3")
    store.images.put(image_of(), [used], references=["web"])
    store.leases.hold("machine", [leased.digest])
    assert gc.collect(store).blobs == 1
    assert [store.layers.find(layer.digest) is None for layer in (used, leased, lost)] == [False, False, True]
    store.leases.release("machine")
    store.images.remove("web")
    assert gc.collect(store).blobs == 4  # two layers, a config, a manifest
    assert list(store.blobs.all()) == []


def test_what_a_process_makes_or_finds_while_it_uses_blobs_is_not_collected_by_itself_or_by_others(store):
    with Store.open(store.root) as earlier:
        found, lost = layer_of(earlier, b"1"), layer_of(earlier, b"2")
    with Store.open(store.root) as other, store.using_blobs():
        assert store.layers.find(found.digest) is not None
        made = layer_of(store, b"3")
        assert gc.collect(other).blobs == 1
        assert gc.collect(store).blobs == 0
        assert [store.layers.find(layer.digest) is None for layer in (found, made, lost)] == [False, False, True]
    assert gc.collect(store).blobs == 2


def test_what_a_process_has_just_made_is_not_collected_by_others(store):
    made = layer_of(store)
    with Store.open(store.root) as other:
        assert gc.collect(other).blobs == 0
        store.close()
        assert gc.collect(other).blobs == 1
        assert other.layers.find(made.digest) is None


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "nul\0"])
def test_a_lease_is_one_file_of_its_folder(store, name):
    with pytest.raises(ValueError, match="cannot name a lease"):
        store.leases.hold(name, [])


def test_a_lock_excludes_other_threads_and_is_gone_when_released(store):
    offset = locks.named("key")
    with store.locks.acquire(offset):
        assert store.locks.try_acquire(offset) is None
        assert store.locks.try_acquire(locks.named("other")) is not None
    lock = store.locks.try_acquire(offset)
    assert lock is not None
    moved = lock.transfer()
    lock.release()
    assert store.locks.try_acquire(offset) is None
    moved.release()
    shared = store.locks.try_acquire(offset, shared=True)
    assert shared is not None
    assert store.locks.try_acquire(offset, shared=True) is not None
    assert store.locks.try_acquire(offset) is None
