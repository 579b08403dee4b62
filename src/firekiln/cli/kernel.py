"""`firekiln kernel`: the kernels that machines boot."""

from __future__ import annotations

import click

from firekiln.store import Store


@click.group(invoke_without_command=True)
@click.pass_context
def kernel(ctx: click.Context) -> None:
    """Supply a kernel for machines.

    Without a sub-command: fetch Debian's where there is none.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(pull, missing=True)


@kernel.command
@click.option("--missing", is_flag=True, help="Only where the store has no kernel yet.")
@click.pass_context
def pull(ctx: click.Context, missing: bool) -> None:
    """Fetch the newest cloud kernel of Debian's archive, its signature checked."""
    from firekiln.machine.kernel import default_kernel  # noqa: PLC0415 - imported when used
    from firekiln.machine.kernel import pull as pull_kernel  # noqa: PLC0415 - ditto

    with Store.open(ctx.obj["root"]) as store:
        found = default_kernel(store.root, "amd64") if missing else None
        found = found or pull_kernel(store.root, progress=lambda text: click.echo(f"kernel: {text}", err=True))
        click.echo(found.digest)


@kernel.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Digests only.")
@click.option("--no-trunc", is_flag=True, help="Digests in full.")
@click.pass_context
def list_kernels(ctx: click.Context, quiet: bool, no_trunc: bool) -> None:
    """List the kernels of the store; the first is the one that machines boot."""
    from firekiln.cli.table import print_table  # noqa: PLC0415 - imported when used
    from firekiln.machine.kernel import kernels  # noqa: PLC0415 - ditto

    with Store.open(ctx.obj["root"]) as store:
        found = kernels(store.root)
    digests = [item.digest if no_trunc else item.digest.removeprefix("sha256:")[:12] for item in found]
    if quiet:
        for digest in digests:
            click.echo(digest)
        return
    rows = [
        (item.kind, item.version, f"linux/{item.architecture}", digest)
        for item, digest in zip(found, digests, strict=True)
    ]
    print_table(("KIND", "VERSION", "PLATFORM", "DIGEST"), rows)
