"""PID 1 in a machine of the test's own, with documents that no image and no option asked for."""

import subprocess

import pytest

from firekiln.rootfs import erofs
from guests import EXITED, HELLO, LOG, PING, PONG, SHUTDOWN, STARTED, STATS, STDERR, STDOUT, TOP, document, drive, guest
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
        assert wire.vmm.wait(60) == 0
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
        assert wire.vmm.wait(60) == 0
    assert b"Requesting system" in (tmp_path / "console").read_bytes()  # busybox's own words


def test_pid_1_takes_less_than_a_mib_whatever_it_was_asked_for(own_kernel, layer, tmp_path):
    with guest(own_kernel.image, tmp_path, [drive(layer, "l0")], document("sleep", "1000")) as wire:
        wire.expect(STARTED, 1)
        for number in range(2, 12):  # with the largest standard input that is taken before anybody reads it
            wire.run(number, "sh", "-c", "sleep 0; wc -c", stdin=b"x" * 65536)
        for kind in (STATS, TOP):
            wire.send(kind)
            wire.expect(kind)
        _, status = wire.run(2, "cat", "/proc/1/status")
    peak = next(line for line in status.decode().splitlines() if line.startswith("VmHWM:"))
    assert int(peak.split()[1]) <= 1024, peak  # KiB


def test_no_two_boots_have_random_numbers_in_common_and_the_hosts_are_taken(own_kernel, layer, tmp_path):
    numbers = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        script = "cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1"
        with guest(
            own_kernel.image, folder, [drive(layer, "l0")], document("sh", "-c", script + "; sleep 1000")
        ) as wire:
            wire.expect(STARTED, 1)
            wire.send(HELLO, protocol=1, entropy="00ff" * 256)
            wire.send(PING, payload=b"after it")
            wire.expect(PONG)
            complaints = [payload for kind, _, payload in wire.frames if kind == LOG]
            assert complaints == []
            while wire.output[1, STDOUT].count(b"\n") < 2:
                wire.expect(STDOUT, 1)
            numbers.append(bytes(wire.output[1, STDOUT]).split())
    assert len(numbers[0]) == len(numbers[1]) == 17
    assert numbers[0][0] != numbers[1][0]
    assert numbers[0][1:] != numbers[1][1:]
