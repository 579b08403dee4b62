"""The kernel of our own, where there is one, and how it is made."""

import contextlib
import re
import signal
import time

import pytest

from firekiln.machine.kernel.make import missing_packages
from firekiln.machine.kernel.own import build
from firekiln.machine.options import RunOptions
from firekiln.machine.run import start
from firekiln.rootfs import erofs
from firekiln.store import Store
from guests import EXITED, STDOUT, document, drive, guest
from machines import BUSYBOX, busybox, output, put_image

PROBE = """\
before=$(cut -d' ' -f1 /proc/uptime); sleep 1; after=$(cut -d' ' -f1 /proc/uptime)
echo "slept $before $after"; echo "date $(date +%s)"; uname -r
grep -c . /proc/modules 2>/dev/null || echo no modules
sed 's/.*\\t//' /proc/filesystems | tr '\\n' ' '; echo
grep -q device-mapper /proc/misc && echo device-mapper; ls /dev/hwrng
grep ' / ' /proc/mounts; head -c 1000000 /dev/zero > /file && sync && wc -c < /file
"""


@pytest.fixture(scope="module")
def own_store(own_kernel, tmp_path_factory):
    """A store with that kernel and no other."""
    if not BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    with Store.open(tmp_path_factory.mktemp("store")) as made:
        folder = own_kernel.image.parent
        (made.kernels / folder.name).symlink_to(folder)
        put_image(made, "busybox", busybox(), cmd=("/bin/sh",))
        yield made


def test_our_own_kernel_has_clock_timer_drives_entropy_and_file_systems(own_store):
    with start(own_store, RunOptions(image="busybox", args=("sh", "-c", PROBE))) as machine:
        assert machine.wait(60) == 0
        said = output(machine)
    before, after = map(float, re.search(r"slept (\S+) (\S+)", said).groups())
    assert 0.9 <= after - before < 10
    assert abs(int(re.search(r"date (\d+)", said)[1]) - time.time()) < 60
    assert "-microvm\n" in said
    assert "no modules" in said
    names = set(next(line for line in said.splitlines() if "tmpfs" in line).split())
    assert {"ext4", "erofs", "overlay", "squashfs", "9p", "virtiofs", "autofs", "fuse"} <= names
    assert "device-mapper\n/dev/hwrng\noverlay / overlay " in said
    assert said.endswith("1000000\n")


def test_our_own_kernel_runs_several_processors_and_passes_on_the_exit_status(own_store):
    with start(own_store, RunOptions(image="busybox", args=("sh", "-c", "nproc; exit 7"), vcpus=2)) as machine:
        assert machine.wait(60) == 7
        assert output(machine) == "2\n"


def starve(vmm):
    """Give the VMM the processor for 5 ms at a time, as where 16 others want it, while the kernel starts."""
    with contextlib.suppress(ProcessLookupError):
        for _ in range(80):
            vmm.send_signal(signal.SIGSTOP)
            time.sleep(0.04)
            vmm.send_signal(signal.SIGCONT)
            time.sleep(0.005)


@pytest.mark.slow
def test_a_kernel_that_starts_where_others_want_the_processor_has_its_timer_all_the_same(own_kernel, tmp_path):
    if not BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    layer = tmp_path / "layer"
    with layer.open("w+b") as file:
        erofs.write(busybox(), file.fileno())
    script = "grep -A12 'Clock Event Device: lapic' /proc/timer_list | grep mult; sleep 0.1; echo slept"
    made = document("sh", "-c", script)
    with guest(own_kernel.image, tmp_path, [drive(layer, "l0")], made, meanwhile=starve) as wire:
        wire.expect(EXITED, 1)
        said = bytes(wire.output[1, STDOUT]).decode()
    assert re.fullmatch(r" mult: +268435456\nslept\n", said), said  # 2^32 by 16: a 62.5 MHz timer, to the last digit


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(7200)
def test_the_kernel_of_our_own_is_built_and_twice_the_same(own_kernel, tmp_path):
    if missing := missing_packages():
        pytest.skip(f"a kernel's build needs {', '.join(missing)}")
    with Store.open(tmp_path / "store") as store:
        made = build(store)
        assert (made.kind, made.modules) == ("own", ())
        start_of_second = time.monotonic()
        assert build(store) == made
        assert time.monotonic() - start_of_second < 1
        assert list(store.temporary.folder.iterdir()) == []
    if own_kernel.recipe == made.recipe:  # else a newer source or compiler came meanwhile
        assert own_kernel.digest == made.digest
