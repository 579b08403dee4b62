"""What a step leaves in its layer: what it changed, and nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import isolation
from firekiln.sandbox import NamespaceRunner
from firekiln.sandbox.upper import tmpfs_size
from systems import system
from trees import file, folder, link

pytestmark = pytest.mark.root


def test_nothing_is_left_of_mounts_and_their_places(run, tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_text("certificates")
    result = run("ls / /etc >/dev/null; cat $SSL_CERT_FILE", ca_bundle=bundle)
    assert result.out == "certificates"
    assert result.changed == {}


def test_the_root_keeps_its_metadata(run, layer, busybox):
    tree = system(busybox)
    odd = folder(tree.children, mode=0o711)
    result = run("true", layers=[layer(odd)])
    assert result.diff.meta.mode == 0o711
    assert result.diff.meta.mtime_ns == 0


def test_changes_are_found(run):
    result = run(
        "mkdir /new && echo hi >/new/f && rm /etc/group && ln -s f /new/l && mkfifo /new/p && chmod 600 /etc/passwd"
    )
    assert result.status == 0
    assert result.changed == {
        "etc": "Directory",
        "etc/group": "Whiteout",
        "etc/passwd": "File",
        "new": "Directory",
        "new/f": "File",
        "new/l": "Symlink",
        "new/p": "Fifo",
    }
    assert result.contents["new/f"] == b"hi\n"


def test_a_mount_s_place_stays_where_the_step_put_something_beside_it(run, tmp_path):
    from firekiln.sandbox.step import FileMount

    result = run("cat /run/secrets/a; echo x >/run/y", mounts=(FileMount(target="/run/secrets/a", data=b"s3cr3t"),))
    assert result.out == "s3cr3t"
    assert result.changed == {"run": "Directory", "run/y": "File"}


def test_directories_above_a_mount_s_place_keep_their_times(run, layer, busybox):
    result = run("touch -d @5 /etc/x; stat -c %Y / /etc", layers=[layer(system(busybox))])
    before_root, _ = result.out.split()
    assert before_root == "0", "making /proc, /dev and /sys is no change of the image's root"
    untouched = run("stat -c %Y /etc")
    assert untouched.out == "0\n"


@isolation.needs_root
def test_device_nodes_of_a_step_are_in_its_layer(run):
    result = run("mknod /n c 1 3")
    assert result.changed == {"n": "Device"}


def test_an_upper_side_on_disk_gives_the_same_changes(run, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    with NamespaceRunner(work, memory=False) as on_disk:
        result = run("echo hi >/f; rm /bin/ls; mkdir -m 700 /d", on=on_disk)
        assert result.changed == {"bin": "Directory", "bin/ls": "Whiteout", "d": "Directory", "f": "File"}
        assert list(work.glob("firekiln-step-*")) == []


@isolation.needs_root
def test_what_a_killed_runner_left_on_disk_is_removed(run, tmp_path):
    for name in ("firekiln-step-old", "firekiln-step-new", "step-of-another"):
        (tmp_path / name / "upper").mkdir(parents=True)
    for name in ("firekiln-step-old", "step-of-another"):
        os.utime(tmp_path / name, (1, 1))
    run("true")
    assert {path.name for path in tmp_path.iterdir()} == {"firekiln-step-new", "step-of-another"}


def test_a_step_that_fills_the_memory_is_run_again_on_disk(run, monkeypatch, tmp_path):
    monkeypatch.setattr("firekiln.sandbox.upper.tmpfs_size", lambda: 1 << 20)
    result = run("dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null && echo done")
    assert result.status == 0
    assert "running the step again on the disk" in result.err
    assert len(result.contents["big"]) == 3 << 20


def test_memory_is_used_where_there_is_enough():
    assert tmpfs_size() == 0 or tmpfs_size() >= 1 << 30


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_a_link_in_place_of_a_mount_s_directory_leads_nowhere_outside(run, layer, busybox, tmp_path, name):
    canary = tmp_path / "canary"
    canary.mkdir()
    hostile = system(busybox, root={name.encode(): link(b"../../../.." + os.fsencode(canary))})
    result = run("head -c 1 /dev/zero | wc -c; cat /proc/self/comm; ls /sys/kernel | head -1", layers=[layer(hostile)])
    assert result.out.startswith("1\ncat\n")
    assert list(canary.iterdir()) == []
    assert result.changed == {}


@pytest.mark.parametrize("target", ["/proc/self/root/etc/x", "/proc/1/root/tmp/x", "../../../../tmp/fk-canary"])
def test_a_linked_resolv_conf_is_mounted_within_the_root(run, layer, busybox, target):
    hostile = system(busybox, etc={b"resolv.conf": link(target.encode())})
    result = run("cat /etc/resolv.conf /proc/mounts", layers=[layer(hostile)])
    assert Path("/etc/resolv.conf").read_text() in result.out or "/proc/" in target
    assert not Path("/tmp/fk-canary").exists()
    assert not Path("/etc/x").exists()


def test_a_dangling_resolv_conf_works_and_leaves_nothing(run, layer, busybox):
    dangling = system(busybox, etc={b"resolv.conf": link(b"../run/systemd/resolve/stub-resolv.conf")})
    result = run("cat /etc/resolv.conf", layers=[layer(dangling)])
    assert result.out == Path("/etc/resolv.conf").read_text()
    assert result.changed == {}


@pytest.mark.parametrize("cwd", [f"/proc/self/fd/{number}" for number in (3, 4, 5, 7, 8, 9)] + ["/proc/self/cwd/../.."])
def test_a_working_directory_in_proc_does_not_lead_out(run, cwd):
    from firekiln.errors import SandboxError

    try:
        result = run("pwd; ls", cwd=cwd)
    except SandboxError:
        return
    assert "work" not in result.out.split()
    assert result.out.split()[0].startswith("/")


def test_set_id_bits_and_owners_are_kept(run):
    result = run("cp /bin/busybox /s && chown 7:8 /s && chmod 6755 /s")
    meta = result.diff.children[b"s"].meta
    assert (meta.uid, meta.gid, meta.mode) == (7, 8, 0o6755)
    assert stat.S_ISUID & meta.mode


def test_a_base_without_layers_gets_all_from_mounts(run, busybox):
    from firekiln.sandbox.step import TreeMount

    tree = folder({b"busybox": file(busybox, mode=0o755)})
    result = run(args=["/b/busybox", "ls", "/"], layers=[], mounts=(TreeMount(target="/b", tree=tree),))
    assert result.out.split() == ["b", "dev", "etc", "proc", "sys"]
    assert result.changed == {}
