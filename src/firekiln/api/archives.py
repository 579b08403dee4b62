"""Images in files: save, load, import."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from firekiln.api.images import parse_platform
from firekiln.errors import ReferenceFormatError, UsageError
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.store import Store, StoredImage

if TYPE_CHECKING:
    from firekiln.rootfs.compression import Readable
    from firekiln.store.archives import Loaded

ArchiveFormat: TypeAlias = Literal["docker-archive", "oci-archive"]


def save(
    images: str | Iterable[str],
    output: str | Path | Callable[[bytes], object],
    *,
    format: ArchiveFormat = "docker-archive",  # noqa: A002 - the option's name
    compression: str = "none",
    platform: str | None = None,
    store: Store | str | Path | None = None,
) -> None:
    """Write images of the store, by name or digest, into one archive.

    output       a file, which appears whole or not at all; or what takes the archive's pieces
    format       both are OCI image layouts; docker-archive has a manifest.json besides, which every docker reads
    compression  of layers: none, gzip or zstd

    ImageNotFoundError where the store lacks one; ExportError where the file can't be written.
    """
    from firekiln.rootfs.algorithm import Compression  # noqa: PLC0415 - who loads compresses nothing
    from firekiln.store.archives import saved  # noqa: PLC0415 - ditto

    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        names = [images] if isinstance(images, str) else images
        wanted = _wanted(opened, names, parse_platform(platform))
        docker = format == "docker-archive"
        pieces = stack.enter_context(saved(opened, wanted, docker=docker, compression=Compression(compression)))
        if isinstance(output, str | Path):
            _write(Path(output), pieces)
        else:
            for piece in pieces:
                output(piece)


def load_into_engine(
    images: str | Iterable[str], *, platform: str | None = None, store: Store | str | Path | None = None
) -> None:
    """Put images of the store, by name or digest, into Docker Engine, under the names that they are given by.

    ImageNotFoundError where the store lacks one; EngineError; MissingProgramError without Docker's SDK.
    """
    from firekiln.oci.engine import DockerEngine  # noqa: PLC0415 - most know no engine
    from firekiln.store.archives import saved  # noqa: PLC0415 - as above

    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        names = [images] if isinstance(images, str) else images
        wanted = _wanted(opened, names, parse_platform(platform))
        engine = stack.enter_context(DockerEngine.connect())
        engine.load(stack.enter_context(saved(opened, wanted)))


def load(
    archive: str | Path | Readable,
    *,
    platform: str | None = None,
    store: Store | str | Path | None = None,
) -> list[Loaded]:
    """Bring the images of an archive into the store: of `docker save`, or an OCI image layout, in a file or a folder.

    `archive` may be compressed, and may be whatever bytes can be read from. What it names keeps its names. Of an image
    for several platforms the one for `platform` (None: the host's) is taken. ImageFormatError, RootfsError.
    """
    from firekiln.store import archives  # noqa: PLC0415 - who saves loads nothing

    _check_there(archive)
    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        return archives.load(opened, archive, parse_platform(platform) or Platform.host(), name="standard input")


def import_image(
    archive: str | Path | Readable,
    reference: str | None = None,
    *,
    changes: Sequence[str] = (),
    message: str = "",
    platform: str | None = None,
    store: Store | str | Path | None = None,
) -> StoredImage:
    """Make an image of a file system's tar, compressed or not: of `docker export`, or any other.

    archive    a file, a URL, or what bytes can be read from
    reference  the image's name
    changes    instructions of a Dockerfile for its config: "CMD nginx", "ENV A=b"

    RootfsError where the tar is damaged or hostile; DockerfileError where a change is none.
    """
    from firekiln.build.changes import image_of  # noqa: PLC0415 - who saves plans nothing
    from firekiln.store import archives  # noqa: PLC0415 - ditto

    if reference is not None and Reference.parse(reference).digest is not None:
        raise ReferenceFormatError("cannot import digest reference", hint="give NAME:TAG")
    image = image_of(changes, parse_platform(platform) or Platform.host())
    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        name = "-"
        if isinstance(archive, str) and archive.startswith(("http://", "https://")):
            name, archive = archive, _fetched(opened, archive)
        _check_there(archive)
        return archives.import_root(opened, archive, image, reference=reference, message=message, name=name)


def _wanted(store: Store, names: Iterable[str], platform: Platform | None) -> list[tuple[StoredImage, Sequence[str]]]:
    """Each image once, with those of its names that were asked for; one that is asked for by digest has none."""
    found: dict[str, tuple[StoredImage, list[str]]] = {}
    for name in names:
        image = store.images.get(name, platform)
        _, references = found.setdefault(image.digest, (image, []))
        with contextlib.suppress(ReferenceFormatError):
            reference = str(Reference.parse(name).tagged())
            if reference in image.references and reference not in references:
                references.append(reference)
    if not found:
        raise UsageError("no image to save is given")
    return list(found.values())


def _write(dest: Path, pieces: Iterable[bytes]) -> None:
    from firekiln.machine.export.files import NewFiles, export_errors  # noqa: PLC0415 - who loads writes no file

    with NewFiles() as files:
        path = files.add(dest.expanduser().absolute())
        with export_errors(dest), path.open("wb", buffering=0) as file:
            for piece in pieces:
                file.write(piece)
        files.commit()


def _fetched(store: Store, url: str) -> Readable:
    from firekiln.build.fetch import fetch  # noqa: PLC0415 - an HTTP client takes 30 ms to import
    from firekiln.build.graph import HttpSource  # noqa: PLC0415 - ditto
    from firekiln.rootfs.stream import FileStream  # noqa: PLC0415 - ditto
    from firekiln.rootfs.tree import File  # noqa: PLC0415 - ditto

    (file,) = fetch(HttpSource(url=url), folder=store.temporary.folder).children.values()
    assert isinstance(file, File)
    return FileStream(file)


def _check_there(archive: object) -> None:
    """UsageError where a file is named that isn't there."""
    if isinstance(archive, str | Path) and not Path(archive).exists():
        raise UsageError(f"open {archive}: no such file or directory")
