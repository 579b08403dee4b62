"""The files of snapshots, without machines."""

import os

import pytest

from firekiln.errors import ConflictError, MachineError, UsageError
from firekiln.machine.snapshot.files import copy_drive, copy_memory, seal
from firekiln.machine.snapshot.origin import Origin, take_origin, write_origin
from firekiln.machine.snapshot.snapshots import Environment, Snapshot, SnapshotNotFoundError, Snapshots, lease_name
from firekiln.machine.vmm.backend import Saved
from firekiln.store import Store

MIB = 1 << 20
BLOB = "sha256:" + "1" * 64


def sparse(path, size, pieces):
    with path.open("wb") as file:
        file.truncate(size)
        for position, data in pieces.items():
            os.pwrite(file.fileno(), data, position)
    return path


def test_a_copy_of_memory_has_its_bytes_and_no_page_of_zeros(tmp_path):
    pieces = {0: b"a" * 100, 5 * MIB: b"b" * (3 * MIB + 1), 9 * MIB: bytes(2 * MIB), 15 * MIB + 4095: b"cd"}
    source = sparse(tmp_path / "source", 16 * MIB, pieces)
    with source.open("rb") as file:
        copy_memory(file.fileno(), tmp_path / "copy", 16 * MIB)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert (tmp_path / "copy").stat().st_blocks * 512 <= 3 * MIB + 8 * 4096
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    with source.open("rb") as file, pytest.raises(FileExistsError):
        copy_memory(file.fileno(), tmp_path / "copy", 16 * MIB)


def test_a_seal_tells_bytes_and_sizes_apart_and_holes_not(tmp_path):
    pieces = {4096: b"x", 3 * MIB: b"y" * 70000}
    one = sparse(tmp_path / "one", 8 * MIB, pieces)
    full = tmp_path / "full"
    full.write_bytes(one.read_bytes())  # the same bytes, without a hole
    copy_drive(one, tmp_path / "copy")
    assert seal(one) == seal(full) == seal(tmp_path / "copy")
    others = [
        sparse(tmp_path / "other", 8 * MIB, {**pieces, 4096: b"z"}),
        sparse(tmp_path / "moved", 8 * MIB, {8192: b"x", 3 * MIB: b"y" * 70000}),
        sparse(tmp_path / "more", 8 * MIB, {**pieces, 7 * MIB: b"x"}),
        sparse(tmp_path / "longer", 9 * MIB, pieces),
    ]
    assert len({seal(path).digest for path in others[:3]} | {seal(one).digest}) == 4
    assert seal(others[3]) != seal(one)
    assert seal(sparse(tmp_path / "empty", 0, {})).size == 0


def test_a_drive_is_replaced_by_what_the_other_has(tmp_path):
    source = sparse(tmp_path / "source", 4 * MIB, {MIB: b"data"})
    target = sparse(tmp_path / "target", 8 * MIB, {0: b"old" * MIB})
    copy_drive(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 < MIB


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as made:
        yield made


def made(store, name, **changes):
    folder = store.temporary.folder / f"making-{name}"
    folder.mkdir()
    (folder / "memory").write_bytes(b"m" * 5000)
    (folder / "state").write_bytes(b"s")
    snapshot = Snapshot(
        name=name,
        folder=folder,
        created_ns=changes.pop("created_ns", 1),
        machine="f" * 64,
        image="web",
        image_digest=BLOB,
        settings="{}",
        config="{}",
        environment=Environment(vmm="q", accelerator="tcg", processor="p", tsc_khz=1),
        layers=(BLOB,),
        files={name: seal(folder / name) for name in ("memory", "state")},
        **changes,
    )
    with Snapshots(store).making(name):
        return Snapshots(store).publish(snapshot, [BLOB])


def test_what_is_published_is_found_again_and_holds_its_blobs(store):
    first, second = made(store, "first"), made(store, "second", created_ns=2, key="k", health={"health": "healthy"})
    snapshots = Snapshots(store)
    assert snapshots.list() == [second, first]
    assert snapshots.get("second") == second
    assert (first.is_automatic, second.is_automatic) == (False, True)
    assert store.leases.blobs() == {BLOB}
    snapshots.check(first)
    with pytest.raises(ConflictError, match="is there already"):
        snapshots.making("first")
    with pytest.raises(UsageError):
        snapshots.making("../first")
    assert snapshots.prune(lambda item: item.is_automatic).keys() == {"second"}
    assert snapshots.remove("first") > 0
    assert (snapshots.list(), store.leases.names()) == ([], [])
    for name in ("first", "", "..", "a/b", ".hidden"):
        with pytest.raises(SnapshotNotFoundError):
            snapshots.remove(name)
        assert snapshots.find(name) is None


@pytest.mark.parametrize("name", ["memory", "state", "snapshot.json"])
def test_a_bit_that_has_changed_is_found_out(store, name):
    snapshot = made(store, "one")
    path = snapshot.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(MachineError, match=f'the snapshot "one" is corrupted, and refused: {name} is not'):
        Snapshots(store).check(Snapshots(store).get("one"))
    assert Snapshots(store).prune(lambda _: False).keys() == ({"one"} if name == "snapshot.json" else set())


def test_what_is_held_for_a_snapshot_that_never_came_to_be_is_released(store):
    store.leases.hold(lease_name("killed"), [BLOB])
    store.leases.hold(lease_name("being-made"), [BLOB])
    with Snapshots(store).making("being-made"):
        Snapshots(store).prune(lambda _: False)
        assert store.leases.names() == [lease_name("being-made")]


def test_an_origin_is_taken_once(tmp_path):
    saved = Saved(memory=tmp_path / "memory", state=tmp_path / "state")
    origin = Origin(saved=saved, clone={"hostname": "h"}, health={"health": "healthy", "streak": 0, "log": []})
    write_origin(tmp_path, origin)
    assert take_origin(tmp_path) == origin
    assert take_origin(tmp_path) is None
    (tmp_path / "origin.json").write_text("{}")
    with pytest.raises(MachineError, match="is damaged"):
        take_origin(tmp_path)
