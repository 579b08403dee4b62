"""Pruning while a machine runs, and after it is gone."""

import time

from machines import busybox, output, put_image
from trees import file, folder

SERVE = ("sh", "-c", "echo up; while [ ! -e /stop ]; do cat /late >/dev/null && echo read; sleep 0.2; done")


def test_what_a_machine_uses_stays_until_it_is_removed(store, boot, firekiln):
    many = [folder({b"f%d" % number: file(b"x")}) for number in range(10)]
    image = put_image(store, "many", busybox(), folder({b"late": file(b"y" * 100_000)}), *many)
    machine = boot(*SERVE, image="many")
    with store.using_blobs():  # at its end this process, too, lets go of what it made
        put_image(store, "other", folder({b"other": file(b"z")}))
    pruned = firekiln("system", "prune", "-a", "-f")
    assert pruned.returncode == 0, pruned.stderr
    assert b"untagged: other:latest" in pruned.stdout
    assert store.images.find("other") is None
    assert store.images.checked(store.images.get("many")).digest == image.digest
    assert machine.settings.spec.kernel.exists()
    assert all(drive.path.exists() for drive in machine.settings.spec.drives)
    seen = output(machine).count("read")
    deadline = time.monotonic() + 10
    while output(machine).count("read") <= seen:
        assert time.monotonic() < deadline
        time.sleep(0.05)

    machine.stop(0)
    pruned = firekiln("system", "prune", "-a", "-f")
    assert machine.id.encode() in pruned.stdout, "a stopped machine goes, as Docker's containers do"
    assert store.images.find("many") is None
    assert list(store.blobs.all()) == []
    assert len(list(store.kernels.iterdir())) == 1
