"""Volumes and folders of the host in machines that boot. Few boots, each of which is asked much."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from ext4images import e2fsck
from firekiln.errors import ConflictError
from firekiln.machine.supervision.state import State
from firekiln.machine.volumes.drives import Volumes
from firekiln.machine.volumes.mountspec import parse_mount, parse_volume
from firekiln.rootfs.tree import Directory, Meta
from machines import busybox, output, put_image
from trees import file, folder

DEADLINE = 60


def wait_for(machine, text):
    deadline = time.monotonic() + DEADLINE
    while text not in output(machine):
        assert time.monotonic() < deadline, output(machine) + output(machine, "stderr")
        time.sleep(0.02)


def volume(*texts):
    return tuple(map(parse_volume, texts))


@pytest.fixture(scope="module")
def image(store):
    content = Directory(meta=Meta(mode=0o2770, uid=33, gid=33), children={b"first": file(b"of the image\n", uid=33)})
    tree = folder({**busybox().children, b"data": content, b"etc": folder({b"mine": file(b"image's\n")})})
    return put_image(store, "volumes", tree, cmd=("/bin/sh",), volumes=("/data", "/cache")).digest


def test_what_a_guest_has_synced_survives_its_sudden_death(store, boot, image, firekiln):
    """Fault 47. Meanwhile the volume is nobody else's."""
    script = "ls -ldn /data; cat /data/first; echo kept >/data/kept; mkdir /data/sub; sync; echo ready; sleep 1000"
    first = boot("-c", script, image="volumes", entrypoint="/bin/sh", mounts=volume("data:/data"))
    wait_for(first, "ready")
    assert "drwxrws---    2 33       33" in output(first)
    assert "of the image\n" in output(first)
    with pytest.raises(ConflictError, match='volume "data" is in use'):
        boot("-c", "true", image="volumes", entrypoint="/bin/sh", mounts=volume("data:/data:ro"))
    refused = firekiln("volume", "rm", "data")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"volume is in use" in refused.stderr
    os.kill(first.record.pid, signal.SIGKILL)
    first.wait(DEADLINE)

    mounts = (*volume("data:/elsewhere"), parse_mount("type=volume,source=data,target=/sub,volume-subpath=sub"))
    second = boot(
        "-c", "cat /elsewhere/kept; ls /elsewhere; touch /sub/x", image="volumes", entrypoint="/bin/sh", mounts=mounts
    )
    assert second.wait(DEADLINE) == 0
    assert output(second) == "kept\nfirst\nkept\nsub\n"
    e2fsck(Volumes(store).get("data").drive)
    assert [point["Destination"] for point in inspected(firekiln, second)] == ["/cache", "/data", "/elsewhere", "/sub"]
    anonymous = [item for item in Volumes(store).list() if item.is_anonymous]
    assert len(anonymous) == 3  # /cache of the first, /cache and /data of the second
    for machine in (first, second):
        assert firekiln("rm", "-v", machine.id).returncode == 0
    assert [item.name for item in Volumes(store).list()] == ["data"]
    assert firekiln("volume", "rm", "data").stdout == b"data\n"


def inspected(firekiln, machine):

    return json.loads(firekiln("inspect", "--format", "{{json .Mounts}}", machine.id).stdout)


def test_folders_are_copied_where_the_kernel_cannot_share_them(boot, image, tmp_path, firekiln, store):
    site = tmp_path / "a, site"
    site.mkdir()
    (site / "page").write_text("of the host\n")
    (site / "page").chmod(0o604)
    (tmp_path / "mine").write_text("host's\n")
    script = (
        "cat /site/page /etc/mine /ro/page; stat -c %a /site/page; echo x >/site/new && cat /site/new;"
        "echo x >/ro/new; echo x >/t/y; df -k /t | tail -1; stat -c %a /t; grep ' /t ' /proc/mounts"
    )
    done = firekiln(
        "run",
        "--rm",
        *("-v", f"{site}:/site"),
        *("--mount", f'type=bind,"source={site}",target=/ro,readonly'),
        *("-v", f"{tmp_path}/mine:/etc/mine:ro"),
        *("--tmpfs", "/t:size=2m,mode=750"),
        *("--entrypoint", "/bin/sh", "volumes", "-c", script),
    )
    text = done.stdout.decode()
    assert text.startswith("of the host\nhost's\nof the host\n604\nx\n"), done
    assert "2048" in text
    assert "\n750\n" in text
    assert "noexec" in text
    assert b"Read-only file system" in done.stderr
    assert b"the host won't see" in done.stderr
    assert not (site / "new").exists()
    assert Volumes(store).list() == []
    assert State(store.machines).list() == []


def test_folders_are_shared_where_the_kernel_can(own_kernel, store, firekiln, image, tmp_path):
    place = store.kernels / own_kernel.image.parent.name
    if not place.exists():
        place.symlink_to(own_kernel.image.parent)
    (tmp_path / "page").write_text("of the host\n")
    script = (
        "cat /src/page; echo new >/src/made; mkdir /src/sub; chmod 700 /src/sub; ln -s page /src/link;"
        "cat /ro/made; touch /ro/x"
    )
    try:
        done = firekiln(
            "run",
            "--rm",
            *("-v", f"{tmp_path}:/src", "-v", f"{tmp_path}:/ro:ro"),
            *("--entrypoint", "/bin/sh", "volumes", "-c", script),
        )
    finally:
        place.unlink()
    assert done.stdout == b"of the host\nnew\n", done
    assert (tmp_path / "made").read_text() == "new\n"
    assert (tmp_path / "sub").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "link").readlink() == Path("page")
    assert b"Read-only file system" in done.stderr
    assert not (tmp_path / "x").exists()
