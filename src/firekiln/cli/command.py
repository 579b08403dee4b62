"""The command `firekiln`: finds the verb's module, runs it, and turns whatever fails into one clear message."""

from __future__ import annotations

import importlib
import signal
import types
from typing import Any, TypedDict

import click

from firekiln.errors import FirekilnError, UsageError
from firekiln.version import __version__

VERBS: dict[str, str] = {
    # verb: "module:command", imported when the verb is used
    "attach": "exec:attach",
    "base": "base:base",
    "build": "build:build",
    "builder": "system:builder",
    "completion": "manual:completion",
    "container": "container:container",
    "cp": "cp:cp",
    "create": "run:create",
    "dockerfile": "dockerfile:dockerfile",
    "doctor": "doctor:doctor",
    "events": "events:events",
    "exec": "exec:exec_",
    "export": "export:export",
    "history": "images:history",
    "image": "system:image",
    "images": "images:images",
    "import": "archives:import_",
    "info": "info:info",
    "inspect": "images:inspect",
    "kernel": "kernel:kernel",
    "kill": "machines:kill",
    "load": "archives:load",
    "login": "registry:login",
    "logout": "registry:logout",
    "logs": "machines:logs",
    "man": "manual:man",
    "pause": "machines:pause",
    "network": "network:network",
    "port": "machines:port",
    "ps": "ps:ps",
    "pull": "registry:pull",
    "push": "registry:push",
    "rename": "machines:rename",
    "restart": "machines:restart",
    "rm": "machines:rm",
    "rmi": "images:rmi",
    "run": "run:run",
    "save": "archives:save",
    "sbom": "sbom:sbom",
    "snapshot": "snapshot:snapshot",
    "start": "exec:start",
    "stats": "figures:stats",
    "search": "images:search",
    "stop": "machines:stop",
    "system": "system:system",
    "tag": "images:tag",
    "top": "top:top",
    "unpause": "machines:unpause",
    "version": "info:version",
    "volume": "volume:volume",
    "wait": "machines:wait",
}


class Settings(TypedDict):
    """What stands before the verb."""

    debug: bool
    root: str | None


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used: `firekiln ps` must not wait for a builder."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].partition(":")
        command = getattr(importlib.import_module(f"firekiln.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the verb that was meant, perhaps."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches  # noqa: PLC0415 - only failures need it

            close = get_close_matches(args[0], VERBS, n=1)
            if not close:
                raise
            meant = f"{error.message.removesuffix('.')} (did you mean {close[0]}?)"
            raise click.UsageError(meant, ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        """As click's, but that two exceptions do not reach its `main`, which would print a line, or exit with 1."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:
            ctx.exit(141)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            raise _usage_error(error) from error


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    invoke_without_command=True,
)
@click.version_option(__version__, "-v", "--version", prog_name="firekiln", message="%(prog)s %(version)s")
@click.option("-D", "--debug", is_flag=True, help="Show where an error came from.")
@click.option("--root", metavar="DIR", envvar="FIREKILN_ROOT", help="The store's folder.")
@click.pass_context
def cli(ctx: click.Context, debug: bool, root: str | None) -> None:
    """A Dockerfile goes in, a microVM that boots and runs it comes out."""
    ctx.ensure_object(dict)
    ctx.obj.update(Settings(debug=debug, root=root))
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run() -> int:
    """Run the command line of this process; its exit status. The only place that catches a FirekilnError.

    No failure shows a traceback unless --debug asks for it: neither bad input, nor a bug of our own.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # else somebody said what they are to do: nohup, a test
            signal.signal(number, _end)
    settings = Settings(debug=False, root=None)
    try:
        status = cli.main(prog_name="firekiln", complete_var="_FIREKILN_COMPLETE", standalone_mode=False, obj=settings)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return UsageError.exit_status
    except click.UsageError as error:
        return report(_usage_error(error))
    except click.exceptions.Abort:
        return 130
    except Exception as error:  # noqa: BLE001 - the outermost border: whatever it is, it is told in one line
        if settings["debug"]:
            import traceback  # noqa: PLC0415 - only failures need it

            click.echo(traceback.format_exc(), err=True, nl=False)
        return report(error if isinstance(error, FirekilnError) else _unforeseen(error))
    return status if isinstance(status, int) else 0


def report(error: FirekilnError) -> int:
    """Print an error as one message and its hint, above them the place in the Dockerfile; return the exit status."""
    from firekiln.cli.excerpt import details  # noqa: PLC0415 - only failures need it
    from firekiln.dockerfile.text import visible  # noqa: PLC0415 - ditto

    if text := details(error):
        click.echo(text, err=True)
    # What is quoted may come from anywhere: it must not command the terminal.
    click.echo("\n".join(visible(line) for line in f"firekiln: {error}".split("\n")), err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)
    return error.exit_status


def _usage_error(error: click.UsageError) -> UsageError:
    """The error in our form."""
    command = error.ctx.command_path if error.ctx is not None else "firekiln"
    return UsageError(error.format_message().removesuffix("."), hint=f"{command} --help")


def _unforeseen(error: Exception) -> FirekilnError:
    """What no module foresaw: the system's refusals in its own words, anything else as the bug that it is."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        made = FirekilnError(f"{error.strerror.lower()}{where}", hint="firekiln -D shows where this came from")
    else:
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        made = FirekilnError(f"internal error: {what}", hint="this is a bug of firekiln; firekiln -D shows where it is")
    made.exit_status = UsageError.exit_status
    return made


def _end(number: int, _frame: types.FrameType | None) -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: in order, so that nothing is left behind."""
    raise SystemExit(128 + number)
