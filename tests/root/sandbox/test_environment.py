"""A step's surroundings, against what BuildKit gives."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

import isolation
from firekiln.errors import SandboxError
from systems import system
from trees import file, folder, static_elf

pytestmark = pytest.mark.root


def test_a_step_has_only_its_own_environment_and_docker_defaults(run, monkeypatch):
    monkeypatch.setenv("CANARY", "of the host")
    result = run("env")
    assert dict(line.split("=", 1) for line in result.out.splitlines()) == {
        "HOME": "/root",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PWD": "/",
        "SHLVL": "1",
    }


def test_a_step_keeps_the_variables_that_it_is_given(run):
    result = run("echo $HOME $X; echo $PATH", env=("X=a b", "HOME=/else", "PATH=/bin"))
    assert result.out == "/else a b\n/bin\n"


@pytest.mark.parametrize(
    ("user", "home", "identity"),
    [
        (None, "/root", "uid=0(root) gid=0(root) groups=0(root)"),
        ("bob", "/home/bob", "uid=7(bob) gid=8(bob) groups=8(bob),9(grp),10(sup)"),
        ("bob:root", "/home/bob", "uid=7(bob) gid=0(root) groups=0(root)"),
        ("7", "/home/bob", "uid=7(bob) gid=8(bob) groups=8(bob),9(grp),10(sup)"),
        ("99", "/", "uid=99 gid=0(root) groups=0(root)"),
        ("99:98", "/", "uid=99 gid=98 groups=98"),
    ],
)
def test_users_are_resolved_as_buildkit_does(run, user, home, identity):
    result = run("echo $HOME; id", user=user)
    assert result.out.splitlines() == [home, identity]


def test_unknown_names_are_refused_in_buildkit_words(run):
    with pytest.raises(SandboxError, match=r"^unable to find user nosuch: no matching entries in passwd file$"):
        run("id", user="nosuch")
    with pytest.raises(SandboxError, match=r"^unable to find group nosuch: no matching entries in group file$"):
        run("id", user="bob:nosuch")


def test_capabilities_umask_and_descriptors_are_docker_s(run):
    held = os.open("/etc", os.O_RDONLY)
    os.set_inheritable(held, True)
    try:
        result = run("umask; grep -E 'Cap|NoNew' /proc/self/status; echo /proc/self/fd/*; readlink /proc/self/fd/0")
    finally:
        os.close(held)
    lines = result.out.splitlines()
    assert lines[0] == "0022"
    assert dict(line.split(":\t") for line in lines[1:7]) == {
        "CapInh": "0000000000000000",
        "CapPrm": "00000000a80425fb",
        "CapEff": "00000000a80425fb",
        "CapBnd": "00000000a80425fb",
        "CapAmb": "0000000000000000",
        "NoNewPrivs": "0",
    }
    assert lines[7].split()[:3] == [f"/proc/self/fd/{number}" for number in range(3)]
    assert len(lines[7].split()) <= 4, "the fourth is the shell's own, of the directory that it lists"
    assert lines[8] == "/dev/null"


def test_a_step_is_bound_to_the_calls_of_docker_s_profile_and_an_insecure_one_is_not(run):
    assert run("grep Seccomp: /proc/self/status").out == "Seccomp:\t2\n"
    assert run("grep Seccomp: /proc/self/status", user="bob").out == "Seccomp:\t2\n"
    assert run("unshare -U true").status != 0
    assert run("unshare -U true && grep Seccomp: /proc/self/status", insecure=True).out == "Seccomp:\t0\n"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86-64")
@pytest.mark.parametrize(
    "code",
    [
        b"\xb8\xf8\x00\x00\x00\x0f\x05",  # mov eax, add_key; syscall
        b"\xb8\x1e\x01\x00\x00\xcd\x80",  # the same by the 32-bit way: mov eax, add_key; int 0x80
    ],
)
def test_the_32_bit_way_into_the_kernel_is_bound_too(run, layer, code):
    start = b"\x31\xff\x31\xf6\x31\xd2\x31\xdb\x31\xc9"  # the arguments are 0
    end = b"\xf7\xd8\x89\xc7\xb8\x3c\x00\x00\x00\x0f\x05"  # exit(-eax)
    alone = layer(folder({b"call": file(static_elf(start + code + end), mode=0o755)}))
    assert run(args=["/call"], layers=[alone]).status == errno.EPERM
    assert run(args=["/call"], layers=[alone], insecure=True).status == errno.EFAULT


@isolation.needs_root
def test_an_insecure_step_keeps_all_capabilities_and_may_mount(run):
    result = run(
        "mount -t tmpfs x /tmp && grep CapEff /proc/self/status; touch /proc/sys/kernel/domainname", insecure=True
    )
    assert result.status == 0
    assert int(result.out.split()[1], 16) & ~0xA80425FB
    assert run("mount -t tmpfs x /tmp").status != 0
    assert result.changed == {}


def test_another_user_has_no_capabilities(run):
    assert "CapEff:\t0000000000000000" in run("cat /proc/self/status", user="bob").out


def test_a_step_is_the_first_process_and_sees_no_other(run):
    result = run("echo $$; echo /proc/[0-9]*")
    assert result.out == "1\n/proc/1\n"


def test_the_usual_file_systems_are_there(run):
    result = run("cat /proc/mounts; ls /dev; echo x >/dev/null; head -c 3 /dev/zero | wc -c; ls -l /dev/null; hostname")
    mounts = {row.split()[1]: row.split() for row in result.out.splitlines() if row.count(" ") >= 5 and " /" in row}
    for place in "/ /proc /dev /dev/pts /dev/shm /dev/mqueue /sys /etc/resolv.conf /etc/hosts /proc/sys".split():
        assert place in mounts
    for place in "/sys /etc/resolv.conf /etc/hosts /proc/sys /proc/bus".split():
        assert "ro" in mounts[place][3].split(",")
    assert "nodev" in mounts["/"][3].split(","), "a device node that a step makes must open nothing"
    listed = result.out.splitlines()
    for name in "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero".split():
        assert name in listed
    assert listed[-1] == "buildkitsandbox"
    assert any(line.startswith("crw-rw-rw-") and line.endswith("/dev/null") for line in listed)


@isolation.needs_root
def test_device_nodes_cannot_be_used_to_reach_the_host_s_disks(run):
    result = run(
        "mknod /tmp/disk b 1 0; mknod /dev/disk b 1 0; mknod /tmp/n c 1 3; cat /tmp/disk /dev/disk; cat /tmp/n"
    )
    assert result.status != 0
    assert result.err.count("Permission denied") == 3


@isolation.needs_root
def test_a_step_cannot_change_the_host_s_devices(run):
    before = stat.S_IMODE(Path("/dev/null").stat().st_mode)
    assert run("chmod 600 /dev/null && chown 7 /dev/tty").status == 0
    assert stat.S_IMODE(Path("/dev/null").stat().st_mode) == before
    assert Path("/dev/tty").stat().st_uid == 0


def test_hosts_has_the_step_s_name_and_extra_hosts(run):
    result = run("cat /etc/hosts; cat /etc/resolv.conf", extra_hosts={"mirror": "10.0.0.7"}, hostname="kiln")
    assert "127.0.0.1\tlocalhost kiln\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tmirror\n" in result.out
    assert result.out.endswith(Path("/etc/resolv.conf").read_text())


def test_without_a_network_only_the_loopback_is_up(run):
    result = run(
        "ls /sys/class/net; ip addr show lo; ping -c 1 -W 1 127.0.0.1 >/dev/null && echo alive", network="none"
    )
    assert "lo\n" in result.out
    assert ",UP" in result.out
    assert "alive" in result.out
    assert "eth" not in result.out


def test_the_default_network_is_the_host_s(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert run(f"nc 127.0.0.1 {port} -e true").status == 0
        assert run(f"nc 127.0.0.1 {port} -e true", network="none").status != 0


def test_a_working_directory_that_is_missing_is_made(run):
    result = run("pwd", cwd="/not/there")
    assert result.out == "/not/there\n"
    assert result.changed == {"not": "Directory", "not/there": "Directory"}


def test_a_program_is_found_on_the_path_of_the_image(run):
    assert run(args=["id", "-u"]).out == "0\n"
    assert run(args=["nosuch"]).status == 127
    assert 'exec: "nosuch": executable file not found in $PATH' in run(args=["nosuch"]).err
    assert run(args=["/etc/passwd"]).status == 126


def test_arguments_are_passed_as_they_are(run):
    words = ["", "a b", "$X", "'\"", "x\ny", "ä\udcff"]
    result = run(args=["/bin/sh", "-c", 'for w in "$@"; do printf "%s" "$w" | md5sum; done', "sh", *words[:5]])
    assert len(result.out.splitlines()) == 5
    assert run(args=["printf", "%s|", *words[:5]]).out == "|a b|$X|'\"|x\ny|"


def test_signals_are_at_their_defaults(run):
    assert run(args=["grep", "SigIgn", "/proc/self/status"]).out == "SigIgn:\t0000000000000000\n"


def test_a_step_killed_by_a_signal_has_a_shell_s_status(run):
    assert run("sh -c 'kill -9 $$'; exit $?").status == 137


def test_exit_status_and_streams_are_passed_on(run):
    result = run("echo out; echo err >&2; exit 3")
    assert (result.status, result.out, result.err) == (3, "out\n", "err\n")


def test_a_base_of_one_static_program_runs(run, layer, busybox):
    alone = layer(folder({b"busybox": file(busybox, mode=0o755)}))
    result = run(args=["/busybox", "env"], layers=[alone])
    assert result.out.splitlines() == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"]
    assert result.changed == {}


def test_sixty_layers_are_stacked_in_order(run, layer, base):
    many = [layer(folder({b"n": file(b"%d" % number), b"f%d" % number: file()})) for number in range(70)]
    result = run("cat /n; ls / | grep -c ^f", layers=[base, *many])
    assert result.out == "6970\n"


def test_passwd_may_be_a_link_within_the_image_or_anything(run, layer, busybox):
    from firekiln.rootfs.tree import Fifo, Meta
    from trees import link

    inside = layer(
        system(busybox, etc={b"passwd": link(b"/../../etc/other"), b"other": file(b"eve:x:44:45::/eve:/x\n")})
    )
    assert run("id -u", layers=[inside], user="eve").out == "44\n"
    fifo = layer(system(busybox, etc={b"passwd": Fifo(meta=Meta(mode=0o644))}))
    with pytest.raises(SandboxError, match="no matching entries"):
        run("id -u", layers=[fifo], user="eve")
