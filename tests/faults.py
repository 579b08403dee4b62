"""Builds that are interrupted: the command in a process of its own, what it must not leave, disks that fail."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from firekiln.errors import FirekilnError
from firekiln.store import Store

BUSYBOX = shutil.which("busybox")
EPOCH = "1700000000"
PR_SET_CHILD_SUBREAPER = 36
EXT4_IOC_SHUTDOWN = 0x8004587D
"""_IOR('X', 125, __u32), the same number for ext4 and xfs."""
NO_LOG_FLUSH = 2

# Two stages at once, every kind of step and of mount. Each layer is the same whenever it is made.
DOCKERFILE = """
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
FROM base AS a
RUN --mount=type=cache,target=/c echo x >> /c/log; echo a > /a
FROM base AS b
COPY data /data
RUN cat /data/* > /b; ln /b /b2; rm /bin/ls
FROM base
COPY --from=a /a /a
COPY --from=b /b /b2 /
RUN --mount=from=b,target=/m --mount=type=tmpfs,target=/t cat /m/data/1 > /t/x; mkdir -p /d/e && cp /t/x /d/e/f
WORKDIR /w
CMD ["/bin/true"]
"""


def write_context(folder: Path) -> Path:
    """The context of DOCKERFILE."""
    (folder / "data").mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "busybox")
    for number in range(5):
        (folder / "data" / str(number)).write_text(f"{number}\n" * 1000)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    return folder


def command(root: Path, *args: object) -> list[str]:
    return [sys.executable, "-m", "firekiln", "--root", str(root), *map(str, args)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, **more}


def start_build(root: Path, context: Path, *args: object, **more: str) -> subprocess.Popen[str]:
    argv = command(root, "build", "-q", "-t", "web", *args, context)
    return subprocess.Popen(argv, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def build(root: Path, context: Path, *args: object, **more: str) -> str:
    """The digest of a build that succeeds."""
    with start_build(root, context, *args, **more) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    return out.strip()


def firekiln(root: Path, *args: object, status: int | None = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """A command's end, which is no traceback."""
    done = subprocess.run(
        command(root, *args), env=environment(**more), capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "internal error" not in done.stderr, done.stderr
    if status is not None:
        assert done.returncode == status, done.stderr
    return done


def adopt_orphans() -> None:
    """Have what a killed process leaves become children of this one, so that none is overlooked."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@contextlib.contextmanager
def memory_folder(fallback: Path) -> Iterator[Path]:
    """A folder in memory, for tests that have nothing to do with a disk but would wait for it; else `fallback`."""
    if not os.access("/dev/shm", os.W_OK):
        yield fallback
        return
    with tempfile.TemporaryDirectory(prefix="firekiln-test-", dir="/dev/shm") as folder:
        yield Path(folder)


def children_of(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.append(int(folder.name))
    return found


def descendants_end(before: set[int], seconds: float = 5.0) -> list[int]:
    """Wait for the end of this process's children other than `before`; those that stay."""
    deadline = time.monotonic() + seconds
    while left := set(children_of(os.getpid())) - before:
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            return sorted(left)
        time.sleep(0.01)
    return []


def mounts_and_loops(folder: Path) -> list[str]:
    """Mounts of this namespace and loop devices that have to do with a folder, or with steps."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    found = [line for line in lines if f"{folder}/" in line or line.startswith("firekiln")]
    listed = subprocess.run(["losetup", "-n", "-O", "BACK-FILE"], capture_output=True, text=True, check=True).stdout
    return found + [line for line in listed.splitlines() if line.startswith(f"{folder}/")]


def files_of(root: Path) -> set[str]:
    """The files of a store that a build makes and keeps, by their paths; logs of SQLite's come and go."""
    found = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    return {name for name in found if not name.startswith(("index.db-", "contexts/"))}


def assert_sound(root: Path, digest: str) -> None:
    """The image is there as a whole, every blob is what its name says, and every layer passes fsck."""
    with Store.open(root) as store:
        image = store.images.checked(store.images.get("web"))
        assert image.digest == digest
        assert store.images.damaged() == {}
        assert all(store.blobs.is_intact(blob) for blob in store.blobs.all())
        if fsck := shutil.which("fsck.erofs"):
            for layer in image.layers:
                subprocess.run([fsck, layer.path], check=True, stdout=subprocess.DEVNULL)


class Disk:
    """A small file system of its own in a file, mounted at `path`."""

    def __init__(self, folder: Path, kind: str, *, size: int = 64 << 20, options: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.path = folder / "disk"
        self._file = folder / "disk.img"
        with self._file.open("xb") as file:
            file.truncate(size)
        if kind == "ext4":
            options = ("-m", "0", *options)  # root may use what is reserved, and these tests are root
        subprocess.run([f"mkfs.{kind}", "-q", *options, self._file], check=True, capture_output=True)
        self.path.mkdir()
        self.mount()

    def mount(self, *options: str) -> None:
        flags = ["-o", ",".join(("loop", *options))]
        subprocess.run(["mount", "-t", self.kind, *flags, self._file, self.path], check=True)

    def remount(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", self.path], check=True)

    def lose_power(self) -> None:
        """From here on nothing reaches the disk, and what did not so far is lost, the file system's log included."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def unmount(self) -> None:
        # Lazily where something in it is still open: a test that failed keeps its variables.
        if subprocess.run(["umount", self.path], check=False, capture_output=True).returncode:
            subprocess.run(["umount", "--lazy", self.path], check=True)

    def leave(self, free: int) -> Path:
        """Fill the disk but for `free` bytes; the file that does so."""
        filler = self.path / "filler"
        with filler.open("wb") as file:
            step, size = 1 << 20, 0
            while step >= 4096:
                if self._free() - free < step:
                    step //= 4
                    continue
                try:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
                except OSError:  # the file system keeps some for itself
                    step //= 4
        return filler

    def _free(self) -> int:
        os.sync()
        space = os.statvfs(self.path)
        return space.f_bavail * space.f_frsize


def failure_of(action) -> FirekilnError | None:
    """The clear error with which `action` failed, if it did. Anything else is raised."""
    try:
        action()
    except FirekilnError as error:
        return error
    return None
