"""What a kernel's build runs on the host: programs and libraries, command lines, environment, log."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from firekiln.errors import MachineError, MissingProgramError

_PROGRAMS: Final = {
    # program: Debian's package
    "bc": "bc",
    "bison": "bison",
    "dpkg-deb": "dpkg",
    "flex": "flex",
    "gcc": "gcc",
    "ld": "binutils",
    "make": "make",
    "tar": "tar",
    "xz": "xz-utils",
}
_HEADERS: Final = {"stdlib.h": "libc6-dev", "gelf.h": "libelf-dev"}
"""libelf is objtool's, which writes the tables for unwinding and checks that every indirect jump is guarded."""

_UNUSED: Final = ("arch/[a-w]*.[chS]", "arch/[a-w]*.dts*", "Documentation/*/*", "tools/testing/*")
"""A third of the source's files: code of other architectures, documentation, tests. Kconfig wants all its own files."""

_NICE: Final = ("nice", "-n", "10")
_TAIL: Final = 12
_COMPILED: Final = re.compile(rb"^  (?:CC|AS) ")
_FAILED: Final = re.compile(rb"^make(?:\[\d+\])?: \*\*\* \[")


def missing_packages() -> list[str]:
    """Debian's packages that a build needs and the host lacks."""
    missing = [package for program, package in _PROGRAMS.items() if shutil.which(program) is None]
    if shutil.which("gcc"):
        missing += [package for header, package in _HEADERS.items() if not _has_header(header)]
    else:
        missing += _HEADERS.values()
    return missing


def toolchain() -> str:
    """Compiler and linker with their versions: with another one the kernel would be another."""
    return "; ".join(_first_line([program, "--version"]) for program in ("gcc", "ld"))


def make_argv(*words: str) -> list[str]:
    """make, behind whatever else the host is doing. ARCH is given since a 32-bit user land would choose another."""
    return [*_NICE, "make", "ARCH=x86_64", *words]


def unpack_argv(archive: Path, folder: Path) -> list[str]:
    """tar, for a source package whose signature apt has checked; its one folder, but for _UNUSED, becomes `folder`."""
    top = archive.name.removesuffix(".tar.xz")
    return [
        *(*_NICE, "tar"),
        *("--extract", "--xz", f"--file={archive}"),
        *("--anchored", *(f"--exclude={top}/{pattern}" for pattern in _UNUSED)),
        *("--strip-components=1", f"--directory={folder}", "--no-same-owner"),
    ]


def make_environment(epoch: int) -> dict[str, str]:
    """All that a build sees of its surroundings; `epoch` (seconds) is the time that the kernel says it was built at."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": str(epoch),
        "KBUILD_BUILD_TIMESTAMP": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(epoch)),  # as `uname -v` shows it
        "KBUILD_BUILD_USER": "firekiln",
        "KBUILD_BUILD_HOST": "firekiln",
        "KBUILD_BUILD_VERSION": "1",
    }


class BuildLog:
    """The file that takes what a build's programs write. It stays when the build is over, until the next one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        self._file = self.path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def run(
        self,
        argv: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        *,
        compiled: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Run a program to its end; `compiled` is told how many files kbuild has begun to compile.

        MachineError where it fails, with the last lines that it wrote, or that make wrote up to the first target that
        failed. An exception here, such as Ctrl-C's, ends it and all that it started.
        """
        tail: deque[bytes] = deque(maxlen=_TAIL)
        count, failed = 0, b""
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=environment,
            start_new_session=True,  # so that make's compilers can be ended with it
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    self._file.write(line)
                    tail.append(line)
                    if _FAILED.match(line) and not failed:
                        failed = b"".join(tail)
                    if _COMPILED.match(line):
                        count += 1
                        compiled(count)
                status = process.wait()
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        if status:
            lines = (failed or b"".join(tail)).decode(errors="replace").rstrip()
            raise MachineError(
                f"{_program(argv)} ended with status {status}:\n{lines}", hint=f"the whole log: {self.path}"
            )


def _program(argv: Sequence[str]) -> str:
    """What the command line is about, `nice` aside."""
    return argv[len(_NICE) if tuple(argv[: len(_NICE)]) == _NICE else 0]


def _has_header(name: str) -> bool:
    done = subprocess.run(
        ["gcc", "-E", "-x", "c", "-"], input=f"#include <{name}>\n".encode(), capture_output=True, check=False
    )
    return done.returncode == 0


def _first_line(argv: Sequence[str]) -> str:
    try:
        return subprocess.run(argv, capture_output=True, check=True).stdout.decode(errors="replace").splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise MissingProgramError(f"{argv[0]} does not work: {error}", hint=f"apt-get install {argv[0]}") from error
