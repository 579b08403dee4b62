"""When a file's bytes are looked at, and what becomes of those that are wrong."""

from __future__ import annotations

import os
import threading

import pytest

from firekiln.errors import DamagedError
from firekiln.store import Store, integrity
from firekiln.store import temporary as temporary_module
from firekiln.store.temporary import Temporary
from trees import file, folder


@pytest.fixture
def reads(monkeypatch):
    """The files that were read as a whole."""
    found = []
    original = integrity._digest
    monkeypatch.setattr(integrity, "_digest", lambda path: (found.append(path), original(path))[1])
    return found


def commit(store):
    return store.layers.commit(folder({b"f": file(b"x" * 5000)}))


def test_what_was_just_written_is_not_read_again_by_anyone(tmp_path, reads):
    with Store.open(tmp_path) as store:
        layer = commit(store)
        assert store.layers.find(layer.digest) == layer
    with Store.open(tmp_path) as store:
        assert store.layers.find(layer.digest) == layer
    assert reads == []


def test_a_file_is_read_once_a_boot(tmp_path, reads, monkeypatch):
    with Store.open(tmp_path) as store:
        layer = commit(store)
    monkeypatch.setattr(integrity, "_boot", lambda: "another boot")
    for _ in range(2):
        with Store.open(tmp_path) as store:
            assert store.layers.find(layer.digest) == layer
    assert reads == [layer.path]


@pytest.mark.parametrize("change", [os.utime, lambda path: path.chmod(0o600), lambda path: path.open("ab").close()])
def test_a_file_about_which_anything_changed_is_read_again(tmp_path, reads, change):
    with Store.open(tmp_path) as store:
        layer = commit(store)
    change(layer.path)
    with Store.open(tmp_path) as store:
        assert store.layers.find(layer.digest) == layer
    assert len(reads) <= 1


def test_without_an_index_everything_is_read_once(tmp_path, reads):
    with Store.open(tmp_path) as store:
        layer = commit(store)
    for path in tmp_path.glob("index.db*"):
        path.unlink()
    for _ in range(2):
        with Store.open(tmp_path) as store:
            assert store.layers.find(layer.digest) == layer
    assert reads == [layer.path]


def test_a_damaged_layer_is_set_aside_and_can_be_put_again(store):
    layer = commit(store)
    layer.path.write_bytes(b"other")
    with pytest.raises(DamagedError, match="lacks the layer"):
        store.layers.get(layer.digest)
    (aside,) = (store.root / "damaged").iterdir()
    assert aside.read_bytes() == b"other"
    assert commit(store) == layer
    assert store.layers.tree(layer).children[b"f"].read() == b"x" * 5000


def test_putting_what_is_there_but_damaged_replaces_it(store):
    blob = store.blobs.put(b"precious")
    blob.path.write_bytes(b"preciouz")
    assert store.blobs.put(b"precious").path.read_bytes() == b"precious"
    layer = commit(store)
    layer.path.write_bytes(b"")
    assert commit(store).path.stat().st_size == layer.size


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(tmp_path):
    stop = threading.Event()

    def sweep():
        while not stop.is_set():
            temporary_module.sweep(tmp_path)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for _ in range(200):
            made = Temporary(tmp_path)
            (made.folder / "file").touch()
            assert (made.folder / "file").exists()
            made.close()
    finally:
        stop.set()
        sweeper.join()
    assert list(tmp_path.iterdir()) == []
