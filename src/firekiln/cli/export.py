"""`firekiln export`, and what `firekiln build -o` does when the image is there."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from firekiln import api
from firekiln.cli.progress import subscriber
from firekiln.cli.table import human_size
from firekiln.errors import UsageError

if TYPE_CHECKING:
    from firekiln.machine.export import Output


@click.command
@click.argument("image")
@click.option(
    "-o", "--output", "outputs", multiple=True, required=True, metavar="DIR|type=T,dest=FILE[,KEY=VALUE…]",
    help="ext4, erofs, squashfs, cpio, qcow2, raw (which boot by themselves), tar, oci, or dir.",
)  # fmt: skip
@click.option("--kernel", type=click.Path(path_type=Path), metavar="FILE", help="The kernel that is to boot it.")
@click.option("--verity", is_flag=True, help="Add a tree of hashes, against which every read is checked (dm-verity).")
@click.option("--platform", metavar="OS/ARCH", help="Of several images under one name, this platform's.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing.")
@click.pass_obj
def export(  # noqa: PLR0917 - click passes them by keyword
    obj: dict[str, Any],
    image: str,
    outputs: tuple[str, ...],
    kernel: Path | None,
    verity: bool,
    platform: str | None,
    quiet: bool,
) -> None:
    """Write an image as a disk, an archive or a folder."""
    Exports(outputs, root=obj["root"], quiet=quiet, kernel=kernel, verity=verity, platform=platform).write(image)


class Exports:
    """The `-o` of a command line, read before anything is built. UsageError."""

    def __init__(
        self,
        texts: Sequence[str],
        *,
        root: str | None,
        quiet: bool = False,
        kernel: Path | None = None,
        verity: bool = False,
        platform: str | None = None,
    ) -> None:
        self._outputs = _parsed(texts, verity=verity) if texts else []
        self._root = root
        self._quiet = quiet
        self._kernel = kernel
        self._platform = platform
        dests = [output.dest for output in self._outputs]
        if len(set(dests)) < len(dests):
            raise UsageError("--output: two of them have the same dest")

    @property
    def on_stdout(self) -> bool:
        return any(output.dest == "-" for output in self._outputs)

    def write(self, image: str | api.BuildResult) -> None:
        for output in self._outputs:
            bar = Bar(sys.stderr, f"exporting {output.dest}")
            try:
                api.export(
                    image,
                    output,
                    kernel=self._kernel,
                    platform=self._platform,
                    on_progress=None if self._quiet else bar,
                    on_notice=self._notice,
                    on_event=None if self._quiet else subscriber("auto"),
                    store=self._root,
                )
            finally:
                bar.close()

    def _notice(self, text: str) -> None:
        if not self._quiet:
            click.echo(f"export: {text}", err=True)


def _parsed(texts: Sequence[str], *, verity: bool) -> list[Output]:
    # Most builds export nothing: a third of their start.
    from firekiln.machine.export import parse_output, with_verity  # noqa: PLC0415

    outputs = [parse_output(text) for text in texts]
    return [with_verity(output) for output in outputs] if verity else outputs


class Bar:
    """Bytes done of bytes to do: a line that is drawn anew on a terminal, else one every few seconds."""

    _WIDTH = 24
    _SECONDS = 5.0

    def __init__(self, stream: TextIO, title: str) -> None:
        self._stream = stream
        self._title = title
        self._live = stream.isatty()
        self._drawn = False
        self._at = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        if not self._live and time.monotonic() - self._at < self._SECONDS:
            return
        self._at = time.monotonic()
        text = f"{self._title} {self._amount(done, total)}"
        self._stream.write(f"\r{text}\x1b[K" if self._live else f"{text}\n")
        self._stream.flush()
        self._drawn = True

    def close(self) -> None:
        if self._drawn and self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _amount(self, done: int, total: int | None) -> str:
        if not total:
            return human_size(done)
        part = min(1.0, done / total)
        filled = round(part * self._WIDTH)
        bar = f"[{'#' * filled}{'.' * (self._WIDTH - filled)}] " if self._live else ""
        return f"{bar}{part:.0%} {human_size(min(done, total))}/{human_size(total)}"
