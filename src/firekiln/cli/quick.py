"""`exec` as scripts use it, without all that the command line loads for the rest: that takes longer than the exec.

What is not understood at once, or does not succeed at once, is left to `exec.py`, which does it all, or says what is
wrong: here are no errors but those of a command that runs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence

from firekiln.lazy import load_lazily

TYPE_CHECKING = False  # typing's; what is imported here is to be little

if TYPE_CHECKING:
    from typing import Any

    from firekiln.errors import FirekilnError

PROXIED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""The signals that `exec` and `attach` pass on."""

_SWITCHES = ("-i", "--interactive")
_VALUES = {"-e": "env", "--env": "env", "-u": "user", "--user": "user", "-w": "cwd", "--workdir": "cwd"}
_ID_LENGTH = 64


def run_exec(arguments: Sequence[str]) -> int | None:
    """Carry out `[--root DIR] exec [-i] [-e NAME=VALUE] [-u USER] [-w DIR] MACHINE COMMAND [ARGS]...`.

    The exit status; None where it is something else, or no more than that could be tried: then nothing has been done.
    """
    load_lazily("inspect")
    words = iter(arguments)
    word = next(words, "")
    root = next(words, "") if word == "--root" else None
    request = _request(words) if (word if root is None else next(words, "")) == "exec" else None
    return _carried_out(_folder(root), request) if request is not None else None


def _request(words: Iterator[str]) -> dict[str, Any] | None:
    """What is asked of the supervisor, and the machine's name. None where a word is not understood."""
    request: dict[str, Any] = {"do": "exec", "env": [], "user": None, "cwd": None, "stdin": False, "tty": None}
    for word in words:
        name = _VALUES.get(word)
        if word in _SWITCHES:
            request["stdin"] = True
        elif name is not None:
            value = next(words, "")
            if name == "env":
                if "=" not in value[1:]:
                    return None  # the host's variable, or an error
                request["env"].append(value)
            elif name == "cwd" and not value.startswith("/"):
                return None
            else:
                request[name] = value
        elif word.startswith("-") or not word:
            return None
        else:
            request["argv"] = [*words]
            request["machine"] = word
            return request if request["argv"] else None
    return None


def _folder(root: str | None) -> str:
    """Where the machines are."""
    root = root or os.environ.get("FIREKILN_ROOT")
    if not root:
        from firekiln.store.paths import store_root  # noqa: PLC0415 - takes a tenth of the whole

        root = str(store_root())
    return os.path.join(root, "machines")  # noqa: PTH118 - pathlib takes longer than the look-up


def _carried_out(folder: str, request: dict[str, Any]) -> int | None:
    from firekiln.errors import FirekilnError, UsageError  # noqa: PLC0415 - here it is sure to be an exec
    from firekiln.machine.supervision.dialogue import Streams, converse  # noqa: PLC0415 - ditto
    from firekiln.machine.supervision.stream import Stream  # noqa: PLC0415 - ditto

    machine = _id(folder, request.pop("machine"))
    runs = False

    def note() -> None:
        nonlocal runs
        runs = True

    try:
        stream = Stream.open(os.path.join(folder, machine), request) if machine else None  # noqa: PTH118 - as above
        if stream is None:
            return None
        with stream:
            streams = Streams(stdin=0 if request["stdin"] else None, stdout=1, stderr=2)
            outcome = converse(stream, streams, signals=PROXIED, started=note)
    except FirekilnError as error:
        # The supervisor's own refusal, of a machine that still boots for instance: it came with that status, whereas a
        # breach of the protocol has it by its kind. The rest is the command's, which must not be carried out twice.
        refused = vars(error).get("exit_status") == UsageError.exit_status and not runs
        return None if refused else _told(error)
    if isinstance(outcome, str):
        return None if outcome == "detached" else _told(_lost())
    if outcome.error:
        sys.stderr.write(f"firekiln: {outcome.error}\n")
    return outcome.status


def _id(folder: str, word: str) -> str | None:
    """The machine of exactly that name or id."""
    import sqlite3  # noqa: PLC0415 - as above

    path = os.path.join(folder, "state.db")  # noqa: PTH118 - as above
    if len(word) == _ID_LENGTH or not os.path.exists(path):  # noqa: PTH110 - as above
        return word if word.isalnum() else None
    try:
        database = sqlite3.connect(path)
        try:
            row = database.execute("SELECT id FROM machines WHERE name = ?", (word,)).fetchone()
        finally:
            database.close()
    except sqlite3.Error:
        return None
    return str(row[0]) if row else None


def _lost() -> FirekilnError:
    from firekiln.errors import MachineError  # noqa: PLC0415 - only failures need it

    return MachineError("the machine's supervisor went without a word", hint="firekiln ps -a says what is left")


def _told(error: FirekilnError) -> int:
    from firekiln.cli.command import report  # noqa: PLC0415 - only failures need it

    return report(error)
