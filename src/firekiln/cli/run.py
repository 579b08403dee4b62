"""`run` and `create`: an image becomes a machine. Docker's flags, manners and exit statuses."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import click

from firekiln.cli import terminal
from firekiln.cli.flags import ImageCommand, machine_flags, run_options
from firekiln.errors import FirekilnError, MachineError, UsageError

if TYPE_CHECKING:
    from firekiln.api.images import Pull
    from firekiln.machine.created import Created
    from firekiln.machine.options import RunOptions
    from firekiln.machine.supervision.dialogue import Streams
    from firekiln.machine.supervision.state import Record
    from firekiln.store import Store

_SIGNALLED = 128
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_STREAMS = ("stdin", "stdout", "stderr")
_SETTINGS: dict[str, Any] = {"allow_interspersed_args": False}


@click.command(cls=ImageCommand, context_settings=_SETTINGS, options_metavar="[OPTIONS]")
@click.option("-d", "--detach", is_flag=True, help="Run in the background and print the machine's id.")
@click.option("-a", "--attach", multiple=True, metavar="STREAM", help="Attach to stdin, stdout or stderr only.")
@click.option("--detach-keys", metavar="KEYS", help="Keys that leave the machine running.  [default: ctrl-p,ctrl-q]")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Have signals stop the machine.")
@click.option("-f", "--file", "dockerfile", metavar="DOCKERFILE", help="Build this first; IMAGE is then its context.")
@click.option("--warm", is_flag=True, help="Start from a snapshot of such a machine; the first time, make it.")
@click.option("--snapshot", metavar="NAME", help="Start from this snapshot, in place of an image.")
@machine_flags
@click.help_option("--help")
@click.argument("image", default="")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(  # noqa: PLR0917 - click passes them by keyword
    ctx: click.Context,
    /,
    detach: bool,
    attach: Sequence[str],
    detach_keys: str | None,
    sig_proxy: bool,
    dockerfile: str | None,
    warm: bool,
    snapshot: str | None,
    cidfile: str | None,
    pull: str,
    quiet: bool,
    **given: Any,
) -> None:
    """Boot IMAGE as a machine and run its command.

    ARGS take the place of its CMD. The exit status is the command's. Ctrl-C stops it by the image's STOPSIGNAL. A
    folder (./dir) in place of an image is built first.
    """
    wanted = _attached(attach, detach=detach, interactive=given["interactive"])
    streams = terminal.streams(
        stdin="stdin" in wanted,
        terminal=given["tty"],
        keys=detach_keys,
        stdout="stdout" in wanted,
        stderr="stderr" in wanted,
    )
    with _docker_statuses(), _opened(ctx) as store, _CidFile(cidfile) as cid:
        options = run_options(**given, stdin_once="stdin" in wanted and not detach)
        if not options.image and snapshot is None:
            raise UsageError("Missing argument 'IMAGE'", hint=f"{ctx.command_path} --help")
        if options.args and snapshot is not None:
            raise UsageError("--snapshot: what was saved has its process already, and takes no command")
        if snapshot is None:
            options = _with_image(store, options, dockerfile, cast("Pull", pull), quiet=quiet)
        start = _start(store, options, warm=warm, snapshot=snapshot)
        status = _detached(start, cid) if detach else _foreground(store, start, cid, streams, sig_proxy)
    ctx.exit(status)


@click.command(cls=ImageCommand, context_settings=_SETTINGS, options_metavar="[OPTIONS]")
@click.option("-a", "--attach", multiple=True, metavar="STREAM", hidden=True)
@machine_flags
@click.help_option("--help")
@click.argument("image")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def create(
    ctx: click.Context, /, attach: Sequence[str], cidfile: str | None, pull: str, quiet: bool, **given: Any
) -> None:
    """Prepare a machine of IMAGE and print its id; `start` boots it."""
    from firekiln.machine.run import create as create_machine  # noqa: PLC0415 - imported when used

    wanted = _attached(attach, detach=False, interactive=given["interactive"])
    with _docker_statuses(), _opened(ctx) as store, _CidFile(cidfile) as cid:
        options = run_options(**given, stdin_once="stdin" in wanted)
        options = _with_image(store, options, None, cast("Pull", pull), quiet=quiet)
        made = create_machine(store, options, progress=_progress)
        made.lock.release()
        cid.write(made.record.id)
    click.echo(made.record.id)


def _attached(words: Sequence[str], *, detach: bool, interactive: bool) -> frozenset[str]:
    """Which of our streams the process's are. UsageError."""
    wanted = frozenset(word.lower() for word in words)
    for word in wanted - {*_STREAMS}:
        raise UsageError(f"--attach {word}: invalid stream", hint="stdin, stdout or stderr")
    if detach and wanted:
        raise UsageError("Conflicting options: -a and -d")
    if detach:
        return frozenset()
    return wanted or frozenset([*(["stdin"] if interactive else []), "stdout", "stderr"])


@contextmanager
def _docker_statuses() -> Iterator[None]:
    """What is not the command's own failure ends with 125."""
    try:
        yield
    except FirekilnError as error:
        if error.exit_status == FirekilnError.exit_status:
            error.exit_status = UsageError.exit_status
        raise


def _opened(ctx: click.Context) -> Store:
    from firekiln.store import Store  # noqa: PLC0415 - imported when used

    return Store.open(ctx.obj["root"])


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


def _with_image(store: Store, options: RunOptions, dockerfile: str | None, pull: Pull, *, quiet: bool) -> RunOptions:
    """The options with an image that the store has: built from a folder, fetched or made where it has to be."""
    if dockerfile is not None or options.image in (".", "..") or options.image.startswith(("./", "../", "/")):
        return replace(options, image=_build(store, options, dockerfile, quiet=quiet))
    if pull == "always" or store.images.find(options.image, options.platform) is None:
        _fetch(store, options, pull, quiet=quiet)
    return options


def _build(store: Store, options: RunOptions, dockerfile: str | None, *, quiet: bool) -> str:
    """Build a folder; the image's digest."""
    import sys  # noqa: PLC0415 - who runs an image needs none of this

    from firekiln import api  # noqa: PLC0415 - ditto
    from firekiln.cli.progress import display  # noqa: PLC0415 - ditto

    view = display("quiet" if quiet else "auto", sys.stderr)
    platform = str(options.platform) if options.platform else None
    try:
        return api.build(options.image, dockerfile=dockerfile, platform=platform, on_event=view, store=store).digest
    finally:
        view.close()


def _fetch(store: Store, options: RunOptions, pull: Pull, *, quiet: bool) -> None:
    """Make or fetch an image that the store lacks, saying so, as `docker run` pulls."""
    from firekiln.api import ensure_image  # noqa: PLC0415 - imported when used
    from firekiln.build.events import Output  # noqa: PLC0415 - ditto
    from firekiln.oci.reference import Reference  # noqa: PLC0415 - ditto

    def say(event: object) -> None:
        if isinstance(event, Output) and not quiet:
            _progress(event.data.decode(errors="replace").rstrip())

    reference = Reference.parse(options.image)  # what is no name is not looked for
    if pull != "always" and not quiet:
        _progress(f"Unable to find image '{reference.tagged().familiar}' locally")
    ensure_image(store, options.image, platform=options.platform, pull=pull, on_event=say)


@dataclass(frozen=True, slots=True)
class _Start:
    """A machine that is ready to run, and what is to be done once it does."""

    created: Created
    then: Callable[[], None] = lambda: None


def _start(store: Store, options: RunOptions, *, warm: bool, snapshot: str | None) -> _Start:
    if not warm and snapshot is None:
        from firekiln.machine.run import create as create_machine  # noqa: PLC0415 - clones need none of it

        return _Start(create_machine(store, options, progress=_progress))
    from firekiln.machine.snapshot import warm as warming  # noqa: PLC0415 - imported when used
    from firekiln.machine.snapshot.snapshots import Snapshots  # noqa: PLC0415 - ditto

    if snapshot is None:
        made = warming.warm(store, options, progress=_progress)
        return _Start(made.created, lambda: warming.save_when_ready(store, made))
    found = Snapshots(store).get(snapshot)
    if warm:
        raise UsageError("conflicting options: --warm and --snapshot")
    if options.image and store.images.get(options.image, options.platform).digest != found.image_digest:
        raise UsageError(f"the snapshot {snapshot} is of another image: {found.image}", hint="leave the image out")
    return _Start(warming.from_snapshot(store, found, options))


def _detached(start: _Start, cid: _CidFile) -> int:
    from firekiln.machine.created import begin  # noqa: PLC0415 - imported when used

    machine = begin(start.created)
    start.then()
    cid.write(machine.id)
    click.echo(machine.id)
    return 0


def _foreground(store: Store, start: _Start, cid: _CidFile, streams: Streams, sig_proxy: bool) -> int:
    from firekiln.machine.created import own  # noqa: PLC0415 - ditto
    from firekiln.machine.guest.protocol import FrameType  # noqa: PLC0415 - imported when used
    from firekiln.machine.supervision.state import State  # noqa: PLC0415 - ditto
    from firekiln.machine.supervision.supervise import lost  # noqa: PLC0415 - ditto

    def created(record: Record) -> None:
        cid.write(record.id)

    record, stream = own(start.created, created=created)
    with stream:
        start.then()
        try:
            outcome = terminal.talk(stream, streams, signals=_STOPPING if sig_proxy else (), proxy=FrameType.STOP)
        except MachineError as error:
            if error.exit_status <= _SIGNALLED:
                raise
            return error.exit_status  # whoever sent the signal knows what he did
    if outcome == "lost":
        raise lost(State(store.machines), record.id)
    return terminal.end(outcome)


def _progress(text: str) -> None:
    click.echo(f"firekiln: {text}", err=True)
