"""`network create|ls|inspect|rm|prune|connect|disconnect`: named networks, in Docker's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast, get_args

import click

from firekiln.cli.confirm import confirm
from firekiln.cli.images import raise_last
from firekiln.cli.machines import machine_state
from firekiln.cli.table import print_table
from firekiln.cli.template import print_each, print_inspected
from firekiln.errors import ConflictError, FirekilnError, UsageError
from firekiln.machine.network.networks import (
    BRIDGE,
    Carrier,
    NamedNetwork,
    NetworkNotFoundError,
    Networks,
    Place,
)
from firekiln.machine.supervision.log import timestamp
from firekiln.machine.supervision.state import State
from firekiln.store import Store

_SHORT_ID = 12


@click.group
def network() -> None:
    """Networks: machines of one find each other by name."""


@network.command
@click.option("-d", "--driver", default="bridge", help="For Docker's sake: bridge.")
@click.option("--subnet", metavar="CIDR", help="Its addresses.  [default: a free /24]")
@click.option("--gateway", metavar="ADDRESS", help="Its gateway.  [default: the first address]")
@click.option("--internal", is_flag=True, help="No way out of it, and none in.")
@click.option("--label", "labels", multiple=True, metavar="NAME[=VALUE]", help="Label it.")
@click.option("-o", "--opt", "options", multiple=True, metavar="carrier=kernel|user", help="Who carries its frames.")
@click.option("--attachable", is_flag=True, hidden=True)
@click.option("--ipv4", is_flag=True, hidden=True)
@click.option("--ipv6", is_flag=True, hidden=True)
@click.argument("name")
@click.pass_obj
def create(  # noqa: PLR0917 - click passes them by keyword
    obj: dict[str, Any],
    driver: str,
    subnet: str | None,
    gateway: str | None,
    internal: bool,
    labels: Sequence[str],
    options: Sequence[str],
    attachable: bool,  # noqa: ARG001 - every machine may have every network
    ipv4: bool,  # noqa: ARG001 - always
    ipv6: bool,
    name: str,
) -> None:
    """Make a network.

    As root it is a bridge of the host's kernel; for others, and with -o carrier=user, processes of ours carry frames.
    """
    if driver != "bridge":
        raise UsageError(f"could not find plugin {driver} in v1 plugin registry", hint="there is the driver bridge")
    if ipv6:
        raise UsageError("--ipv6: networks carry IPv4 only", hint="leave it")
    given = _pairs(options)
    carrier = given.pop("carrier", None)
    if given or (carrier is not None and carrier not in get_args(Carrier)):
        raise UsageError(f"-o {next(iter(options))}: not known", hint="carrier=kernel or carrier=user")
    with Store.open(obj["root"]) as store:
        store.check_writable()
        made = Networks(store.root).create(
            name,
            subnet=subnet,
            gateway=gateway,
            is_internal=internal,
            carrier=cast("Carrier | None", carrier),
            labels=_pairs(labels),
            options=_pairs(options),
        )
    click.echo(made.id)


@network.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Only some of them.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.option("--format", "style", metavar="FORMAT", default="table", help="table, json, or a template.")
@click.pass_obj
def list_networks(obj: dict[str, Any], quiet: bool, filters: Sequence[str], no_trunc: bool, style: str) -> None:
    """List networks."""
    with Store.open(obj["root"]) as store:
        networks = Networks(store.root)
        found = [item for item in _known(networks) if all(_matches(networks, item, text) for text in filters)]
    rows = [_listed(item, None if no_trunc else _SHORT_ID) for item in found]
    if quiet:
        for row in rows:
            click.echo(row["ID"])
    elif style == "table":
        heading = ("NETWORK ID", "NAME", "DRIVER", "SCOPE")
        print_table(heading, [(row["ID"], row["Name"], row["Driver"], row["Scope"]) for row in rows])
    else:
        print_each(style, rows)


@network.command
@click.option("-f", "--format", "style", metavar="FORMAT", help="json, or a template such as {{.Name}}.")
@click.option("-v", "--verbose", is_flag=True, hidden=True)
@click.argument("names", nargs=-1, required=True)
@click.pass_context
def inspect(
    ctx: click.Context,
    style: str | None,
    verbose: bool,  # noqa: ARG001 - Docker's, for swarms
    names: Sequence[str],
) -> None:
    """Show networks as JSON, with the machines that run in them."""
    state = machine_state(ctx)
    networks = Networks(state.folder.parent)
    found, failed = _each(networks, names, lambda item: _inspected(networks, item, state))
    print_inspected(style, found)
    raise_last(failed)


@network.command
@click.option("-f", "--force", is_flag=True, help="No error if it is gone.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def rm(obj: dict[str, Any], force: bool, names: Sequence[str]) -> None:
    """Remove networks that no machine has."""
    with Store.open(obj["root"]) as store:
        networks = Networks(store.root)

        def remove(item: NamedNetwork) -> None:
            networks.remove(item)
            click.echo(item.name)

        _, failed = _each(networks, names, remove)
    raise_last([error for error in failed if not (force and isinstance(error, NetworkNotFoundError))])


@network.command
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--filter", "filters", multiple=True, metavar="label=NAME[=VALUE]", help="Only those with this label.")
@click.pass_obj
def prune(obj: dict[str, Any], force: bool, filters: Sequence[str]) -> None:
    """Remove all networks that no machine has."""
    confirm(force, "This will remove all custom networks not used by at least one container.")
    removed = []
    with Store.open(obj["root"]) as store:
        networks = Networks(store.root)
        for item in networks.all():
            wanted = item.name != BRIDGE and all(_matches(networks, item, text) for text in filters)
            if wanted and not networks.places(item):
                try:
                    networks.remove(item)
                except ConflictError:  # a machine has come to it meanwhile
                    continue
                removed.append(item.name)
    if removed:
        click.echo("\n".join(["Deleted Networks:", *removed]))


_fixed = "a machine's network interfaces are its hardware, which is chosen when it is made"


@network.command
@click.option("--alias", multiple=True, hidden=True)
@click.option("--ip", hidden=True)
@click.argument("name")
@click.argument("machine")
def connect(alias: Sequence[str], ip: str | None, name: str, machine: str) -> None:
    """Not for machines: say --network as often as needed when you run them."""
    words = " ".join([*(f"--network-alias {word}" for word in alias), *([f"--ip {ip}"] if ip else [])])
    raise UsageError(
        f"network connect: {_fixed}", hint=f"run {machine} anew: --network {name} {words}, beside its others".strip()
    )


@network.command
@click.option("-f", "--force", is_flag=True, hidden=True)
@click.argument("name")
@click.argument("machine")
def disconnect(force: bool, name: str, machine: str) -> None:  # noqa: ARG001 - Docker's
    """Not for machines: run them anew without that network."""
    raise UsageError(f"network disconnect: {_fixed}", hint=f"run {machine} anew without --network {name}")


def _each(
    networks: Networks, names: Iterable[str], action: Callable[[NamedNetwork], Any]
) -> tuple[list[Any], list[FirekilnError]]:
    """Act on each; what came of it, and what failed."""
    done: list[Any] = []
    failed: list[FirekilnError] = []
    for name in names:
        try:
            done.append(action(networks.get(name)))
        except (NetworkNotFoundError, ConflictError) as error:
            failed.append(error)
    return done, failed


def _known(networks: Networks) -> list[NamedNetwork]:
    networks.get(BRIDGE)
    return networks.all()


def _pairs(words: Iterable[str]) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _matches(networks: Networks, item: NamedNetwork, text: str) -> bool:
    """Whether a network is what `--filter` asks for. UsageError."""
    key, _, value = text.partition("=")
    name, equals, wanted = value.partition("=")
    is_ours = item.name == BRIDGE
    answers: dict[str, Callable[[], bool]] = {
        "name": lambda: value in item.name,
        "id": lambda: item.id.startswith(value),
        "driver": lambda: value == "bridge",
        "scope": lambda: value == "local",
        "type": lambda: value == ("builtin" if is_ours else "custom"),
        "dangling": lambda: (value.lower() in ("1", "true")) == (not is_ours and not networks.places(item)),
        "label": lambda: name in item.labels and (not equals or item.labels[name] == wanted),
        "label!": lambda: not (name in item.labels and (not equals or item.labels[name] == wanted)),
    }
    if key not in answers:
        raise UsageError(
            f"invalid filter '{text}'", hint="name=, id=, driver=, scope=, type=, dangling= and label= are"
        )
    return answers[key]()


def _listed(item: NamedNetwork, length: int | None) -> dict[str, str]:
    return {
        "CreatedAt": timestamp(item.created_ns),
        "Driver": "bridge",
        "ID": item.id[:length],
        "IPv4": "true",
        "IPv6": "false",
        "Internal": str(item.is_internal).lower(),
        "Labels": ",".join(f"{name}={value}" for name, value in sorted(item.labels.items())),
        "Name": item.name,
        "Scope": "local",
    }


def _inspected(networks: Networks, item: NamedNetwork, state: State) -> dict[str, Any]:
    names = {record.id: record.name for record in state.list() if record.status != "exited"}
    running = {
        place.machine: _endpoint(item, place, names[place.machine])
        for place in networks.places(item)
        if place.machine in names and state.is_alive(place.machine)
    }
    options: Mapping[str, str] = item.options
    return {
        "Name": item.name,
        "Id": item.id,
        "Created": timestamp(item.created_ns),
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": [{"Subnet": str(item.subnet), "Gateway": str(item.gateway)}],
        },
        "Internal": item.is_internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": running,
        "Options": {**options, "carrier": item.carrier},
        "Labels": dict(item.labels),
    }


def _endpoint(item: NamedNetwork, place: Place, name: str) -> dict[str, str]:
    return {
        "Name": name,
        "EndpointID": "",
        "MacAddress": place.mac,
        "IPv4Address": f"{place.address}/{item.subnet.prefixlen}",
        "IPv6Address": "",
    }
