"""The terminal of the command line, lent to a process in a guest: raw while it lasts, as it was before in the end."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from firekiln.errors import MachineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from firekiln.machine.guest.protocol import FrameType
    from firekiln.machine.supervision.dialogue import Outcome, Streams
    from firekiln.machine.supervision.stream import Stream


def streams(*, stdin: bool, terminal: bool, keys: str | None, stdout: bool = True, stderr: bool = True) -> Streams:
    """The command line's streams for a process in a guest. UsageError where `-it` has no terminal."""
    from firekiln.machine.supervision.dialogue import DETACH_KEYS, Streams, parse_detach_keys  # noqa: PLC0415 - imported when used

    if stdin and terminal and not os.isatty(0):
        error = UsageError("the input device is not a TTY", hint="leave out -t where the input is no terminal")
        error.exit_status = 1  # Docker's, also of `run`
        raise error
    return Streams(
        stdin=0 if stdin else None,
        stdout=1 if stdout else None,
        stderr=2 if stderr else None,
        terminal=terminal and stdin,
        detach_keys=parse_detach_keys(keys) if keys else DETACH_KEYS,
    )


def talk(stream: Stream, given: Streams, *, signals: Collection[int], proxy: FrameType | None = None) -> Outcome:
    """Converse on these streams, the terminal raw once the process runs: before that, Ctrl-C is the command's."""
    from firekiln.machine.guest.protocol import FrameType  # noqa: PLC0415 - ditto
    from firekiln.machine.supervision.dialogue import converse  # noqa: PLC0415 - imported when used

    sys.stdout.flush()
    with ExitStack() as lent:
        outcome = converse(
            stream,
            given,
            signals=signals,
            proxy=proxy or FrameType.SIGNAL,
            started=lambda: lent.enter_context(raw(0)) if given.terminal else None,
        )
    if outcome == "detached":
        click.echo("read escape sequence", err=True)
    return outcome


def end(outcome: Outcome) -> int:
    """The exit status of a command that has conversed. MachineError where the supervisor was lost."""
    if outcome == "detached":
        return 0
    if outcome == "lost":
        raise MachineError("the machine's supervisor went without a word", hint="firekiln ps -a says what is left")
    if outcome.error:
        click.echo(f"firekiln: {outcome.error}", err=True)
    return outcome.status


def size() -> tuple[int, int]:
    """Rows and columns of the terminal; zeros where there is none."""
    from firekiln.machine.supervision.dialogue import terminal_size  # noqa: PLC0415 - imported when used

    return terminal_size(0)


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """While held, the terminal passes every key on, and echoes none. It is restored however this ends."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        # As Docker's client: what is written is the guest's terminal's business, so nothing is translated twice.
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
