"""Disks that are full, read-only or lie, and stores that are damaged: a clear error or a repair, no wrong image."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import faults
import firekiln
from firekiln.errors import DamagedError
from firekiln.store import Store

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts disks of its own"),
    pytest.mark.skipif(faults.BUSYBOX is None, reason="needs busybox-static"),
]

XFS_SIZE = 300 << 20
"""Bytes: mkfs.xfs refuses less."""


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return faults.write_context(tmp_path_factory.mktemp("faults") / "context")


class Reference:
    """A store in which nothing was ever damaged, and its image's digest."""

    def __init__(self, root, context):
        self.root = root
        self.digest = faults.build(root, context)


@pytest.fixture(scope="module")
def reference(context, tmp_path_factory):
    with faults.memory_folder(tmp_path_factory.mktemp("reference")) as folder:
        yield Reference(folder / "store", context)


@pytest.fixture(scope="module")
def digest(reference):
    return reference.digest


@pytest.fixture
def folder(tmp_path):
    with faults.memory_folder(tmp_path) as made:
        yield made


@pytest.fixture(params=["ext4", "xfs"])
def disk(request, folder):
    if shutil.which(f"mkfs.{request.param}") is None:
        pytest.skip(f"needs mkfs.{request.param}")
    made = faults.Disk(folder, request.param, size=XFS_SIZE if request.param == "xfs" else 64 << 20)
    yield made
    made.unmount()


@pytest.fixture
def build(context, monkeypatch):
    """Build in this process: a function of the store's folder."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", faults.EPOCH)

    def made(root, **options):
        return firekiln.build(context, store=root, tags=["web"], **options).digest

    return made


@pytest.fixture
def built(folder, reference):
    """A store with the image, and nothing else."""
    return shutil.copytree(reference.root, folder / "store", symlinks=True)


# --- full disks -------------------------------------------------------------------------------------------------------

STAGES = [0, 48, 160, 1300, 1700, 3200]
"""KiB that are free: from too few to make a store to nearly enough for a build, which takes about 3.6 MiB."""


@pytest.mark.parametrize(
    "stages", [STAGES, pytest.param(range(0, 4800, 100), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_full_disk_is_a_clear_error_at_each_stage_and_the_retry_is_right(disk, build, digest, stages):
    failures = 0
    for free in stages:
        root = disk.path / f"store{free}"
        filler = disk.leave(free << 10)
        error = faults.failure_of(lambda root=root: build(root))
        filler.unlink()
        if error is not None:
            failures += 1
            assert "no space left on device" in str(error), (free, error)
            assert error.hint is not None
        assert build(root) == digest, free
        faults.assert_sound(root, digest)
        assert list((root / "tmp").iterdir()) == []
        shutil.rmtree(root)
    assert failures >= 3


def test_what_was_cached_before_the_disk_was_full_is_still_used(disk, build, digest):
    root = disk.path / "store"
    assert build(root) == digest
    filler = disk.leave(0)
    assert faults.firekiln(root, "images", "-q").stdout.strip() == digest[7:19]
    error = faults.failure_of(lambda: build(root, no_cache=True))
    assert "no space left on device" in str(error)
    filler.unlink()
    assert build(root) == digest


@pytest.mark.parametrize(
    "removal", [["rmi", "web"], ["system", "prune", "-a", "-f"], ["builder", "prune", "-f"]], ids=" ".join
)
def test_what_takes_space_can_be_removed_though_there_is_none(disk, build, digest, removal):
    root = disk.path / "store"
    assert build(root) == digest
    filler = disk.leave(0)
    assert os.statvfs(disk.path).f_bavail < 20
    before = os.statvfs(disk.path).f_bavail
    faults.firekiln(root, *removal)
    assert os.statvfs(disk.path).f_bavail > before
    filler.unlink()
    assert build(root) == digest
    faults.assert_sound(root, digest)


def test_exhausted_inodes_are_a_clear_error_and_the_retry_is_right(folder, build, digest):
    disk = faults.Disk(folder, "ext4", options=("-N", "64"))
    try:
        failures = 0
        for spare in (0, 2, 5, 9, 12, 15, 18, 21, 24):
            root = disk.path / f"store{spare}"
            files = []
            while os.statvfs(disk.path).f_favail > spare:
                files.append(disk.path / f"file{len(files)}")
                files[-1].touch()
            error = faults.failure_of(lambda root=root: build(root))
            for path in files:
                path.unlink()
            if error is not None:
                failures += 1
                assert "no space left on device" in str(error), (spare, error)
            assert build(root) == digest
            faults.assert_sound(root, digest)
            shutil.rmtree(root)
        assert failures >= 3
    finally:
        disk.unmount()


# --- read-only stores -------------------------------------------------------------------------------------------------


def test_a_read_only_store_can_be_looked_at_and_exported_from_but_not_built_in(disk, context, build, digest, folder):
    root = disk.path / "store"
    assert build(root) == digest
    disk.remount("ro")
    assert faults.firekiln(root, "images", "-q").stdout.strip() == digest[7:19]
    assert faults.firekiln(root, "inspect", "web", "-f", "{{.Id}}").stdout.strip() == digest
    assert "COPY" in faults.firekiln(root, "history", "web").stdout
    assert "Images" in faults.firekiln(root, "system", "df").stdout
    assert faults.firekiln(root, "ps", "-a").stdout.startswith("CONTAINER ID")
    faults.firekiln(root, "export", "web", "-o", f"type=tar,dest={folder}/web.tar")
    listed = subprocess.run(["tar", "tf", folder / "web.tar"], capture_output=True, text=True, check=True).stdout
    assert "bin/busybox" in listed
    for args in (
        ["build", context],
        ["build", "--no-cache", context],
        ["run", "web"],
        ["rmi", "web"],
        ["tag", "web", "x"],
    ):
        failed = faults.firekiln(root, *args, status=None)
        assert failed.returncode in (1, 125)
        assert "read-only file system" in failed.stderr.lower(), (args, failed.stderr)
        assert "--root" in failed.stderr
    disk.remount("rw")
    assert build(root) == digest


def test_a_store_that_becomes_read_only_during_a_build_is_a_clear_error(disk, context, build, digest):
    root = disk.path / "store"
    with faults.start_build(root, context) as process:
        while not (root / "index.db").exists():
            assert process.poll() is None
        disk.lose_power()
        _, said = process.communicate()
    assert process.returncode == 1, said
    assert "firekiln: " in said
    assert "Traceback" not in said
    assert "internal error" not in said
    disk.unmount()
    disk.mount()
    assert build(root) == digest
    faults.assert_sound(root, digest)


# --- damaged blobs ----------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Flip a bit in the middle."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 4]))


def silently_flip(path: Path) -> None:
    """As a disk would: nothing about the file but its content is another afterwards, and the host was booted since."""
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def remove(path: Path) -> None:
    path.unlink()


def parts(root: Path) -> dict[str, Path]:
    """One file of each kind."""
    with Store.open(root) as store:
        image = store.images.get("web")
        return {
            "lowest layer": image.layers[0].path,
            "uppermost layer": image.layers[-1].path,
            "config": store.blobs.path(image.config_digest),
            "manifest": store.blobs.path(image.digest),
        }


KINDS = ["lowest layer", "uppermost layer", "config", "manifest"]
QUICK = [(part, flip) for part in KINDS] + [(KINDS[0], silently_flip), (KINDS[0], remove), (KINDS[2], empty)]
HARMS = [flip, silently_flip, truncate, empty, remove]


def many(quick, everything):
    """Parameters of which only the `quick` ones belong to the short form."""
    return [*quick, *(pytest.param(*item, marks=pytest.mark.slow) for item in everything if item not in quick)]


@pytest.mark.parametrize(("part", "harm"), many(QUICK, [(part, harm) for part in KINDS for harm in HARMS]))
def test_a_damaged_blob_is_never_shipped_and_the_next_build_makes_it_again(  # noqa: PLR0917 - fixtures
    built, build, digest, folder, part, harm
):
    harm(parts(built)[part])
    dest = folder / "web.tar"
    failed = faults.firekiln(built, "export", "web", "-o", f"type=tar,dest={dest}", status=1)
    assert not dest.exists()
    assert "damaged" in failed.stderr or "lacks" in failed.stderr
    assert "again" in failed.stderr
    assert build(built) == digest
    faults.assert_sound(built, digest)
    faults.firekiln(built, "export", "web", "-o", f"type=tar,dest={dest}")


@pytest.mark.parametrize(
    ("part", "harm"),
    many([(KINDS[0], truncate), ("manifest", flip)], [(part, harm) for part in KINDS for harm in (flip, truncate)]),
)
def test_a_build_on_a_damaged_base_fails_clearly_until_the_base_is_built_again(  # noqa: PLR0917 - fixtures
    built, build, digest, folder, part, harm
):
    harm(parts(built)[part])
    derived = folder / "derived"
    derived.mkdir()
    (derived / "Dockerfile").write_text("FROM web\nRUN touch /more\n")
    failed = faults.firekiln(built, "build", derived, status=1)
    assert "damaged" in failed.stderr
    assert "build or pull web:latest again" in failed.stderr
    faults.firekiln(built, "images")
    assert build(built) == digest
    faults.firekiln(built, "build", derived)


def test_a_check_finds_what_no_one_has_read(built, build, digest):
    silently_flip(parts(built)["uppermost layer"])
    failed = faults.firekiln(built, "system", "check", status=1)
    assert "1 of" in failed.stderr
    assert len(list((built / "damaged").iterdir())) == 1
    assert build(built) == digest
    faults.firekiln(built, "system", "check")
    faults.firekiln(built, "system", "prune", "-a", "-f")
    assert not (built / "damaged").exists()


def test_a_forced_removal_of_a_damaged_image_works(built):
    flip(parts(built)["manifest"])
    assert "Untagged: web:latest" in faults.firekiln(built, "rmi", "web").stdout
    assert faults.firekiln(built, "images", "-q").stdout == ""


# --- the indexes ------------------------------------------------------------------------------------------------------


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 700)


@pytest.mark.parametrize("harm", [flip, truncate, empty, garbage, remove])
def test_a_damaged_index_json_is_repaired_and_names_what_it_named(built, build, digest, harm):
    before = (built / "index.json").read_bytes()
    harm(built / "index.json")
    assert faults.firekiln(built, "images", "--no-trunc", "-q").stdout.strip() == digest
    assert (built / "index.json").read_bytes() == before
    assert build(built) == digest


def test_without_index_json_and_its_copy_images_are_found_by_their_manifests(built, build, digest):
    garbage(built / "index.json")
    garbage(built / "index.json.copy")
    assert faults.firekiln(built, "images").stdout.split()[6:8] == ["<none>", "<none>"]
    faults.firekiln(built, "tag", digest, "web")
    faults.assert_sound(built, digest)
    assert (built / "index.json.damaged").exists()
    assert build(built) == digest


INDEXES = ["index.db", "index.db-wal", "index.db-shm"]


@pytest.mark.parametrize(
    ("name", "harm"),
    many(
        [*((name, garbage) for name in INDEXES), ("index.db", flip), ("index.db-wal", truncate)],
        [(name, harm) for name in INDEXES for harm in (flip, truncate, empty, garbage, remove)],
    ),
)
def test_a_damaged_index_of_results_costs_work_and_nothing_else(built, build, digest, name, harm):
    script = f"""
        import os, signal
        from firekiln.store import Result, Store
        store = Store.open({str(built)!r})
        store.index.record({{"key": Result(chain="c", layers=(), created="")}})
        os.kill(os.getpid(), signal.SIGKILL)  # the log and its index stay behind
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    harm(built / name)
    assert build(built) == digest
    faults.assert_sound(built, digest)
    assert build(built) == digest


def test_two_processes_that_find_the_index_damaged_lose_no_result_of_each_other(built, context, digest):
    garbage(built / "index.db")
    builds = [faults.start_build(built, context) for _ in range(4)]
    said = [process.communicate() for process in builds]
    assert [(out.strip(), process.returncode) for process, (out, _) in zip(builds, said, strict=True)] == [
        (digest, 0)
    ] * 4, said
    faults.assert_sound(built, digest)


# --- locks and leases of the dead -------------------------------------------------------------------------------------


def test_locks_and_leases_of_killed_processes_hold_nobody_up(built, build, digest):
    script = f"""
        import os, time
        from firekiln.store import Store, locks
        store = Store.open({str(built)!r})
        for offset in (locks.IMAGES, locks.BLOBS, locks.INDEX, locks.named("step")):
            globals()[f"held{{offset}}"] = store.locks.acquire(offset)
        print(store.temporary.folder, flush=True)
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as holder:
        folder = Path(holder.stdout.readline().strip())
        with Store.open(built) as store:
            (folder / "lease").write_text(f"sha256:{'0' * 64}\n")
            assert store.locks.try_acquire(0) is None
        holder.send_signal(signal.SIGKILL)
    (built / "lock").write_text("4194304\n")  # whatever it says, and whoever bears that pid now
    assert build(built) == digest
    assert not folder.exists()


# --- power loss -------------------------------------------------------------------------------------------------------


def test_every_blob_and_image_that_was_acknowledged_survives_a_power_loss(disk, folder):
    root = disk.path / "store"
    script = f"""
        import fcntl, os, struct
        from firekiln.oci.config import Image, ImageConfig
        from firekiln.oci.platform import Platform
        from firekiln.rootfs.tree import Directory, File, Meta
        from firekiln.store import Store
        root = os.open({str(disk.path)!r}, os.O_RDONLY)
        store = Store.open({str(root)!r})
        for number in range(8):
            data = File.of(os.urandom(100_000), Meta(mode=0o644))
            layer = store.layers.commit(Directory(meta=Meta(mode=0o755), children={{b"f": data}}))
            image = Image(platform=Platform("linux", "amd64"), config=ImageConfig(labels={{"n": str(number)}}))
            made = store.images.put(image, [layer], references=[f"image:{{number}}"])
            print(made.digest, flush=True)
        fcntl.ioctl(root, {faults.EXT4_IOC_SHUTDOWN}, struct.pack("I", {faults.NO_LOG_FLUSH}))
        os._exit(0)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    acknowledged = done.stdout.split()
    assert len(acknowledged) == 8
    disk.unmount()
    disk.mount()
    with Store.open(root) as store:
        for number, digest in enumerate(acknowledged):
            image = store.images.get(f"image:{number}")
            assert image.digest == digest
            assert all(store.blobs.is_intact(store.blobs.find(layer.digest)) for layer in image.layers)


def test_a_build_that_was_done_survives_a_power_loss(disk, context, build, digest):
    root = disk.path / "store"
    assert faults.build(root, context) == digest
    disk.lose_power()
    disk.unmount()
    disk.mount()
    faults.assert_sound(root, digest)
    events = []
    assert build(root, on_event=events.append) == digest
    started = [event.task.name for event in events if type(event).__name__ == "Started"]
    assert not any("RUN" in name for name in started), started


# --- many at once -----------------------------------------------------------------------------------------------------


def many_builds(root, context, count):
    builds = [faults.start_build(root, context) for _ in range(count)]
    return [(process.communicate(), process.returncode) for process in builds]


def test_twenty_builds_at_once_run_each_step_once_and_come_to_the_same(folder, context, digest):
    counted = folder / "counted"
    shutil.copytree(context, counted)
    text = faults.DOCKERFILE.replace(
        "RUN cat /data/*", "RUN --mount=type=cache,target=/count,id=count echo ran >> /count/b; cat /data/*"
    )
    (counted / "Dockerfile").write_text(text)
    ends = many_builds(folder / "store", counted, 20)
    assert {status for _, status in ends} == {0}, ends
    assert len({out.strip() for (out, _), _ in ends}) == 1
    for log in ("log", "b"):
        (found,) = (folder / "store" / "cache").rglob(log)
        assert len(found.read_text().splitlines()) == 1, "each step ran once"
    assert list((folder / "store" / "tmp").iterdir()) == []


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_collecting_takes_nothing_from_builds_that_run(folder, context, digest, rounds):
    """Prune as much as possible, as often as possible, while builds come and go."""
    root = folder / "store"
    faults.build(root, context)
    pruning = subprocess.Popen(
        [
            "sh",
            "-c",
            'while :; do "$@" >/dev/null || exit 1; done',
            "sh",
            *faults.command(root, "system", "prune", "-a", "-f"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for _ in range(rounds):
            ends = many_builds(root, context, 3)
            assert [(out.strip(), status) for (out, _), status in ends] == [(digest, 0)] * 3, ends
        assert pruning.poll() is None, pruning.communicate()[1]
    finally:
        os.killpg(pruning.pid, signal.SIGKILL)
        pruning.communicate()
    assert faults.build(root, context) == digest
    faults.assert_sound(root, digest)


def test_a_collected_layer_of_a_running_build_is_none_of_it(built):
    """What a build found stays until it ends, though its results and images are gone meanwhile."""
    with Store.open(built) as store, store.using_blobs():
        image = store.images.checked(store.images.get("web"))
        faults.firekiln(built, "system", "prune", "-a", "-f")
        assert [layer.digest for layer in store.layers.checked(image.layers)] == [
            layer.digest for layer in image.layers
        ]
    faults.firekiln(built, "system", "prune", "-a", "-f")
    with Store.open(built) as store, pytest.raises(DamagedError, match="lacks"):
        store.layers.checked(image.layers)
