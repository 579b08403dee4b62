"""The process that a machine is there for: an image's word and the command line's, put together as Docker does. Pure.

Words are passed as argv and as `NAME=value`, never through a shell.
"""

from __future__ import annotations

import posixpath
import signal
from collections.abc import Sequence

from firekiln.errors import UsageError
from firekiln.machine.signals import signal_number
from firekiln.oci.config import ImageConfig, Json
from firekiln.values import dataclass

ARGUMENT_LIMIT = 128 * 1024
"""Bytes of one argument or variable, its NUL included: Linux's MAX_ARG_STRLEN."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_STOP_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """A terminal of the process's own. Its size is 0 where that is unknown."""

    rows: int = 0
    columns: int = 0

    def to_json(self) -> dict[str, Json]:
        return {"rows": self.rows, "columns": self.columns}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rlimit:
    """One resource limit by its name without RLIMIT_ (`nofile`); None is unlimited."""

    name: str
    soft: int | None
    hard: int | None

    def to_json(self) -> dict[str, Json]:
        return {"name": self.name, "soft": self.soft, "hard": self.hard}


NOFILE = Rlimit(name="nofile", soft=1_048_576, hard=1_048_576)
"""As containerd gives its containers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What `run` says beside the image. None (or nothing) leaves the image's word; see `Process.from_image`.

    `entrypoint` "" removes the image's; `env` holds `NAME=value`, or `NAME` alone, which removes the variable.
    """

    args: tuple[str, ...] = ()
    entrypoint: str | None = None
    env: tuple[str, ...] = ()
    user: str | None = None
    working_dir: str | None = None
    stop_signal: str | None = None
    stop_timeout_ms: int = DEFAULT_STOP_TIMEOUT_MS
    stdin: bool = False
    tty: Terminal | None = None
    groups: tuple[str, ...] = ()
    rlimits: tuple[Rlimit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The process that a machine is there for.

    `env` is complete but for HOME, which the guest adds from the image's passwd where it is missing or empty. `user`
    is USER's word, resolved in the guest ("" is root). `cwd` is absolute. `stdin` opens a pipe from the host, else
    standard input is /dev/null; with `tty` all three streams are a terminal. `groups` are further supplementary ones,
    by name or number. The stop signal and time-out serve where the guest itself must stop the process.
    """

    argv: tuple[str, ...]
    env: tuple[str, ...]
    user: str = ""
    cwd: str = "/"
    stop_signal: int = signal.SIGTERM
    stop_timeout_ms: int = DEFAULT_STOP_TIMEOUT_MS
    stdin: bool = False
    rlimits: tuple[Rlimit, ...] = (NOFILE,)
    tty: Terminal | None = None
    groups: tuple[str, ...] = ()

    @classmethod
    def from_image(cls, config: ImageConfig, overrides: Overrides, *, hostname: str) -> Process:
        """Compose as `docker run` does (dockerd's `merge` and `CreateDaemonEnvironment`).

        Arguments replace CMD; --entrypoint replaces ENTRYPOINT and drops the image's CMD. UsageError where no command
        is left, and for a word that no process can be given.
        """
        cwd = overrides.working_dir or config.working_dir or "/"
        if not cwd.startswith("/"):
            raise UsageError(
                f"the working directory '{cwd}' is invalid, it needs to be an absolute path",
                hint="give --workdir a path that starts with /",
            )
        process = cls(
            argv=_argv(config, overrides),
            env=_environment(config.env, overrides.env, hostname, tty=overrides.tty is not None),
            user=config.user if overrides.user is None else overrides.user,
            cwd="/" + posixpath.normpath(cwd).lstrip("/"),
            stop_signal=signal_number(overrides.stop_signal or config.stop_signal or "SIGTERM"),
            stop_timeout_ms=overrides.stop_timeout_ms,
            stdin=overrides.stdin,
            rlimits=_rlimits(overrides.rlimits),
            tty=overrides.tty,
            groups=overrides.groups,
        )
        for word in (*process.argv, *process.env, process.user, process.cwd, *process.groups):
            _check_word(word)
        return process

    def to_json(self) -> dict[str, Json]:
        return {
            "argv": list(self.argv),
            "env": list(self.env),
            "user": self.user,
            "cwd": self.cwd,
            "stop_signal": self.stop_signal,
            "stop_timeout_ms": self.stop_timeout_ms,
            "stdin": self.stdin,
            "rlimits": [limit.to_json() for limit in self.rlimits],
            "tty": self.tty.to_json() if self.tty else None,
            "groups": list(self.groups),
        }


def _argv(config: ImageConfig, overrides: Overrides) -> tuple[str, ...]:
    if overrides.entrypoint is not None:
        entrypoint = (overrides.entrypoint,) if overrides.entrypoint else ()
        argv = entrypoint + overrides.args
    else:
        argv = (config.entrypoint or ()) + (overrides.args or config.cmd or ())
    if not argv:
        raise UsageError(
            "no command specified",
            hint="the image has neither ENTRYPOINT nor CMD: say what to run after the image's name",
        )
    return argv


def _rlimits(given: Sequence[Rlimit]) -> tuple[Rlimit, ...]:
    """Those that are given, each name's last, beside the defaults."""
    return tuple({limit.name: limit for limit in (NOFILE, *given)}.values())


def _environment(image: Sequence[str], given: Sequence[str], hostname: str, *, tty: bool) -> tuple[str, ...]:
    """Docker's order: PATH, HOSTNAME, TERM, what the command line gives, then what only the image has."""
    made = {"PATH": f"PATH={DEFAULT_PATH}", "HOSTNAME": f"HOSTNAME={hostname}"}
    if tty:
        made["TERM"] = "TERM=xterm"
    named = {word.partition("=")[0] for word in given}
    for word in (*given, *(word for word in image if word.partition("=")[0] not in named)):
        name, equals, _ = word.partition("=")
        if equals:
            made[name] = word
        else:
            made.pop(name, None)
    return tuple(made.values())


def _check_word(word: str) -> None:
    if "\0" in word:
        raise UsageError("an argument or variable holds a NUL byte, which no process can be given")
    if len(word.encode("utf-8", "surrogateescape")) >= ARGUMENT_LIMIT:
        raise UsageError(
            f"an argument or variable is too long: {word[:32]}…",
            hint=f"Linux takes at most {ARGUMENT_LIMIT - 1} bytes for one",
        )
