"""PID 1 in a machine of the test's own, with documents that no image and no option asked for."""

import subprocess

import pytest

from firekiln.rootfs import erofs
from guests import EXITED, SHUTDOWN, STARTED, STDERR, STDOUT, document, drive, guest
from machines import BUSYBOX, busybox

MOUNTS = [
    {"type": "tmpfs", "target": "/fast/tmp", "size": 1 << 20, "mode": 0o750, "options": ["noexec", "nr_inodes=50"]},
    {"type": "file", "target": "/etc/deep/note", "mode": 0o640, "base64": "YQBi"},
    {"type": "drive", "target": "/data", "drive": {"serial": "vol"}, "fstype": "ext4"},
    {"type": "drive", "target": "/part/of/it", "drive": {"serial": "vol"}, "fstype": "ext4", "subpath": "lost+found"},
    {"type": "drive", "target": "/again", "drive": {"serial": "l0"}, "fstype": "erofs", "read_only": True},
]
SCRIPT = """
grep -c ' /fast/tmp tmpfs rw,noexec' /proc/mounts; stat -c %a /fast/tmp /etc/deep/note; od -An -c /etc/deep/note
echo kept > /data/f && cat /data/f; cat /again/www/index.html; touch /x; touch /fast/tmp/x
cat /proc/sys/net/core/somaxconn; cat /unit; readlink /l; id -G web; id -G
"""


@pytest.fixture
def layer(tmp_path):
    if not BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    path = tmp_path / "layer"
    with path.open("w+b") as file:
        erofs.write(busybox(), file.fileno())
    return path


def test_mounts_files_sysctls_and_groups_are_there_before_the_process(own_kernel, layer, tmp_path):
    volume = tmp_path / "volume"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", volume, "8M"], check=True)
    made = document(
        *("sh", "-c", SCRIPT + "exec 2>&1; touch /x"),
        root={"read_only": True},
        mounts=MOUNTS,
        sysctls={"net.core.somaxconn": "77"},
        files=[{"path": "/unit", "mode": 0o600, "data": "unit\n"}, {"path": "/l", "link": "to"}],
        process={"groups": ["33", "web"]},
    )
    drives = [drive(layer, "l0"), drive(volume, "vol", readonly=False)]
    with guest(own_kernel.image, tmp_path, drives, made) as wire:
        wire.expect(STARTED, 1)
        wire.expect(EXITED, 1)
        wire.send(SHUTDOWN)
        assert wire.vmm.wait(20) == 0
    lines = bytes(wire.output[1, STDOUT]).decode().splitlines()
    assert lines[:4] == ["1", "750", "640", "   a  \\0   b"]
    assert lines[4] == "kept"
    assert "hello from the machine" in lines
    assert lines[-6:-1] == ["77", "unit", "to", "33", "0 33"]
    assert lines[-1] == "touch: /x: Read-only file system"
    checked = subprocess.run(["e2fsck", "-fn", volume], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert b"recovering journal" not in checked.stdout + checked.stderr


INITTAB = "::sysinit:/bin/true\n::once:/service\n"
SERVICE = """#!/bin/sh
/run/firekiln/firekiln connect sh -c 'echo out; echo err >&2; exit 5'
/run/firekiln/firekiln exited $?
"""


def test_an_init_of_the_images_own_is_pid_1_and_the_agent_lives_beside_it(own_kernel, layer, tmp_path):
    made = document(
        "unused",
        init={"argv": ["/bin/init"], "stop": {"signal": 12}},
        files=[
            {"path": "/etc/inittab", "mode": 0o644, "data": INITTAB},
            {"path": "/service", "mode": 0o755, "data": SERVICE},
        ],
    )
    with guest(own_kernel.image, tmp_path, [drive(layer, "l0")], made) as wire:
        assert wire.expect(STARTED, 1)["pid"] == 1
        assert wire.run(2, "cat", "/proc/1/comm")[1] == b"init\n"
        assert wire.expect(EXITED, 1) == {"code": 5, "oom": False}
        assert (wire.output[1, STDOUT], wire.output[1, STDERR]) == (b"out\n", b"err\n")
        wire.send(SHUTDOWN)
        assert wire.vmm.wait(30) == 0
    assert b"Requesting system" in (tmp_path / "console").read_bytes()  # busybox's own words
