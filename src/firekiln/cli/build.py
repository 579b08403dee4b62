"""`firekiln build`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, TypedDict, Unpack

import click

from firekiln import api
from firekiln.cli import attest
from firekiln.cli.checks import LateWarnings, report_checks
from firekiln.cli.export import Exports
from firekiln.cli.options import build_arguments, manifest_annotations
from firekiln.cli.progress import MODES, Quiet, display
from firekiln.dockerfile.mounts import parse_size
from firekiln.errors import StepFailedError, UsageError

_HOST_GATEWAY = "127.0.0.1"
"""Steps share the host's network, unless they have none."""
_ENTITLEMENTS = frozenset({"network.host", "security.insecure"})


_ALONE = {"--pull": "--pull=always", "--load": "--load=store", "--sbom": "--sbom=true"}
_SBOM = re.compile("true|false|0|1|(generator|disabled)=.*", re.IGNORECASE)


class _Command(click.Command):
    """`--pull`, `--load` and `--sbom` may stand without a word, and then take none of the words that follow."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's. A value of --sbom's may follow it as a word of its own, as docker's has to."""
        words = [
            word if word == "--sbom" and _SBOM.fullmatch(after) else _ALONE.get(word, word)
            for word, after in pairwise([*args, ""])
        ]
        return super().parse_args(ctx, words)


class _Options(TypedDict):
    """click's keywords."""

    context: str | None
    tags: tuple[str, ...]
    file: str | None
    target: str
    build_args: tuple[str, ...]
    contexts: tuple[str, ...]
    labels: tuple[str, ...]
    annotations: tuple[str, ...]
    cache_from: tuple[str, ...]
    cache_to: tuple[str, ...]
    load: str | None
    push: bool
    platform: str | None
    pull: api.Pull
    engine_images: bool
    stage_engine: api.StageEngine
    no_cache: bool
    no_cache_stages: tuple[str, ...]
    secrets: tuple[str, ...]
    ssh: tuple[str, ...]
    network: str
    isolation: api.Isolation
    hosts: tuple[str, ...]
    memory: str | None
    cpus: float | None
    pids_limit: int | None
    ulimits: tuple[str, ...]
    shm_size: str | None
    allow: tuple[str, ...]
    ca_bundle: str
    provenance: str | None
    sbom: str | None
    attest: tuple[str, ...]
    progress: str
    quiet: bool
    iidfile: Path | None
    metadata_file: Path | None
    check: bool
    outputs: tuple[str, ...]


@click.command(cls=_Command)
@click.argument("context", metavar="PATH|URL|-", required=False)
@click.option("-t", "--tag", "tags", multiple=True, metavar="NAME[:TAG]", help="Name the image.")
@click.option("-f", "--file", metavar="FILE|URL|-", help="The Dockerfile (default: PATH/Dockerfile).")
@click.option("--target", default="", metavar="STAGE", help="The stage to build.")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME[=VALUE]", help="Set an ARG.")
@click.option("--build-context", "contexts", multiple=True, metavar="NAME=VALUE", help="A further build context.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Add a label to the image.")
@click.option("--annotation", "annotations", multiple=True, metavar="NAME=VALUE", help="Annotate the manifest.")
@click.option("--platform", metavar="OS/ARCH", help="Build for this platform.")
@click.option(
    "--pull",
    default="missing",
    type=click.Choice(["always", "missing", "never"]),
    help="When to ask registries for base images; without a word: always.  [default: missing]",
)
@click.option("--engine-images", is_flag=True, help="Take Docker Engine's images as bases too.")
@click.option(
    "--stage-engine",
    type=click.Choice(["native", "docker"]),
    default="native",
    help="Who builds the stages that the target needs.",
    show_default=True,
)
@click.option("--no-cache", is_flag=True, help="Run every step, whether or not its result is known.")
@click.option("--no-cache-filter", "no_cache_stages", multiple=True, metavar="STAGE", help="The same for one stage.")
@click.option("--cache-from", multiple=True, metavar="type=local,src=DIR", help="Look for results in this cache too.")
@click.option("--cache-to", multiple=True, metavar="type=local,dest=DIR[,mode=max]", help="Write the cache there.")
@click.option("--secret", "secrets", multiple=True, metavar="id=ID[,src=FILE|,env=NAME]", help="Offer a secret to RUN.")
@click.option("--ssh", multiple=True, metavar="default|ID[=SOCKET|KEY]", help="Offer an ssh agent to RUN.")
@click.option("--network", type=click.Choice(["default", "none", "host"]), default="default", help="For RUN steps.")
@click.option(
    "--isolation",
    type=click.Choice(["default", "process", "vm"]),
    default="default",
    envvar="FIREKILN_ISOLATION",
    help="Where RUN steps run: in namespaces of this host, or in a VM, on a kernel of their own.",
)
@click.option("--add-host", "hosts", multiple=True, metavar="NAME:IP", help="A line of /etc/hosts for RUN steps.")
@click.option("-m", "--memory", metavar="BYTES", help="The most memory that a RUN step may use.")
@click.option("--cpus", type=float, help="How many processors a RUN step may use.")
@click.option("--pids-limit", type=click.IntRange(-1), help="The most processes of all RUN steps; -1 is any number.")
@click.option("--ulimit", "ulimits", multiple=True, metavar="NAME=SOFT[:HARD]", help="A resource limit of RUN steps.")
@click.option("--shm-size", metavar="BYTES", help="Size of /dev/shm in RUN steps (default: 64m).")
@click.option("--allow", multiple=True, metavar="ENTITLEMENT", help="network.host or security.insecure.")
@click.option("--ca-bundle", default="host", metavar="host|FILE|none", help="Certificates offered to RUN steps.")
@click.option(
    "--provenance",
    metavar="true|false|mode=max|mode=min",
    help="What is kept on how the image came about; if given, --push takes it along.  [default: mode=max]",
)
@click.option(
    "--sbom",
    metavar="true|false",
    help="Keep a list of the packages in the image with it, and --push it too.  [default: false]",
)
@click.option("--attest", multiple=True, metavar="type=sbom|provenance[,…]", help="As --sbom and --provenance.")
@click.option("--progress", type=click.Choice(MODES), default="auto", help="How to show what happens.")
@click.option("-q", "--quiet", is_flag=True, help="Print the image's digest only.")
@click.option("--iidfile", type=click.Path(path_type=Path), help="Write the image's digest to this file.")
@click.option("--metadata-file", type=click.Path(path_type=Path), help="Write what was built to this file, as JSON.")
@click.option(
    "--load",
    type=click.Choice(["store", "docker"]),
    help="docker: put the image into Docker Engine too; without a word no effect, since the store keeps it anyway.",
)
@click.option("--push", is_flag=True, help="Put the image into the registries of its names.")
@click.option("--check", is_flag=True, help="Check the Dockerfile, and build nothing.")
@click.option("-o", "--output", "outputs", multiple=True, metavar="DIR|type=T,dest=FILE", help="Export the image.")
@click.pass_obj
def build(obj: dict[str, str | None], /, **options: Unpack[_Options]) -> int:
    """Build an image from the Dockerfile and the files at PATH."""
    context, dockerfile = _context(options["context"], options["file"])
    if options["check"]:
        return _check(context, dockerfile, options)
    if options["push"] and not options["tags"]:
        raise UsageError("tag is needed when pushing to registry", hint="build with -t HOST/NAME:TAG")
    attestations = attest.parse(options["provenance"], options["sbom"], options["attest"])
    exports = Exports(options["outputs"], root=obj["root"], quiet=options["quiet"])
    stages = {name for item in options["no_cache_stages"] for name in item.split(",")}
    mode = "quiet" if options["quiet"] else options["progress"]
    shown = display(mode, sys.stderr)
    view = LateWarnings(shown, sys.stderr, expand=bool(obj["debug"]))
    _prepare(options)
    if options["load"] == "store" and not options["quiet"]:
        click.echo("--load: images are kept in the store anyway", err=True)
    try:
        result = api.build(
            context,
            dockerfile=dockerfile,
            tags=options["tags"],
            target=options["target"],
            build_args=build_arguments(options["build_args"]),
            labels=_pairs("--label", options["labels"], missing=""),
            annotations=manifest_annotations(options["annotations"]),
            contexts=_pairs("--build-context", options["contexts"]),
            platform=options["platform"],
            no_cache=True if options["no_cache"] else stages,
            cache_from=options["cache_from"],
            cache_to=options["cache_to"],
            pull=options["pull"],
            engine_images=options["engine_images"],
            stage_engine=options["stage_engine"],
            secrets=dict(_secret(text) for text in options["secrets"]),
            ssh=dict(_ssh(text) for text in options["ssh"]),
            network=options["network"],
            isolation=options["isolation"],
            add_hosts=dict(_host(text) for text in options["hosts"]),
            memory=_size("--memory", options["memory"]),
            cpus=options["cpus"],
            pids_limit=max(0, options["pids_limit"]) if options["pids_limit"] is not None else None,
            ulimits=options["ulimits"],
            shm_size=_size("--shm-size", options["shm_size"]),
            allow=_allowed(options["allow"]),
            ca_bundle=None if options["ca_bundle"] == "none" else options["ca_bundle"],
            provenance=attestations.provenance,
            sbom=attestations.sbom,
            on_event=view,
            store=obj["root"],
        )
    except StepFailedError as error:
        if not isinstance(shown, Quiet):
            error.output = b""  # it stands above
        raise
    finally:
        view.close()
    view.report()
    exports.write(result)
    if options["load"] == "docker":
        api.load_into_engine(options["tags"] or [result.digest], store=obj["root"])
    if options["push"]:
        _push(result, options, attestations, root=obj["root"])
    _report(result, options, quiet=exports.on_stdout)
    return 0


def _push(result: api.BuildResult, options: _Options, attestations: attest.Attestations, *, root: str | None) -> None:
    """Put the image into the registries of all the names that it was given."""
    said = attestations.pushes_provenance
    view = display("quiet" if options["quiet"] else options["progress"], sys.stderr)
    try:
        for tag in dict.fromkeys(options["tags"]):
            api.push(tag, image=result, provenance=said, sbom=attestations.sbom, on_event=view, store=root)
    finally:
        view.close()


def _check(context: str | BinaryIO, dockerfile: str | bytes | None, options: _Options) -> int:
    """The exit status of `--check`."""
    result = api.check(
        context,
        dockerfile=dockerfile,
        target=options["target"],
        build_args=build_arguments(options["build_args"]),
        platform=options["platform"],
    )
    return report_checks(result)


def _prepare(options: _Options) -> None:
    """Have no file of an earlier build lie where this one's digest is to come, and say early that it cannot."""
    for option, path in (("--iidfile", options["iidfile"]), ("--metadata-file", options["metadata_file"])):
        if path is None:
            continue
        if not path.parent.is_dir():
            raise UsageError(f"{option} {path}: no such file or directory")
        if path.is_file():
            path.unlink()


def _report(result: api.BuildResult, options: _Options, *, quiet: bool) -> None:
    """What is asked for about the image; with `quiet` nothing on standard output, where an archive went."""
    if options["iidfile"] is not None:
        _write("--iidfile", options["iidfile"], result.digest)
    if options["metadata_file"] is not None:
        metadata = {
            "containerimage.config.digest": result.config_digest,
            "containerimage.digest": result.digest,
            "image.name": ",".join(result.references),
        }
        _write("--metadata-file", options["metadata_file"], json.dumps(metadata, indent=2) + "\n")
    if options["quiet"] and not quiet:
        click.echo(result.digest)


def _context(context: str | None, file: str | None) -> tuple[str | BinaryIO, str | bytes | None]:
    """The context and the Dockerfile as `api.build` wants them."""
    if context is None:
        raise UsageError(
            '"firekiln build" requires 1 argument: the build context', hint="firekiln build [OPTIONS] PATH|URL|-"
        )
    if context == "-" == file:
        raise UsageError("invalid argument: can't use stdin for both build context and dockerfile")
    if context == "-":
        return sys.stdin.buffer, file
    return context, sys.stdin.buffer.read() if file == "-" else file


def _pairs(option: str, texts: Sequence[str], *, missing: str | None = None) -> Mapping[str, str]:
    """NAME=VALUE; without a value it is `missing`, or an error where that is None."""
    made: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or (not equals and missing is None):
            raise UsageError(f"{option} {text}: give it as NAME=VALUE")
        made[name] = value if equals else missing or ""
    return made


def _secret(text: str) -> tuple[str, bytes]:
    """`id=x,src=FILE`, `id=x,env=NAME`, `id=x`: as docker build reads it, by variable or file of the id's name."""
    fields = dict(_field(part, text) for part in text.split(","))
    unknown = set(fields) - {"type", "id", "src", "source", "env"}
    kind = fields.get("type", "")
    if unknown or kind not in ("", "file", "env") or not fields.get("id"):
        raise UsageError(f"--secret {text}: give it as id=ID,src=FILE or id=ID,env=NAME")
    name = fields["id"]
    path = fields.get("src", fields.get("source"))
    variable = fields.get("env", path if kind == "env" else None)
    if variable is None and path is None and kind != "file" and name in os.environ:
        variable = name
    if variable is not None:
        if variable not in os.environ:
            raise UsageError(f"--secret {text}: the variable {variable} is not set")
        return name, os.environb[variable.encode(errors="surrogateescape")]
    file = Path(path or name).expanduser()
    try:
        return name, file.read_bytes()
    except OSError as error:
        raise UsageError(f"--secret {text}: {file}: {(error.strerror or str(error)).lower()}") from error


def _field(part: str, whole: str) -> tuple[str, str]:
    name, equals, value = part.partition("=")
    if not equals:
        raise UsageError(f'--secret {whole}: invalid field "{part}" must be a key=value pair')
    return name.strip().lower(), value


def _ssh(text: str) -> tuple[str, Path | Sequence[Path]]:
    """`default`, `ID=SOCKET`, `ID=KEY[,KEY…]`: an agent, the environment's where none is named, or private keys."""
    name, _, value = text.partition("=")
    given = value or os.environ.get("SSH_AUTH_SOCK", "")
    if not given:
        raise UsageError(f"--ssh {text}: SSH_AUTH_SOCK is not set", hint="start an ssh agent, or give ID=SOCKET|KEY")
    paths = [Path(path).expanduser() for path in given.split(",")]
    if len(paths) == 1 and paths[0].is_socket():
        return name or "default", paths[0]
    for path in paths:
        if not value or not path.is_file():
            what = "an agent's socket or a private key" if value else "an agent's socket"
            raise UsageError(f"--ssh {text}: {path} is not {what}")
    return name or "default", paths


def _size(option: str, text: str | None) -> int | None:
    try:
        return parse_size(text) if text is not None else None
    except ValueError as error:
        raise UsageError(f"{option} {text}: not a size", hint="write it like 512m or 2g") from error


def _allowed(texts: Sequence[str]) -> Sequence[str]:
    unknown = [text for text in texts if text not in _ENTITLEMENTS]
    if unknown:
        raise UsageError(f"--allow {unknown[0]}: unknown entitlement", hint="network.host or security.insecure")
    return texts


def _host(text: str) -> tuple[str, str]:
    """NAME:IP or NAME=IP; an IPv6 address may stand in brackets. `host-gateway` is the host as steps reach it."""
    mark = "=" if "=" in text else ":"
    name, found, address = text.partition(mark)
    if not found or not name or not address:
        raise UsageError(f"--add-host {text}: give it as NAME:IP")
    if address == "host-gateway":
        return name, _HOST_GATEWAY
    address = address.removeprefix("[").removesuffix("]")
    if not _is_address(address):
        raise UsageError(f'--add-host {text}: invalid IP address "{address}"')
    return name, address


def _is_address(text: str) -> bool:
    import socket  # noqa: PLC0415 - few builds name hosts

    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, text)
            return True
    return False


def _write(option: str, path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"{option} {path}: {(error.strerror or str(error)).lower()}") from error
