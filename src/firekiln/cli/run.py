"""`firekiln run`: an image becomes a machine that runs. Docker's flags, manners and exit statuses."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from firekiln.errors import FirekilnError, MachineError, UsageError

if TYPE_CHECKING:
    from firekiln.machine.log import Stream
    from firekiln.machine.run import RunOptions
    from firekiln.machine.state import Record
    from firekiln.store import Store

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_SIGNALLED = 128
_SMALLEST_MEMORY = 64 << 20

NOT_FOR_MACHINES = (
    "--privileged --cap-add --cap-drop --gpus --device --pid --ipc --uts --userns --cgroupns --cgroup-parent "
    "--security-opt --runtime --isolation --link --volumes-from --cpuset-cpus --cpu-shares --memory-swap --pids-limit"
).split()
"""Docker's flags that speak of containers sharing the host's kernel: a machine has its own."""

NOT_YET = (
    "-i/--interactive -t/--tty -a/--attach -v/--volume --mount --tmpfs --read-only --network --restart --init "
    "--add-host --dns --dns-search --pull --platform -l/--label --label-file --ulimit --sysctl --shm-size "
    "-P/--publish-all --health-cmd --no-healthcheck --expose --ip --mac-address --log-driver --log-opt --annotation "
    "--group-add --domainname"
).split()
"""Docker's flags that a machine will have, and has not yet."""

_SWITCHES = frozenset("--privileged --interactive --tty --read-only --init --publish-all --no-healthcheck".split())


def refused(command: Callable[..., Any]) -> Callable[..., Any]:
    """Have a command know Docker's flags that it cannot obey, to say so: silence would lose what they ask for."""
    for words, reason in ((NOT_FOR_MACHINES, "a machine has a kernel of its own"), (NOT_YET, "not supported yet")):
        for word in words:
            names = word.split("/")
            command = click.option(
                *names,
                is_flag=names[-1] in _SWITCHES,
                multiple=names[-1] not in _SWITCHES,
                expose_value=False,
                hidden=True,
                callback=_refuse(names[-1], reason),
            )(command)
    return command


def _refuse(name: str, reason: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(_ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value:
            raise UsageError(f"{name}: {reason}", hint="firekiln run --help lists what is")

    return callback


@click.command(context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS]")
@click.option("-d", "--detach", is_flag=True, help="Run in the background and print the machine's id.")
@click.option("--name", default="", help="The machine's name.")
@click.option(
    "-p", "--publish", multiple=True, metavar="[IP:]HOST:GUEST[/PROTO]", help="Publish a port (on 127.0.0.1)."
)
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable, or pass the host's on.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Read variables from a file.")
@click.option("-u", "--user", metavar="NAME|UID[:GROUP]", help="Run as this user.")
@click.option("-w", "--workdir", metavar="DIR", help="The working directory.")
@click.option("--entrypoint", metavar="PROGRAM", help="In place of the image's ENTRYPOINT.")
@click.option("--rm", "auto_remove", is_flag=True, help="Remove the machine when it has ended.")
@click.option("-m", "--memory", metavar="SIZE", help="Memory, such as 512m.  [default: 1g]")
@click.option("--cpus", metavar="NUMBER", help="Virtual processors.  [default: 1]")
@click.option("-h", "--hostname", default="", help="The machine's host name.")
@click.option("--kernel", metavar="FILE", help="Boot this kernel (ELF or bzImage) in place of the store's.")
@click.option("--disk-size", metavar="SIZE", help="The writable disk's size; it takes what is used.  [default: 10g]")
@click.option("--stop-signal", metavar="SIGNAL", help="In place of the image's STOPSIGNAL.")
@click.option("--stop-timeout", type=int, default=10, metavar="SECONDS", help="How long a stop waits before it kills.")
@click.option("--cidfile", metavar="FILE", help="Write the machine's id to this file.")
@click.help_option("--help")
@click.argument("image")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@refused
@click.pass_context
def run(ctx: click.Context, /, detach: bool, cidfile: str | None, **given: Any) -> None:
    """Boot IMAGE as a machine and run its command.

    ARGS take the place of its CMD. The exit status is the command's. Ctrl-C stops it by the image's STOPSIGNAL.
    """
    from firekiln.store import Store  # noqa: PLC0415 - imported when used

    try:
        options = run_options(**given)
        with Store.open(ctx.obj["root"]) as store, _CidFile(cidfile) as cid:
            _ensure_image(store, options.image)
            status = _detached(store, options, cid) if detach else _foreground(store, options, cid)
    except FirekilnError as error:
        if error.exit_status == FirekilnError.exit_status:
            error.exit_status = UsageError.exit_status  # what is not the command's own failure ends with 125
        raise
    ctx.exit(status)


def run_options(
    *,
    env: Sequence[str],
    env_file: Sequence[str],
    memory: str | None,
    cpus: str | None,
    disk_size: str | None,
    workdir: str | None,
    kernel: str | None,
    stop_timeout: int,
    **same: Any,
) -> RunOptions:
    """The command line's words as values. UsageError."""
    from firekiln.machine.run import RunOptions  # noqa: PLC0415 - imported when used
    from firekiln.machine.spec import DEFAULT_DISK, DEFAULT_MEMORY  # noqa: PLC0415 - ditto

    size = parse_size(memory, "--memory") if memory else DEFAULT_MEMORY
    if size < _SMALLEST_MEMORY:
        raise UsageError(f"--memory {memory} is too little to boot", hint="64m is the least")
    return RunOptions(
        env=(*(line for path in env_file for line in read_env_file(Path(path))), *map(from_host, env)),
        memory=size,
        vcpus=parse_cpus(cpus) if cpus else 1,
        disk_size=parse_size(disk_size, "--disk-size") if disk_size else DEFAULT_DISK,
        working_dir=workdir,
        kernel=Path(kernel) if kernel else None,
        stop_timeout=float(stop_timeout),
        **same,
    )


def parse_size(text: str, option: str) -> int:
    """`512m`, `1.5G`, `1073741824` in bytes. UsageError."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{option} {text}: not a size", hint="write it like 512m or 2g")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def parse_cpus(text: str) -> int:
    """A number of processors: a machine has whole ones. UsageError."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 1 <= number <= 255 or number != int(number):
        raise UsageError(f"--cpus {text}: a machine has a whole number of processors, from 1 to 255")
    return int(number)


def from_host(word: str) -> str:
    """`NAME=value` as it is; `NAME` with the host's value, where the host has one."""
    name, equals, _ = word.partition("=")
    if not name:
        raise UsageError(f"invalid environment variable: {word}")
    return word if equals or name not in os.environ else f"{name}={os.environ[name]}"


def read_env_file(path: Path) -> list[str]:
    """A file of `NAME=value` lines, as Docker reads it: no quotes, `#` lines and empty ones skipped. UsageError."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"open {path}: {(error.strerror or '').lower()}") from error
    lines = (line.lstrip() for line in text.removeprefix("\ufeff").splitlines())
    words = [line for line in lines if line and not line.startswith("#")]
    for word in words:
        name = word.partition("=")[0]
        if not name or any(char.isspace() for char in name):
            raise UsageError(f"poorly formatted environment: variable '{name}' contains whitespaces ({path})")
    return [known for word in words if "=" in (known := from_host(word))]


@dataclass(slots=True)
class _CidFile:
    """--cidfile: must not be there before; empty ones are not left behind."""

    path: str | None
    _written: bool = False

    def __enter__(self) -> Self:
        if self.path:
            try:
                Path(self.path).open("x").close()
            except FileExistsError as error:
                raise UsageError(
                    f"container ID file found, make sure the other container isn't running or delete {self.path}"
                ) from error
            except OSError as error:
                raise UsageError(f"{self.path}: {(error.strerror or '').lower()}") from error
        return self

    def write(self, machine_id: str) -> None:
        if self.path:
            Path(self.path).write_text(machine_id)
            self._written = True

    def __exit__(self, *_: object) -> None:
        if self.path and not self._written:
            Path(self.path).unlink(missing_ok=True)


def _ensure_image(store: Store, name: str) -> None:
    """Make or fetch an image that the store lacks, saying so, as `docker run` pulls."""
    if store.images.find(name) is not None:
        return
    from firekiln.api import ensure_image  # noqa: PLC0415 - imported when used
    from firekiln.build.events import Output  # noqa: PLC0415 - ditto
    from firekiln.oci.reference import Reference  # noqa: PLC0415 - ditto

    def say(event: object) -> None:
        if isinstance(event, Output):
            _progress(event.data.decode(errors="replace").rstrip())

    Reference.parse(name)  # what is no name is not looked for
    _progress(f"Unable to find image '{name}' locally")
    ensure_image(store, name, on_event=say)


def _detached(store: Store, options: RunOptions, cid: _CidFile) -> int:
    from firekiln.machine.run import start  # noqa: PLC0415 - imported when used

    machine = start(store, options, progress=_progress)
    cid.write(machine.id)
    click.echo(machine.id)
    return 0


def _foreground(store: Store, options: RunOptions, cid: _CidFile) -> int:
    from firekiln.machine.run import run as run_machine  # noqa: PLC0415 - imported when used

    def created(record: Record) -> None:
        cid.write(record.id)

    try:
        end = run_machine(store, options, output=_write, created=created, progress=_progress)
    except MachineError as error:
        if error.exit_status <= _SIGNALLED:
            raise
        return error.exit_status  # whoever sent the signal knows what he did
    if end.error:
        click.echo(f"firekiln: {end.error}", err=True)
    return end.status


def _write(stream: Stream, data: bytes) -> None:
    fd = sys.stdout.fileno() if stream == "stdout" else sys.stderr.fileno()
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _progress(text: str) -> None:
    click.echo(f"firekiln: {text}", err=True)
