"""A process of its own that hashes files of a folder: threads of one process only wait for one another.

Started by `filedigest` as a file, without site-packages, so that it is there within 15 ms. Its argument is the number
of a descriptor of the folder; standard input has paths, each ended by a NUL; standard output gets a line for each:
device, inode, size, mtime in nanoseconds and sha256, or nothing where the file can't be read as an ordinary one.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from pathlib import Path

_CHUNK = 1 << 20


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[3]))
    from firekiln.rootfs.openat2 import open_beneath  # noqa: PLC0415 - this file is run as a script: see above

    folder = int(sys.argv[1])
    lines = []
    for path in sys.stdin.buffer.read().split(b"\0")[:-1]:
        try:
            fd = open_beneath(folder, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            lines.append("")
            continue
        try:
            lines.append(_line(fd))
        except OSError:
            lines.append("")
        finally:
            os.close(fd)
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _line(fd: int) -> str:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return ""
    content = hashlib.sha256()
    while data := os.read(fd, _CHUNK):
        content.update(data)
    return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {content.hexdigest()}"


if __name__ == "__main__":
    main()
