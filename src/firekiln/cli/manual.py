"""`firekiln man` and `firekiln completion`: what a package installs beside the program, made of the commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import click

from firekiln.errors import UsageError
from firekiln.version import __version__

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_FIREKILN_COMPLETE"


@click.command
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    r"""Print a shell's completion script.

    \b
    bash   firekiln completion bash > /etc/bash_completion.d/firekiln
    zsh    firekiln completion zsh > "${fpath[1]}/_firekiln"
    fish   firekiln completion fish > ~/.config/fish/completions/firekiln.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - imported when used

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(ctx.find_root().command, {}, "firekiln", _VARIABLE).source())


@click.command
@click.argument("verbs", nargs=-1, metavar="[VERB]...")
@click.pass_context
def man(ctx: click.Context, verbs: tuple[str, ...]) -> None:
    """Show the manual: of all, or of one verb.

    Where the output is no terminal, it is the page's source: firekiln man > firekiln.1
    """
    page = "\n".join(_page(*_found(ctx.find_root(), verbs))) + "\n"
    if not sys.stdout.isatty() or shutil.which("man") is None:
        click.echo(page, nl=False)
        return
    # man(1) reads a page from its standard input by that name.
    subprocess.run(["man", "-l", "-"], input=page.encode(), check=False, env={**os.environ, "LC_ALL": "C.UTF-8"})


def _found(root: click.Context, verbs: tuple[str, ...]) -> tuple[click.Context, click.Command]:
    """The command that `verbs` lead to. UsageError."""
    context, command = root, root.command
    for verb in verbs:
        inner = command.get_command(context, verb) if isinstance(command, click.Group) else None
        if inner is None:
            raise UsageError(f"{command.name} has no verb {verb}", hint=f"{context.command_path} --help")
        context, command = click.Context(inner, info_name=verb, parent=context), inner
    return context, command


def _page(context: click.Context, command: click.Command) -> Iterator[str]:
    """The source of a page, in man(7)'s macros."""
    name = context.command_path.replace(" ", "-")
    yield f'.TH "{_plain(name.upper())}" 1 "" "firekiln {__version__}"'
    yield ".SH NAME"
    yield f"{_plain(name)} \\- {_plain(command.get_short_help_str(limit=200))}"
    yield ".SH SYNOPSIS"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".B {_plain(context.command_path)}"
    yield _plain(usage)
    yield ".SH DESCRIPTION"
    for line in (command.help or "").replace("\b\n", "").split("\n"):
        yield ".PP" if not line.strip() else _plain(line.strip())
    yield from _options(context, command)
    if isinstance(command, click.Group):
        yield ".SH COMMANDS"
        for verb in command.list_commands(context):
            inner = command.get_command(context, verb)
            if inner is not None and not inner.hidden:
                yield from (".TP", f"\\fB{_plain(verb)}\\fR", _plain(inner.get_short_help_str(limit=200)))


def _options(context: click.Context, command: click.Command) -> Iterator[str]:
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    shown = [record for record in records if record is not None]
    if shown:
        yield ".SH OPTIONS"
    for names, text in shown:
        yield from (".TP", f"\\fB{_plain(names)}\\fR", _plain(text))


def _plain(text: str) -> str:
    """Text that roff takes for nothing but text."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("\n", " ")
    escaped = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in escaped)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
