from __future__ import annotations

import os
from pathlib import Path

import pytest

from firekiln.errors import StoreError
from firekiln.oci import digest
from firekiln.store import Store
from firekiln.store import temporary as temporary_module
from firekiln.store.durable import store_errors


def leftovers(store):
    return [path for path in (store.root / "tmp").rglob("*") if not path.is_dir()]


def test_a_blob_bears_the_digest_of_its_bytes(store):
    blob = store.blobs.ingest([b"one", b"two"])
    assert blob.digest == digest.of(b"onetwo")
    assert (blob.size, blob.path.read_bytes()) == (6, b"onetwo")
    assert store.blobs.read(blob.digest) == b"onetwo"


def test_putting_what_is_there_writes_nothing(store):
    first = store.blobs.put(b"x")
    inode = first.path.stat().st_ino
    assert store.blobs.put(b"x").path.stat().st_ino == inode
    assert list(store.blobs.all()) == [first]


def test_ingest_leaves_nothing_when_the_digest_is_wrong(store):
    with pytest.raises(StoreError, match="has digest sha256:"):
        store.blobs.ingest([b"data"], digest=digest.of(b"other"))
    assert list(store.blobs.all()) == []
    assert leftovers(store) == []


def test_ingest_leaves_nothing_when_the_stream_breaks(store):
    def broken():
        yield b"some"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        store.blobs.ingest(broken())
    assert list(store.blobs.all()) == []
    assert leftovers(store) == []


def test_a_damaged_blob_is_not_handed_out(store):
    blob = store.blobs.put(b"precious")
    blob.path.write_bytes(b"preciouz")
    with pytest.raises(StoreError, match="damaged"):
        store.blobs.read(blob.digest)
    assert not store.blobs.is_intact(blob)


@pytest.mark.parametrize("name", ["sha256:../../etc/passwd", "sha512:" + "0" * 64, "sha256:" + "0" * 63, ""])
def test_what_is_no_digest_names_no_file(store, name):
    with pytest.raises(ValueError, match="no sha256 digest"):
        store.blobs.path(name)


def test_a_full_disk_is_said_clearly():
    full = Path("/dev/full")

    def write():
        with store_errors(full, "cannot write"), full.open("wb", buffering=0) as file:
            file.write(b"x")

    with pytest.raises(StoreError, match="cannot write /dev/full: no space left on device") as caught:
        write()
    assert "--root" in caught.value.hint


def test_what_a_dead_process_was_writing_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    with Store.open(tmp_path) as living:
        kept = living.temporary.folder / "layer"
        kept.touch()
        dead = tmp_path / "tmp" / "dead"
        dead.mkdir()
        (dead / "layer").touch()
        os.utime(dead, (2**33, 2**33))  # the clock was set back since
        temporary_module.sweep(tmp_path / "tmp")
        assert not dead.exists()
        assert kept.exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_store_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot make the store"):
        Store.open(tmp_path / "file" / "store")


def test_a_folder_of_somebody_else_does_not_become_a_store(tmp_path):
    (tmp_path / "tmp" / "precious").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    with pytest.raises(StoreError, match="not empty: there is home"):
        Store.open(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "tmp"]
    with pytest.raises(StoreError, match="no store"):
        Store.open("/")


def test_a_store_whose_making_was_interrupted_is_made(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "tmp").mkdir()
    with Store.open(tmp_path) as store:
        assert store.images.list() == []
