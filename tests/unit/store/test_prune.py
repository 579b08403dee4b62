"""What takes space, and what pruning takes away: the least recently used first, and nothing that is used."""

from __future__ import annotations

import os

import pytest

from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform
from firekiln.store import Result, Store, locks
from firekiln.store.prune import prune_cache, prune_images, prune_kernels
from firekiln.store.usage import folder_size, measure
from trees import file, folder

DAY = 86_400
NOW = 1_700_000_000


class Shop:
    """A store to fill; `at` sets the clock."""

    def __init__(self, store, patch):
        self.store = store
        self._patch = patch
        self.at(NOW)

    def at(self, seconds):
        self._patch.setattr("time.time", lambda: float(seconds))

    def layer(self, word, size=10_000):
        return self.store.layers.commit(folder({b"f": file(word.encode() * (size // len(word)))}))

    def result(self, key, *layers):
        digests = tuple(layer.digest for layer in layers)
        self.store.index.record({key: Result(chain=key, layers=digests, created="")})

    def image(self, name, *layers):
        image = Image(platform=Platform.host(), config=ImageConfig(labels={"n": name}), created="2020-01-01T00:00:00Z")
        return self.store.images.put(image, layers, references=[name] if name else [])

    def mount(self, name, size=50_000):
        (self.store.cache_folder(name) / "f").write_bytes(os.urandom(size))

    def keys(self):
        return {use.key for use in self.store.index.uses()}


@pytest.fixture
def shop(store, monkeypatch):
    return Shop(store, monkeypatch)


def test_what_images_share_is_counted_once(shop):
    base, own = shop.layer("base"), shop.layer("own")
    one, two = shop.image("one", base), shop.image("two", base, own)
    usage = measure(shop.store)
    blobs = {blob.digest: blob.size for blob in shop.store.blobs.all()}
    assert usage.images_size == sum(blobs.values()) == usage.images_reclaimable
    sizes = {item.image.digest: (item.size, item.shared) for item in usage.images}
    documents = blobs[one.digest] + blobs[one.config_digest]
    assert sizes[one.digest] == (base.size + documents, base.size)
    assert sizes[two.digest][1] == base.size


def test_a_cached_layer_that_an_image_needs_counts_as_the_images(shop):
    base, intermediate = shop.layer("base"), shop.layer("intermediate")
    shop.result("1", base)
    shop.result("2", base, intermediate)
    shop.image("web", base)
    usage = measure(shop.store)
    assert {item.name: item.shared for item in usage.cache} == {base.digest: True, intermediate.digest: False}


def test_images_without_names_go_first_and_all_that_nobody_uses_when_asked(shop):
    kept, used, nameless = shop.image("kept"), shop.image("used"), shop.image("")
    shop.store.leases.hold("machine-1", [used.digest])
    assert prune_images(shop.store).deleted == (nameless.digest,)
    assert prune_images(shop.store, everything=True, until=0).deleted == ()
    pruned = prune_images(shop.store, everything=True)
    assert (pruned.deleted, pruned.untagged) == ((kept.digest,), ("docker.io/library/kept:latest",))
    assert [image.digest for image in shop.store.images.list()] == [used.digest]


def test_results_go_by_the_time_of_their_last_use(shop):
    layers = {}
    for age in (3, 2, 1):
        shop.at(NOW - age * DAY)
        layers[age] = shop.layer(f"layer{age}")
        shop.result(str(age), layers[age])
    shop.at(NOW)
    pruned = prune_cache(shop.store, until=NOW - 1.5 * DAY)
    assert shop.keys() == {"1"}
    assert set(pruned.cache) == {layers[3].digest, layers[2].digest}
    assert pruned.size == layers[3].size + layers[2].size
    assert [blob.digest for blob in shop.store.blobs.all()] == [layers[1].digest]


def test_as_much_as_is_asked_for_stays_what_was_used_last(shop):
    sizes = {}
    for age in (4, 3, 2, 1):
        shop.at(NOW - age * DAY)
        layer = shop.layer(f"layer{age}", 100_000)
        sizes[age] = layer.size
        shop.result(str(age), layer)
    shop.at(NOW)
    shop.store.index.touch(["4"])
    prune_cache(shop.store, keep=sizes[1] + sizes[4] + 10)
    assert shop.keys() == {"1", "4"}
    prune_cache(shop.store, keep=1 << 40)
    assert shop.keys() == {"1", "4"}
    prune_cache(shop.store)
    assert shop.keys() == set()


def test_the_cache_of_images_goes_only_when_all_is_asked_for(shop):
    layer = shop.layer("of the image")
    shop.result("1", layer)
    shop.image("web", layer)
    assert prune_cache(shop.store).size == 0
    assert shop.keys() == {"1"}
    prune_cache(shop.store, everything=True)
    assert shop.keys() == set()
    assert shop.store.layers.find(layer.digest) is not None


def test_digests_of_contexts_go_when_they_were_of_no_use_for_long(shop):
    folder = shop.store.root / "contexts"
    folder.mkdir()
    for days in (40, 20, 3):
        (folder / f"{days}.json").write_text("x" * 1000)
        os.utime(folder / f"{days}.json", (NOW - days * DAY, NOW - days * DAY))

    def left():
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    assert prune_cache(shop.store).cache == ("contexts",)
    assert left() == ["20.json", "3.json"]
    prune_cache(shop.store, until=NOW - 10 * DAY)
    assert left() == ["3.json"]
    prune_cache(shop.store, everything=True, keep=1 << 40)
    assert left() == ["3.json"]
    assert prune_cache(shop.store, everything=True).size >= 1000
    assert left() == []


def test_a_cache_mount_goes_like_a_result_unless_a_step_has_it(shop):
    shop.at(NOW - 2 * DAY)
    shop.mount("old")
    shop.mount("used")
    shop.at(NOW)
    shop.mount("new")
    assert {item.name for item in measure(shop.store).cache} == {"old", "used", "new"}
    with shop.store.locks.acquire(locks.of_cache("used"), shared=True):
        pruned = prune_cache(shop.store, until=NOW - DAY)
        assert pruned.cache == ("old",)
        assert pruned.size >= 50_000
    assert sorted(path.name for path in shop.store.caches.iterdir()) == ["new", "used"]
    prune_cache(shop.store)
    assert list(shop.store.caches.iterdir()) == []


def test_what_a_build_of_another_process_found_keeps_its_result(shop):
    lower, upper = shop.layer("lower"), shop.layer("upper")
    shop.result("lower", lower)
    shop.result("upper", lower, upper)
    with Store.open(shop.store.root) as other, other.using_blobs():
        assert other.layers.find(lower.digest) is not None
        prune_cache(shop.store, everything=True)
        assert shop.keys() == {"lower"}
        assert other.layers.find(lower.digest) is not None


def test_a_clock_that_was_wrong_loses_nothing_that_is_in_use(shop):
    shop.at(NOW + 900 * DAY)
    shop.result("future", shop.layer("future"))
    shop.at(NOW - DAY)
    shop.result("past", shop.layer("past"))
    shop.at(NOW)
    prune_cache(shop.store, until=NOW - DAY / 2)
    assert shop.keys() == {"future"}
    shop.store.index.touch(["future"])
    shop.at(NOW + 2 * DAY)
    prune_cache(shop.store, until=NOW + DAY)
    assert shop.keys() == set()


def test_a_kernel_that_a_machine_has_or_that_is_kept_stays(shop):
    digests = [f"sha256:{word * 64}" for word in "abc"]
    for digest in digests:
        (shop.store.kernels / digest[7:]).mkdir()
        (shop.store.kernels / digest[7:] / "vmlinux").write_bytes(os.urandom(10_000))
    shop.store.leases.hold("machine-1", digests[:1])
    pruned = prune_kernels(shop.store, keep=digests[1:2])
    assert pruned.deleted == (digests[2],)
    assert pruned.size >= 10_000
    assert sorted(path.name for path in shop.store.kernels.iterdir()) == ["a" * 64, "b" * 64]


def test_a_folders_size_is_what_it_takes_on_the_disk(tmp_path):
    (tmp_path / "a").write_bytes(os.urandom(100_000))
    os.link(tmp_path / "a", tmp_path / "b")
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    assert 100_000 <= folder_size(tmp_path) < 200_000
    assert folder_size(tmp_path / "absent") == 0
