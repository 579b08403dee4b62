"""`firekiln container …`: Docker's longer names of the verbs for machines, and `container prune`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import click

from firekiln.errors import UsageError

if TYPE_CHECKING:
    from firekiln.machine.supervision.state import Record


class _Aliases(click.Group):
    """The verbs at the top, by Docker's names for them below `container`; each loaded when it is used."""

    same: ClassVar[frozenset[str]] = frozenset(
        "attach cp create exec inspect kill logs pause port rename restart rm run start stats stop top unpause "
        "wait".split()
    )
    others: ClassVar[dict[str, str]] = {"ls": "ps", "list": "ps", "ps": "ps"}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.same, "ls"})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from firekiln.cli.command import VERBS  # noqa: PLC0415 - which imports this module

        verb = cmd_name if cmd_name in self.same else self.others.get(cmd_name)
        if verb is None:
            return super().get_command(ctx, cmd_name)
        module, _, name = VERBS[verb].partition(":")
        command: click.Command = getattr(importlib.import_module(f"firekiln.cli.{module}"), name)
        return command


@click.group(cls=_Aliases)
def container() -> None:
    """Machines, by Docker's word for them."""


@container.command
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option(
    "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="until=WHEN, label=KEY[=VALUE], label!=KEY[=VALUE]."
)
@click.pass_obj
def prune(obj: dict[str, Any], force: bool, filters: Sequence[str]) -> None:
    """Remove all machines that do not run."""
    from firekiln.cli.confirm import confirm  # noqa: PLC0415 - imported when used
    from firekiln.cli.ps import has_label  # noqa: PLC0415 - ditto
    from firekiln.cli.system import parse_until, remove_machines  # noqa: PLC0415 - ditto
    from firekiln.cli.table import human_size  # noqa: PLC0415 - ditto
    from firekiln.machine.supervision.state import State  # noqa: PLC0415 - ditto
    from firekiln.store import Store  # noqa: PLC0415 - ditto

    until = parse_until([text for text in filters if text.startswith("until=")])
    labels = [text.partition("=")[::2] for text in filters if not text.startswith("until=")]
    for key, value in labels:
        if key not in ("label", "label!") or not value:
            raise UsageError(f"--filter {key}={value}: invalid filter", hint="until=24h, label=KEY or label!=KEY=VALUE")

    def wanted(record: Record) -> bool:
        return all(has_label(record, value) == (key == "label") for key, value in labels)

    confirm(force, "This will remove all stopped containers.")
    with Store.open(obj["root"]) as store, store.making_room():
        removed = remove_machines(State(store.machines), until, wanted=wanted)
    if removed.deleted:
        click.echo("Deleted Containers:")
        for machine_id in removed.deleted:
            click.echo(machine_id)
        click.echo()
    click.echo(f"Total reclaimed space: {human_size(removed.size)}")
