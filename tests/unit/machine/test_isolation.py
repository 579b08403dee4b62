"""Steps in machines, as far as no machine is needed: what is put on drives, said in documents, kept of caches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firekiln.errors import SandboxError
from firekiln.machine.isolation import cache
from firekiln.machine.isolation.delivery import Delivery
from firekiln.machine.isolation.document import Attachment, step_document
from firekiln.machine.isolation.mounts import mounts_of
from firekiln.rootfs import erofs
from firekiln.rootfs.tree import Directory, Meta, Whiteout
from firekiln.sandbox.limits import Limits, Ulimit
from firekiln.sandbox.step import (
    FileMount,
    FolderMount,
    LayersMount,
    ScratchMount,
    SocketMount,
    Step,
    TreeMount,
)
from firekiln.sandbox.stubs import foreseen, prune
from trees import file, folder, link


def step(*mounts, **fields):
    return Step(**{"layers": (), "args": ("true",), "env": ("A=1",), "cwd": "/", "mounts": mounts, **fields})


def made(step_, **given):
    fields = {"layers": [0, 2], "mounts": [], "interfaces": [], "processes": 0, **given}
    return json.loads(step_document(step_, **fields))


def test_what_is_delivered_lies_behind_what_was(tmp_path):
    (tmp_path / "layer").write_bytes(b"first")
    with Delivery(tmp_path / "drive") as delivery:
        first = delivery.put(tmp_path / "layer")
        second = delivery.put_tree(folder({b"f": file(b"content")}))
        third = delivery.put(tmp_path / "layer")
    data = (tmp_path / "drive").open("rb")
    with data:
        for offset, size in (first, third):
            data.seek(offset)
            assert data.read(size) == b"first"
        data.seek(second[0])
        (tmp_path / "tree").write_bytes(data.read(second[1]))
    assert first[0] < second[0] < third[0]
    assert erofs.read(tmp_path / "tree").children[b"f"].read() == b"content"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive", "layer", "tree"]


def test_a_drive_and_a_part_of_one_are_told_apart():
    whole = Attachment(number=0, serial="layer0").to_json()
    part = Attachment(number=3, serial="delivery", offset=0, size=4096, once=True).to_json()
    assert whole == {"number": 0, "serial": "layer0", "once": False}
    assert part == {"number": 3, "serial": "delivery", "once": True, "offset": 0, "size": 4096}


def test_the_last_of_a_variable_counts_and_path_is_there():
    assert made(step(env=("A=1", "B=2", "A=3")))["process"]["env"][:2] == ["A=3", "B=2"]
    assert made(step(env=("A=1",)))["process"]["env"][1].startswith("PATH=/usr/local/sbin:")


def test_limits_are_in_the_document():
    limits = Limits(memory=1 << 30, cpus=1.5, ulimits=(Ulimit(name="nofile", soft=7, hard=-1),), shm_size=5)
    document = made(step(limits=limits), processes=9)
    said = {name: document["step"][name] for name in ("memory", "cpu_us", "pids", "shm_size", "layers")}
    assert said == {"memory": 1 << 30, "cpu_us": 150_000, "pids": 9, "shm_size": 5, "layers": [0, 2]}
    assert document["process"]["rlimits"] == [{"name": "nofile", "soft": 7, "hard": None}]


def test_a_document_that_is_too_long_is_refused():
    with pytest.raises(SandboxError, match="too long for a VM"):
        made(step(args=("x" * (1 << 20),)))


def test_mounts_are_made_from_the_outside_in_and_secrets_are_on_no_drive():
    mounts = mounts_of(
        step(
            ScratchMount(target="/a/b/c"),
            TreeMount(target="/a", tree=folder({b"d": folder({b"f": file(b"x")})}), source="/d"),
            FileMount(target="/s", data=b"secret", mode=0o400, uid=7),
            TreeMount(target="/one", tree=folder({b"f": file(b"x")}), source="f", readonly=False),
        ),
        resolv_conf="nameserver 10.0.2.3\n",
        number=4,
    )
    assert [mount.target for mount in mounts.mounts] == [
        "/etc/resolv.conf",
        "/etc/hosts",
        "/a",
        "/s",
        "/one",
        "/a/b/c",
    ]
    assert set(mounts.parts.children) == {b"0"}
    assert set(mounts.parts.children[b"0"].children) == {b"f"}
    assert mounts.mounts[2].to_json() == {"type": "part", "target": "/a", "part": 4, "name": "0"}


def test_a_step_without_mounts_has_no_parts():
    assert mounts_of(step(), resolv_conf="", number=0).parts is None


@pytest.mark.parametrize(
    "mount",
    [
        TreeMount(target="/a", tree=folder(), source="/none"),
        LayersMount(target="/a", layers=(), source="/none"),
    ],
)
def test_a_source_that_is_not_there_is_an_error(mount):
    with pytest.raises(SandboxError, match='"/none": not found'):
        mounts_of(step(mount), resolv_conf="", number=0)


def test_an_agent_s_socket_is_refused():
    with pytest.raises(SandboxError, match="type=ssh cannot be used in a VM"):
        mounts_of(step(SocketMount(target="/a", socket=Path("/none"))), resolv_conf="", number=0)


def test_mounts_of_one_cache_share_what_is_written(tmp_path):
    cache.begin(tmp_path, folder({b"d": folder({b"f": file(b"x")})}))
    mounts = mounts_of(
        step(
            FolderMount(target="/a", folder=tmp_path),
            FolderMount(target="/b", folder=tmp_path, source="/d", readonly=True),
        ),
        resolv_conf="",
        number=1,
    )
    first, second = (mount.to_json() for mount in mounts.mounts[2:])
    assert (first["upper"], first["source"], first["read_only"]) == (second["upper"], "", False)
    assert (second["source"], second["read_only"]) == ("d", True)
    assert mounts.caches == {first["upper"]: tmp_path}


def test_a_cache_keeps_what_steps_that_ended_one_after_the_other_changed(tmp_path):
    cache.begin(tmp_path, Directory(meta=Meta(mode=0o750, uid=7), children={b"gone": file(b"")}))
    meta = Meta(mode=0o750, uid=7)
    cache.update(tmp_path, Directory(meta=meta, children={b"one": file(b"1", uid=5), b"gone": Whiteout()}))
    cache.update(tmp_path, Directory(meta=meta, children={b"two": file(b"2")}))
    before = (tmp_path / "content.erofs").stat().st_ino
    cache.update(tmp_path, Directory(meta=meta))
    tree = cache.read(tmp_path)
    assert (tree.meta.mode, tree.meta.uid) == (0o750, 7)
    assert {name: node.meta.uid for name, node in tree.children.items()} == {b"one": 5, b"two": 0}
    assert (tmp_path / "content.erofs").stat().st_ino == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["content.erofs", "lock"]


def test_places_that_only_mounts_need_are_foreseen_and_left_out():
    lower = folder(
        {b"etc": folder({b"hosts": file(b"")}), b"lib": link(b"usr/lib"), b"usr": folder({b"lib": folder()})}
    )
    targets = ["/proc", "/etc/hosts", "/etc/resolv.conf", "/proc/new", "/lib/m/n"]
    stubs = foreseen(lower, targets)
    assert [stub.made for stub in stubs] == [("proc",), ("etc/resolv.conf",), ("usr/lib/m", "usr/lib/m/n")]
    diff = folder(
        {
            b"proc": folder(),
            b"etc": folder({b"resolv.conf": file(b"")}),
            b"usr": folder({b"lib": folder({b"m": folder({b"n": folder()})})}),
            b"new": file(b""),
        }
    )
    prune(diff, stubs)
    assert set(diff.children) == {b"new"}


def test_what_a_step_put_at_a_mount_s_place_stays():
    stubs = foreseen(folder(), ["/m"])
    diff = folder({b"m": folder({b"kept": file(b"")})})
    prune(diff, stubs)
    assert set(diff.children[b"m"].children) == {b"kept"}
