"""Which failed steps are told of --isolation=vm, by what programs of Debian and busybox really say."""

from __future__ import annotations

import pytest

from firekiln.sandbox.denied import HINT, advice

SHELL = ("/bin/sh", "-c")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mount -t tmpfs none /mnt", b"mount: /mnt: permission denied.\n       dmesg(1) may have more information\n"),
        ("mount -t tmpfs none /mnt", b"mount: permission denied (are you root?)\n"),
        ("set -e; losetup -f --show /disk", b"losetup: cannot find an unused loop device: Permission denied\n"),
        ("losetup -f /disk", b"losetup: no free loop devices\n"),
        ("l=$(losetup -f); losetup $l /disk", b"losetup: /disk: No such file or directory\n"),
        ("nft add table inet t", b"Error: Could not process rule: Operation not permitted\n"),
        (
            "/sbin/iptables -L",
            b"iptables v1.8.9 (nf_tables): Could not fetch rule set: Permission denied (you must be root)\n",
        ),
        ("/build.sh", b"mount: /mnt: permission denied.\n"),
        ("ip link add dummy0 type dummy", b"RTNETLINK answers: Operation not permitted\n"),
        ("sysctl -w net.ipv4.ip_forward=1", b"sysctl: setting key: Read-only file system\n"),
    ],
)
def test_a_step_that_was_denied_the_kernel_is_told_of_machines(line, said):
    assert advice((*SHELL, line), said) == HINT


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cat /etc/shadow", b"cat: can't open '/etc/shadow': Permission denied\n"),
        ("cp a b", b"cp: cannot create 'b': Operation not permitted\n"),
        ("mount --version && false", b"mount from util-linux 2.38.1\n"),
        ("amount=3; ./mount.py", b"PermissionError: [Errno 13] Permission denied: 'x'\n"),
        ("make", b"cc: error: mount.c: No such file or directory\n"),
        ("npm ci", b"npm ERR! EACCES: permission denied, mkdir '/node_modules'\n"),
        ("mount x || true; make", b"mount: permission denied\n" + b"compiling\n" * 30 + b"make: *** [all] Error 1\n"),
        ("exit 3", b""),
    ],
)
def test_a_step_that_failed_of_itself_is_told_nothing(line, said):
    assert advice((*SHELL, line), said) is None
