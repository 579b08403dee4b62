"""The command `firekiln`: finds the verb's module, runs it, and turns every FirekilnError into one clear message."""

from __future__ import annotations

import importlib
import os
import sys

import click

from firekiln.errors import FirekilnError, UsageError
from firekiln.version import __version__

VERBS: dict[str, str] = {
    # verb: "module:command", imported when the verb is used
    "base": "base:base",
    "build": "build:build",
    "dockerfile": "dockerfile:dockerfile",
    "export": "export:export",
    "history": "images:history",
    "images": "images:images",
    "inspect": "images:inspect",
    "kernel": "kernel:kernel",
    "kill": "machines:kill",
    "logs": "machines:logs",
    "ps": "machines:ps",
    "rm": "machines:rm",
    "rmi": "images:rmi",
    "run": "run:run",
    "stop": "machines:stop",
    "tag": "images:tag",
    "wait": "machines:wait",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used: `firekiln --version` must not wait for a builder."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].partition(":")
        command = getattr(importlib.import_module(f"firekiln.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-v", "--version", prog_name="firekiln", message="%(prog)s %(version)s")
@click.option("-D", "--debug", is_flag=True, help="Show where an error came from.")
@click.option("--root", metavar="DIR", envvar="FIREKILN_ROOT", help="The store's folder.")
@click.pass_context
def cli(ctx: click.Context, debug: bool, root: str | None) -> None:
    """A Dockerfile goes in, a microVM that boots and runs it comes out."""
    ctx.obj = {"debug": debug, "root": root}


def main() -> None:
    """The entry point: the only place that catches FirekilnError and exits."""
    try:
        status = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        status = 130
    except click.ClickException as error:
        error.show()
        status = UsageError.exit_status
    except FirekilnError as error:
        status = report(error)
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status if isinstance(status, int) else 0)


def report(error: FirekilnError) -> int:
    """Print an error as one message and its hint, above them the place in the Dockerfile; return the exit status."""
    from firekiln.cli.excerpt import details  # noqa: PLC0415 - only failures need it

    if text := details(error):
        click.echo(text, err=True)
    from firekiln.dockerfile.text import visible  # noqa: PLC0415 - ditto

    # What is quoted may come from anywhere: it must not command the terminal.
    click.echo("\n".join(visible(line) for line in f"firekiln: {error}".split("\n")), err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)
    return error.exit_status
