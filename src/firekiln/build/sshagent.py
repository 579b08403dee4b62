"""An ssh agent for the time of a build, which holds the keys that `--ssh ID=FILE` names: OpenSSH's own programs.

It dies with this process, whatever ends that. Its socket lies in a folder of ours; the address that others get leads
there by our open descriptor, since the name of a socket may be no longer than 107 bytes, and a store's folder is.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from firekiln.errors import BuildError, MissingProgramError, UsageError

_SOCKET: Final = "agent"
_PATIENCE: Final = 30.0
"""Seconds that an agent may take to begin to listen; it takes 5 ms."""
_MISSING: Final = "apt-get install openssh-client"


@contextmanager
def agent_with(keys: Sequence[Path], folder: Path) -> Iterator[Path]:
    """The socket of a new agent with these private keys, its place below `folder`.

    UsageError where a file is no key, or one with a passphrase, which nobody could be asked for; MissingProgramError.
    """
    with ExitStack() as held:
        place = Path(tempfile.mkdtemp(prefix="ssh.", dir=folder))
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        held.callback(os.close, descriptor)
        held.enter_context(_running(place))
        socket = Path(f"/proc/{os.getpid()}/fd/{descriptor}/{_SOCKET}")
        for key in keys:
            _add(key, socket)
        yield socket


@contextmanager
def _running(place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The agent, when it listens; it has ended when the context is left."""
    argv = ["setpriv", "--pdeathsig", "KILL", "ssh-agent", "-D", "-a", _SOCKET]
    try:
        process = subprocess.Popen(
            argv, cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise MissingProgramError("setpriv is not on this host", hint="apt-get install util-linux") from error
    with process:
        try:
            deadline = time.monotonic() + _PATIENCE
            while not (place / _SOCKET).is_socket():
                if process.poll() is not None:
                    assert process.stderr is not None
                    said = process.stderr.read().decode(errors="replace").strip()
                    raise MissingProgramError(f"ssh-agent did not start: {said}", hint=_MISSING)
                if time.monotonic() > deadline:
                    raise BuildError("ssh-agent does not begin to listen")
                time.sleep(0.002)
            yield process
        finally:
            process.terminate()


def _add(key: Path, socket: Path) -> None:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "SSH_AUTH_SOCK": str(socket), "LC_ALL": "C"}
    # A session of its own has no terminal on which a passphrase could be asked for.
    done = subprocess.run(
        ["ssh-add", "-q", "--", str(key)],
        env={**environment, "SSH_ASKPASS_REQUIRE": "never"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UsageError(
            f"--ssh: {key}: cannot use this key: {said[-1] if said else 'ssh-add says no more'}",
            hint="a key with a passphrase: add it to an agent of your own, and give that one's socket",
        )
