"""The ids of user namespaces: what is lent, what files look like from outside, what forbids it."""

from __future__ import annotations

import os
import struct
from types import SimpleNamespace

import pytest

from firekiln.errors import SandboxError
from firekiln.rootfs.tree import Meta
from firekiln.sandbox import subids
from firekiln.sandbox.idmap import IdMap, Range
from firekiln.sandbox.restore import Revealed, acl_inside, capability_of_root, restoring
from firekiln.sandbox.subids import subordinate

IDS = IdMap((Range(0, 1000, 1), Range(1, 100_000, 65_536)), (Range(0, 100, 1), Range(1, 200_000, 65_536)))
STATUS = SimpleNamespace(st_dev=1, st_ino=2)


def test_ranges_are_lent_by_name_or_by_number():
    text = "# a comment\nann:100000:65536\nbob:165536:65536\n1000:300000:10\nann:1:x\nann:5:0\nann\n"
    assert subordinate(text, "ann", 1000) == [(100000, 65536), (300000, 10)]
    assert subordinate(text, "carol", 1001) == []


def test_an_id_map_survives_the_command_line():
    assert IdMap.decode(IDS.encode()) == IDS


def test_owners_are_shown_as_the_namespace_has_them():
    meta = restoring(IDS, {})(STATUS, Meta(mode=0o640, uid=100_032, gid=100))
    assert (meta.uid, meta.gid, meta.mode) == (33, 0, 0o640)
    with pytest.raises(SandboxError, match="id 5, which is none of this build's"):
        restoring(IDS, {})(STATUS, Meta(mode=0o640, uid=5, gid=100))


def test_what_was_made_readable_is_shown_as_it_was():
    before = Revealed(0o104711, 7, 8, b"\1")
    meta = restoring(IDS, {(1, 2): before})(STATUS, Meta(mode=0o700, uid=1000, gid=100, xattrs=((b"user.a", b"b"),)))
    assert (meta.uid, meta.gid, meta.mode) == (7, 8, 0o4711)
    assert meta.xattrs == ((b"security.capability", b"\1"), (b"user.a", b"b"))


def test_capabilities_of_the_namespaces_root_are_roots():
    plain = b"\x01\x00\x00\x02" + bytes(range(16))
    assert capability_of_root(b"\x01\x00\x00\x03" + bytes(range(16)) + struct.pack("<I", 1000), 1000) == plain
    foreign = b"\x01\x00\x00\x03" + bytes(range(16)) + struct.pack("<I", 7)
    assert capability_of_root(foreign, 1000) == foreign
    assert capability_of_root(plain, 1000) == plain


def test_the_ids_of_an_acl_are_the_namespaces():
    entries = [(0x01, 6, 0xFFFFFFFF), (0x02, 4, 100_032), (0x08, 4, 100), (0x10, 4, 0xFFFFFFFF)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    inside = [struct.unpack_from("<HHI", acl_inside(value, IDS), place) for place in range(4, 36, 8)]
    assert inside == [(0x01, 6, 0xFFFFFFFF), (0x02, 4, 33), (0x08, 4, 0), (0x10, 4, 0xFFFFFFFF)]


@pytest.fixture
def ordinary(monkeypatch, tmp_path):
    """An ordinary user of a host whose files lie below a folder."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(subids, "_user", lambda: "ann")
    monkeypatch.setattr(subids, "_lent", lambda _: "ann:100000:65536\n")
    monkeypatch.setattr(subids, "_setting", lambda _: "")
    return monkeypatch


def refusal():
    with pytest.raises(SandboxError) as caught:
        subids.own_map()
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.hint


def test_what_is_lent_follows_the_users_own_id(ordinary):
    ordinary.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert subids.own_map().uids == (Range(0, 1000, 1), Range(1, 100_000, 65_536))


def test_a_user_to_whom_nothing_is_lent_is_told_the_command(ordinary):
    ordinary.setattr(subids, "_lent", lambda kind: "" if kind == "subgid" else "ann:100000:65536\n")
    message, hint = refusal()
    assert message == "building without root needs subordinate ids, and ann has none in /etc/subgid"
    assert hint.startswith("as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ann")


def test_a_host_without_newuidmap_is_told_the_package(ordinary):
    ordinary.setattr("shutil.which", lambda _: None)
    assert refusal() == (
        "building without root needs newuidmap and newgidmap, which the host lacks",
        "as root: apt-get install uidmap; or run firekiln as root",
    )


@pytest.mark.parametrize("key", ["user.max_user_namespaces", "kernel.unprivileged_userns_clone"])
def test_a_setting_that_forbids_namespaces_is_named(ordinary, key):
    ordinary.setattr(subids, "_setting", lambda name: "0" if name == key else "")
    message, hint = refusal()
    assert message == f"building without root needs user namespaces, which {key}=0 forbids"
    assert f"sysctl -w {key}=" in hint


def test_apparmors_restriction_counts_only_where_it_applies(ordinary):
    ordinary.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    ordinary.setattr(subids, "_setting", lambda name: "1" if "apparmor" in name else "")
    ordinary.setattr(subids, "confined", lambda *_: ["true"])
    assert subids.own_map().gids[0].length == 1
    ordinary.setattr(subids, "confined", lambda *_: ["false"])
    message, hint = refusal()
    assert message.endswith("which kernel.apparmor_restrict_unprivileged_userns=1 forbids")
    assert "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in hint
