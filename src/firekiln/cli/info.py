"""`info` and `version`, as Docker's: what there is in the store, and what runs machines on this host."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from firekiln.cli.table import human_size
from firekiln.cli.template import print_each
from firekiln.store import Store
from firekiln.version import __version__

if TYPE_CHECKING:
    from firekiln.api import HostReport

_TEXT = ""
"""The style that is for people."""


@click.command
@click.option("-f", "--format", "style", metavar="FORMAT", default=_TEXT, help="json, or a template.")
@click.pass_obj
def info(obj: dict[str, Any], style: str) -> None:
    """Show what is in the store, and what this host has."""
    from firekiln import api  # noqa: PLC0415 - `version` waits for nothing

    with Store.open(obj["root"]) as store:
        found = {**_store(store), **_host(api.examine_host(store.root), store)}
    if style != _TEXT:
        print_each(style, [found])
        return
    sizes = {"MemTotal", "Free"}
    for key, value in found.items():
        click.echo(f"{_TITLES.get(key, key)}: {human_size(value) if key in sizes else _words(value)}")


@click.command
@click.option("-f", "--format", "style", metavar="FORMAT", default=_TEXT, help="json, or a template.")
def version(style: str) -> None:
    """Show which firekiln this is. There is no server: what Docker's has is the client's own."""
    itself = {"Version": __version__, "Os": "linux", "Arch": _architecture(), "KernelVersion": platform.release()}
    if style != _TEXT:
        print_each(style, [{"Client": itself, "Server": itself, **itself}])
        return
    for key, value in itself.items():
        click.echo(f"{key}: {value}")


_TITLES = {
    "Containers": "Machines",
    "ContainersRunning": " Running",
    "ContainersPaused": " Paused",
    "ContainersStopped": " Stopped",
    "ServerVersion": "Version",
    "DockerRootDir": "Store",
    "Free": " Free",
    "NCPU": "CPUs",
    "MemTotal": "Memory",
}


def _store(store: Store) -> dict[str, Any]:
    from firekiln.machine.network.networks import networks_of  # noqa: PLC0415 - as above
    from firekiln.machine.supervision.state import State  # noqa: PLC0415 - ditto

    states = [record.status for record in State(store.machines).list()]
    running = states.count("running") + states.count("restarting")
    return {
        "Containers": len(states),
        "ContainersRunning": running,
        "ContainersPaused": states.count("paused"),
        "ContainersStopped": states.count("exited") + states.count("created"),
        "Images": len({image.digest for image in store.images.list()}),
        "Networks": ["default", *(network.name for network in networks_of(store).all())],
        "ServerVersion": __version__,
        "Driver": "erofs",
        "DockerRootDir": str(store.root),
        "Free": shutil.disk_usage(store.root).free,
    }


def _host(report: HostReport, store: Store) -> dict[str, Any]:
    from firekiln.machine.kernel import kernels  # noqa: PLC0415 - as above

    vmms = [f"{name} {report[name].detail}" for name in ("qemu", "firecracker") if report[name].is_ok]
    return {
        "VMMs": vmms,
        "Accelerator": "kvm" if report["kvm"].is_ok else "tcg",
        "Kernels": [f"{kernel.kind} {kernel.version} {kernel.architecture}" for kernel in kernels(store.root)],
        "Builds": report.can_build,
        "Runs": report.can_run,
        "KernelVersion": platform.release(),
        "OperatingSystem": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
        "OSType": "linux",
        "Architecture": platform.machine(),
        "NCPU": os.cpu_count() or 1,
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "Name": platform.node(),
        "SecurityOptions": ["rootless"] if os.geteuid() else [],
    }


def _words(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value)) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _architecture() -> str:
    from firekiln.oci.platform import Platform  # noqa: PLC0415 - as above

    return Platform.host().architecture
