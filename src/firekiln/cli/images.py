"""`images`, `inspect`, `tag`, `rmi`, `history`: what is in the store, in Docker's words."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from firekiln import api
from firekiln.cli.imagefilters import parse_filters
from firekiln.cli.table import human_duration, human_size, print_table
from firekiln.cli.template import print_each, print_inspected
from firekiln.errors import ConflictError, ContainerNotFoundError, DamagedError, FirekilnError, ImageNotFoundError
from firekiln.oci.attestation import PROVENANCE
from firekiln.oci.reference import Reference
from firekiln.store import Store, StoredImage, gc

_NONE = "<none>"
_SHORT = 12
_CREATED_BY_WIDTH = 45
_DESCRIPTION_WIDTH = 45


@click.command
@click.option("-a", "--all", "_everything", is_flag=True, help="For Docker's sake: all are shown anyway.")
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
@click.option("--no-trunc", is_flag=True, help="Ids in full.")
@click.option("--digests", is_flag=True, help="Show digests.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only those that pass it.")
@click.option("--format", "style", metavar="FORMAT", default="table", help="table, json, or a template.")
@click.argument("name", required=False)
@click.pass_obj
def images(  # noqa: PLR0917 - click passes them by keyword
    obj: dict[str, Any],
    _everything: bool,
    quiet: bool,
    no_trunc: bool,
    digests: bool,
    filters: Sequence[str],
    style: str,
    name: str | None,
) -> None:
    """List images.

    Filters are dangling=true|false, label=KEY[=VALUE], before=IMAGE, since=IMAGE and reference=PATTERN.
    """
    with Store.open(obj["root"]) as store:
        passes = parse_filters(filters, store)
        rows = [row for image in store.images.list() for row in _rows(image, no_trunc=no_trunc) if passes(image, row)]
    if name is not None:
        rows = [row for row in rows if _is_named(row, name)]
    if quiet:
        for identity in dict.fromkeys(row["ID"] for row in rows):
            click.echo(identity)
    elif style == "table":
        columns = ["Repository", "Tag", *(["Digest"] if digests else []), "ID", "CreatedSince", "Size"]
        heading = ["REPOSITORY", "TAG", *(["DIGEST"] if digests else []), "IMAGE ID", "CREATED", "SIZE"]
        print_table(heading, [[row[column] for column in columns] for row in rows])
    else:
        print_each(style, rows)


@click.command
@click.option("--limit", type=click.IntRange(1), default=25, show_default=True, help="Rows at most.")
@click.option("--no-trunc", is_flag=True, help="Descriptions in full.")
@click.option("--format", "style", metavar="FORMAT", default="table", help="table, json, or a template.")
@click.argument("term")
@click.pass_obj
def search(obj: dict[str, Any], limit: int, no_trunc: bool, style: str, term: str) -> None:
    """Search the images that are here.

    TERM is looked for in their names and descriptions. Registries are not asked.
    """
    with Store.open(obj["root"]) as store:
        found = [row for image in store.images.list() for row in _described(image) if _mentions(row, term)][:limit]
    if style == "table":
        width = None if no_trunc else _DESCRIPTION_WIDTH
        rows = [[row["Name"], row["Tag"], row["Description"][:width]] for row in found]
        print_table(("NAME", "TAG", "DESCRIPTION"), rows)
    else:
        print_each(style, found)


@click.command
@click.option("-f", "--format", "style", metavar="FORMAT", help="json, or a template such as {{.Config.User}}.")
@click.option("--type", "kind", type=click.Choice(["image", "container"]), help="Look for this kind only.")
@click.option("-s", "--size", "sized", is_flag=True, help="Also what a machine's disks take.")
@click.option("--provenance", is_flag=True, help="How an image came about: an in-toto statement (SLSA provenance).")
@click.option("--sbom", is_flag=True, help="The packages in an image: an in-toto statement (SPDX).")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def inspect(  # noqa: PLR0917 - click passes them by keyword
    obj: dict[str, Any],
    style: str | None,
    kind: str | None,
    sized: bool,
    provenance: bool,
    sbom: bool,
    names: Sequence[str],
) -> None:
    """Show machines and images as JSON in Docker's shape."""
    found: list[dict[str, Any]] = []
    failed: list[FirekilnError] = []
    with Store.open(obj["root"]) as store:
        for name in names:
            try:
                if sbom:
                    found.append(json.loads(api.sbom_statement(store, store.images.get(name))))
                if provenance:
                    found.append(_provenance(store, name))
                if not (sbom or provenance):
                    found.append(_inspected(store, name, kind, sized=sized))
            except ImageNotFoundError as error:
                failed.append(error)
    print_inspected(style, found)
    raise_last(failed)


@click.command
@click.argument("image")
@click.argument("reference")
@click.pass_obj
def tag(obj: dict[str, Any], image: str, reference: str) -> None:
    """Give IMAGE one more name, REFERENCE."""
    with Store.open(obj["root"]) as store:
        store.images.tag(image, reference)


@click.command
@click.option("-f", "--force", is_flag=True, help="Also an image of several names, by its id; no error if it is gone.")
@click.argument("names", metavar="IMAGE…", nargs=-1, required=True)
@click.pass_obj
def rmi(obj: dict[str, Any], force: bool, names: Sequence[str]) -> None:
    """Remove images, or names of them."""
    failed: list[FirekilnError] = []
    with Store.open(obj["root"]) as store, store.making_room():
        for name in names:
            try:
                if not force:
                    _check_unused(store, name)
                removed = store.images.remove(name, force=force)
            except ImageNotFoundError as error:
                if force:
                    click.echo(f"firekiln: {error}", err=True)
                else:
                    failed.append(error)
                continue
            except ConflictError as error:
                error.exit_status = FirekilnError.exit_status
                failed.append(error)
                continue
            for reference in removed.untagged:
                click.echo(f"Untagged: {Reference.parse(reference).familiar}")
            for digest in removed.deleted:
                click.echo(f"Deleted: {digest}")
        gc.collect(store)
    raise_last(failed)


@click.command
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
@click.option("--no-trunc", is_flag=True, help="Instructions in full.")
@click.option("-H", "--human/--no-human", default=True, help="Sizes and times for people.")
@click.option("--format", "style", metavar="FORMAT", default="table", help="table, json, or a template.")
@click.argument("image")
@click.pass_obj
def history(  # noqa: PLR0917 - click passes them by keyword
    obj: dict[str, Any], quiet: bool, no_trunc: bool, human: bool, style: str, image: str
) -> None:
    """Show how an image came about, the last step first."""
    with Store.open(obj["root"]) as store:
        rows = _history(store.images.get(image), no_trunc=no_trunc, human=human)
    if quiet:
        for row in rows:
            click.echo(row["ID"])
    elif style == "table":
        heading = ("IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT")
        columns = ("ID", "CreatedSince" if human else "CreatedAt", "CreatedBy", "Size", "Comment")
        print_table(heading, [[row[column] for column in columns] for row in rows])
    else:
        print_each(style, rows)


def raise_last(failed: Sequence[FirekilnError]) -> None:
    """Tell of the failures with some of several names: the last ends the command."""
    for earlier in failed[:-1]:
        click.echo(f"firekiln: {earlier}", err=True)
    if failed:
        raise failed[-1]


def image_json(image: StoredImage) -> dict[str, Any]:
    """`docker image inspect`'s document."""
    document = image.image
    names = [Reference.parse(reference) for reference in image.references]
    config: dict[str, Any] = dict.fromkeys("Cmd Entrypoint ExposedPorts Labels OnBuild Volumes".split())
    config |= {"User": "", "WorkingDir": "", "Env": []} | document.config.to_json()
    platform = document.platform
    return {
        "Id": image.digest,
        "RepoTags": [name.familiar for name in names if name.tag],
        "RepoDigests": sorted({f"{_repository(name)}@{_digest(image, name)}" for name in names}),
        "Comment": document.history[-1].comment if document.history else "",
        "Created": document.created or "",
        "Author": document.author,
        "Architecture": platform.architecture,
        **({"Variant": platform.variant} if platform.variant else {}),
        "Os": platform.os,
        "Size": image.size,
        "RootFS": {"Type": "layers", "Layers": list(document.diff_ids)},
        "Config": config,
    }


def _check_unused(store: Store, name: str) -> None:
    """ConflictError where the name is the last of an image of which there is a machine."""
    from firekiln.machine.supervision.state import State  # noqa: PLC0415 - images alone need no machine

    try:
        image = store.images.find(name)
    except DamagedError:
        return  # it boots nothing any more
    if image is None or (
        len(image.references) > 1 and not image.digest.removeprefix("sha256:").startswith(name.removeprefix("sha256:"))
    ):
        return
    for record in State(store.machines).list():
        if record.image_digest == image.digest:
            raise ConflictError(
                f"conflict: unable to remove {name} (must force) - container {record.id[:_SHORT]} is using it",
                hint=f"firekiln rm {record.name}, or -f",
            )


def _inspected(store: Store, name: str, kind: str | None, *, sized: bool) -> dict[str, Any]:
    """The machine of that name, else the image, as Docker looks."""
    if kind != "image" and (machine := _machine(store, name, sized=sized)) is not None:
        return machine
    image = store.images.find(name) if kind != "container" else None
    if image is None:
        raise ImageNotFoundError(f"No such {'container' if kind == 'container' else kind or 'object'}: {name}")
    return image_json(image)


def _provenance(store: Store, name: str) -> dict[str, Any]:
    image = store.images.get(name)
    if PROVENANCE not in image.attestations:
        raise ImageNotFoundError(
            f"{name}: there is no provenance of this image",
            hint="it was pulled, imported, or built with --provenance=false",
        )
    statement: dict[str, Any] = json.loads(store.blobs.read(image.attestations[PROVENANCE]))
    return statement


def _machine(store: Store, name: str, *, sized: bool) -> dict[str, Any] | None:
    from firekiln.machine.inspection import machine_inspect  # noqa: PLC0415 - images alone need no machine
    from firekiln.machine.supervision.state import State  # noqa: PLC0415 - as above

    try:
        return machine_inspect(State(store.machines), name, sized=sized)
    except ContainerNotFoundError:
        return None


def _rows(image: StoredImage, *, no_trunc: bool) -> list[dict[str, str]]:
    common = {
        "Containers": "N/A",
        "CreatedAt": image.image.created or "N/A",
        "CreatedSince": _since(image.image.created),
        "Digest": image.digest,
        "ID": image.digest if no_trunc else image.digest.removeprefix("sha256:")[:_SHORT],
        "Size": human_size(image.size),
    }
    names = [Reference.parse(reference) for reference in image.references]
    if not names:
        return [{"Repository": _NONE, "Tag": _NONE, **common}]
    return [
        {**common, "Repository": _repository(name), "Tag": name.tag or _NONE, "Digest": _digest(image, name)}
        for name in names
    ]


def _described(image: StoredImage) -> list[dict[str, str]]:
    description = image.image.config.labels.get("org.opencontainers.image.description", "")
    names = [Reference.parse(reference) for reference in image.references]
    return [{"Name": _repository(name), "Tag": name.tag or _NONE, "Description": description} for name in names]


def _mentions(row: dict[str, str], term: str) -> bool:
    return any(term.lower() in text.lower() for text in (f"{row['Name']}:{row['Tag']}", row["Description"]))


def _is_named(row: dict[str, str], name: str) -> bool:
    wanted = Reference.parse(name)
    return row["Repository"] == _repository(wanted) and wanted.tag in (None, row["Tag"])


def _repository(reference: Reference) -> str:
    return Reference(registry=reference.registry, repository=reference.repository).familiar


def _digest(image: StoredImage, name: Reference) -> str:
    """What the registry that `name` is of knows the image as; its own digest where no registry has it."""
    known = dict(item.split("@", 1) for item in image.repo_digests)
    return known.get(name.name, image.digest)


def _history(image: StoredImage, *, no_trunc: bool, human: bool) -> list[dict[str, str]]:
    """A row for each line, sizes given to the lines that have layers, as far as the layers reach."""
    layers = iter(image.layers)
    rows: list[dict[str, str]] = []
    for line in image.image.history:
        layer = None if line.empty_layer else next(layers, None)
        size = layer.size if layer is not None else 0
        words = line.created_by
        short = words if no_trunc or len(words) <= _CREATED_BY_WIDTH else words[: _CREATED_BY_WIDTH - 1] + "…"
        rows.append(
            {
                "ID": "<missing>",
                "CreatedAt": line.created or "N/A",
                "CreatedSince": _since(line.created),
                "CreatedBy": short,
                "Size": human_size(size) if human else str(size),
                "Comment": line.comment,
            }
        )
    if rows:
        rows[-1]["ID"] = image.digest if no_trunc else image.digest.removeprefix("sha256:")[:_SHORT]
    return rows[::-1]


def _since(created: str | None) -> str:
    if not created:
        return "N/A"
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return "N/A"
    return f"{human_duration(max(0.0, time.time() - moment.timestamp()))} ago"
