"""`firekiln kernel`: the kernels that machines boot."""

from __future__ import annotations

import sys

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
@click.option("--generic", is_flag=True, help="The kernel for disks (type=raw) rather than for machines.")
@click.pass_context
def pull(ctx: click.Context, missing: bool, generic: bool) -> None:
    """Fetch the newest cloud kernel of Debian's archive, its signature checked."""
    from firekiln.machine.kernel import generic_kernels, kernels, pull_generic  # noqa: PLC0415 - imported when used
    from firekiln.machine.kernel import pull as pull_kernel  # noqa: PLC0415 - ditto

    with Store.open(ctx.obj["root"]) as store:
        known = (generic_kernels if generic else kernels)(store.root) if missing else []
        fetch = pull_generic if generic else pull_kernel
        found = known[0] if known else fetch(store.root, progress=lambda text: click.echo(f"kernel: {text}", err=True))
        click.echo(found.digest)


@kernel.command("build")
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Compilers at once (default: one a processor).")
@click.option("--pull", "newest", is_flag=True, help="Look for a newer source, though a kernel is there.")
@click.pass_context
def build_kernel(ctx: click.Context, jobs: int | None, newest: bool) -> None:
    """Build a small kernel that boots in a third of the time, from Debian's kernel source.

    It is built once, which takes some ten minutes of two processors and 2 GB of space in the store, and is then what
    machines boot.
    """
    from firekiln.machine.kernel.own import Progress, build  # noqa: PLC0415 - imported when used

    counter = _Counter()
    with Store.open(ctx.obj["root"]) as store, counter:
        made = build(store, newest=newest, jobs=jobs, progress=Progress(step=counter.step, compiled=counter.compiled))
    click.echo(made.digest)


class _Counter:
    """Steps as lines; compiled files as a line that changes on a terminal, elsewhere as one for every 250."""

    _EVERY = 250

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._live = self._stream.isatty()
        self._open = False

    def __enter__(self) -> None:
        """Nothing is open yet."""

    def __exit__(self, *_: object) -> None:
        self._end_line()

    def step(self, text: str) -> None:
        self._end_line()
        click.echo(f"kernel: {text}", err=True)

    def compiled(self, count: int) -> None:
        if self._live:
            self._stream.write(f"\rkernel: {count} files compiled")
            self._stream.flush()
            self._open = True
        elif count % self._EVERY == 0:
            self.step(f"{count} files compiled")

    def _end_line(self) -> None:
        if self._open:
            self._stream.write("\n")
            self._open = False


@kernel.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Digests only.")
@click.option("--no-trunc", is_flag=True, help="Digests in full.")
@click.pass_context
def list_kernels(ctx: click.Context, quiet: bool, no_trunc: bool) -> None:
    """List the kernels of the store; the first is the one that machines boot (a generic one is for disks only)."""
    from firekiln.cli.table import print_table  # noqa: PLC0415 - imported when used
    from firekiln.machine.kernel import generic_kernels, kernels  # noqa: PLC0415 - ditto

    with Store.open(ctx.obj["root"]) as store:
        found = [*kernels(store.root), *generic_kernels(store.root)]
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
