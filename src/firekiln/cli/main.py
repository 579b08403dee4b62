"""The entry point. It imports next to nothing: `firekiln --version` waits for nothing, and an early Ctrl-C is quiet."""

from __future__ import annotations

import atexit
import gc
import os
import sys

from firekiln.version import __version__

TYPE_CHECKING = False  # typing's, which takes 2 ms to import; type checkers know it by its name

if TYPE_CHECKING:
    from typing import NoReturn


def main() -> None:
    """Run the command line, and exit. 130 and 141 are a shell's statuses for SIGINT and SIGPIPE."""
    try:
        _open_standard_streams()
        status = _run(sys.argv[1:])
        _flush()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        status = 141
    except OSError as error:  # only the streams themselves fail here, so standard error may be the one
        status = 125
        _complain(f"firekiln: write error: {(error.strerror or str(error)).lower()}\n")
    _give_up_streams()
    _leave(status)


def _run(arguments: list[str]) -> int:
    if arguments in (["--version"], ["-v"]):
        sys.stdout.write(f"firekiln {__version__}\n")
        return 0
    if "exec" in arguments[:3:2]:
        from firekiln.cli.quick import run_exec  # noqa: PLC0415 - see the module's docstring

        if (status := run_exec(arguments)) is not None:
            return status
    gc.set_threshold(50_000)  # importing makes much and drops nothing: looking for garbage at 700 objects takes 4 ms
    from firekiln.cli.command import run  # noqa: PLC0415 - see the module's docstring

    return run()


def _open_standard_streams() -> None:
    """Have /dev/null stand for each stream that our parent closed: the store's files must not come to lie there."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            os.set_inheritable(fd, True)
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - a descriptor


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _complain(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        return


def _leave(status: int) -> NoReturn:
    """Exit without taking the interpreter apart, a tenth of a short command's time: its memory goes with the process.

    Threads that are to end in order have been joined by whoever started them.
    """
    atexit._run_exitfuncs()  # noqa: SLF001 - what a debugger or a coverage tool registered
    os._exit(status)


def _give_up_streams() -> None:
    """What a stream could not take, the interpreter's own flush at exit shall not try again, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
