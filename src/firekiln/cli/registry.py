"""`pull`, `push`, `login`, `logout`: images from and to registries, in Docker's words."""

from __future__ import annotations

import sys
from typing import Any

import click

from firekiln import api
from firekiln.build.registry import open_repository
from firekiln.cli.progress import display
from firekiln.errors import UsageError
from firekiln.oci.reference import DEFAULT_REGISTRY, Reference


@click.command
@click.option("-q", "--quiet", is_flag=True, help="Print the image's name only.")
@click.option("-a", "--all-tags", is_flag=True, help="Pull all tags of the repository.")
@click.option("--platform", metavar="OS/ARCH", help="The image for this platform.")
@click.argument("name")
@click.pass_obj
def pull(obj: dict[str, Any], quiet: bool, all_tags: bool, platform: str | None, name: str) -> None:
    """Bring an image from its registry."""
    reference = Reference.parse(name)
    if all_tags and (reference.tag or reference.digest):
        raise UsageError("tag can't be used with --all-tags/-a")
    names = [str(reference.tagged())]
    if all_tags:
        with open_repository(reference) as repository:
            names = [f"{reference.name}:{tag}" for tag in repository.tags()]
    elif reference.tag is None and reference.digest is None and not quiet:
        click.echo(f"Using default tag: {reference.tagged().tag}")
    for wanted in names:
        _pull(obj, wanted, quiet=quiet, platform=platform)


def _pull(obj: dict[str, Any], name: str, *, quiet: bool, platform: str | None) -> None:
    view = display("quiet" if quiet else "auto", sys.stderr)
    try:
        pulled = api.pull(name, platform=platform, on_event=view, store=obj["root"])
    finally:
        view.close()
    if quiet:
        click.echo(name)
        return
    shown = Reference.parse(name).familiar
    click.echo(f"Digest: {pulled.digest}")
    click.echo(f"Status: {'Downloaded newer image' if pulled.is_new else 'Image is up to date'} for {shown}")
    click.echo(name)


@click.command
@click.option("-q", "--quiet", is_flag=True, help="Print the image's name only.")
@click.option("--platform", metavar="OS/ARCH", help="The image for this platform.")
@click.option(
    "--compression",
    type=click.Choice(["gzip", "zstd", "none"]),
    default="gzip",
    help="How layers travel.",
    show_default=True,
)
@click.option("--vm", is_flag=True, help="Push a VM artifact beside it: root file system, kernel, configuration.")
@click.option("--provenance", is_flag=True, help="Push how the image came about too, as a statement that refers to it.")
@click.option("--sbom", is_flag=True, help="Push what is installed in it too, as a statement that refers to it.")
@click.option("--container-disk", metavar="IMAGE", help="Put IMAGE under NAME as a containerDisk for KubeVirt.")
@click.argument("name")
@click.pass_obj
def push(  # noqa: PLR0917 - click passes them by keyword
    obj: dict[str, Any],
    quiet: bool,
    platform: str | None,
    compression: str,
    vm: bool,
    provenance: bool,
    sbom: bool,
    container_disk: str | None,
    name: str,
) -> None:
    """Put an image into the registry that its name says."""
    reference = Reference.parse(name).tagged()
    view = display("quiet" if quiet else "auto", sys.stderr)
    common: dict[str, Any] = {"platform": platform, "on_event": view, "store": obj["root"]}
    try:
        if container_disk is not None:
            line = f"digest: {api.push_container_disk(name, container_disk, **common)}"
        else:
            pushed = api.push(name, compression=compression, vm=vm, provenance=provenance, sbom=sbom, **common)
            line = f"digest: {pushed.digest} size: {pushed.size}"
    finally:
        view.close()
    click.echo(str(reference) if quiet else f"{reference.tag}: {line}")


@click.command
@click.option("-u", "--username", help="The user's name.")
@click.option("-p", "--password", help="The password. Others may see it in the process list: rather --password-stdin.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.argument("server", default=DEFAULT_REGISTRY)
def login(username: str | None, password: str | None, password_stdin: bool, server: str) -> None:
    """Log in to a registry.

    SERVER is Docker Hub by default. Credentials that it takes are kept as `docker login` does.
    """
    from firekiln.oci.credentials import Credential  # noqa: PLC0415 - imported when used

    if password_stdin:
        if password is not None:
            raise UsageError("--password and --password-stdin are mutually exclusive")
        if not username:
            raise UsageError("Must provide --username with --password-stdin")
        password = sys.stdin.read().rstrip("\r\n")
    elif password is not None:
        click.echo("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", err=True)
    elif not sys.stdin.isatty():
        raise UsageError(
            "Cannot perform an interactive login from a non TTY device", hint="firekiln login -u NAME --password-stdin"
        )
    username = username or click.prompt("Username", err=True)
    password = password if password is not None else click.prompt("Password", hide_input=True, err=True)
    where = api.login(_registry(server), Credential(username=username, password=password))
    click.echo(f"Login Succeeded (kept in {where})")


@click.command
@click.argument("server", default=DEFAULT_REGISTRY)
def logout(server: str) -> None:
    """Forget the credentials of a registry.

    SERVER is Docker Hub by default.
    """
    registry = _registry(server)
    known = api.credentials().erase(registry)
    click.echo(f"Removing login credentials for {registry}" if known else f"Not logged in to {registry}")


def _registry(server: str) -> str:
    """`https://host:5000/v1/`, `host:5000` or `docker.io` as the registry's name in references."""
    host = server.partition("://")[2] or server
    return Reference.parse(f"{host.partition('/')[0]}/x").registry
