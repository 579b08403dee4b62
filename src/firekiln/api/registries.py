"""Registries: log in, pull, push."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from firekiln.api.boms import sbom_statement
from firekiln.api.images import BuildResult, parse_platform
from firekiln.build.events import Events, Subscriber
from firekiln.build.registry import moved_status, open_repository
from firekiln.errors import ImageNotFoundError
from firekiln.oci.attestation import PROVENANCE
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.store import Store, StoredImage

if TYPE_CHECKING:
    from firekiln.machine.export.artifact import Artifact
    from firekiln.oci.credentials import Credential, Credentials
    from firekiln.oci.registry import Repository
    from firekiln.store.transfer import Pulled, Pushed


def pull(
    reference: str,
    *,
    platform: str | None = None,
    on_event: Subscriber | None = None,
    store: Store | str | Path | None = None,
) -> Pulled:
    """Bring an image of a registry into the store; one that is there already, unchanged, moves no layer.

    The registry is reached as `config.toml` says, with the credentials of `docker login`. ImageNotFoundError,
    RegistryError, ImageFormatError.
    """
    from firekiln.store import transfer  # noqa: PLC0415 - who builds does not pull

    name = Reference.parse(reference).tagged()
    events = Events(on_event)
    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        repository = stack.enter_context(open_repository(name))
        task = stack.enter_context(events.running(f"pull {name}"))
        wanted = parse_platform(platform) or Platform.host()
        return transfer.pull(opened, repository, wanted, moved=moved_status(events, task))


def login(registry: str, credential: Credential) -> str:
    """Try a credential at a registry (`docker.io`, `localhost:5000`), and keep it as `docker login` does.

    Returns where it is kept, for people. RegistryError where the registry refuses it; then nothing is kept.
    """
    from firekiln.oci.credentials import Given  # noqa: PLC0415 - who builds does not log in

    with open_repository(Reference.parse(f"{registry}/login"), Given(credential=credential)) as repository:
        repository.check()
    return credentials().put(registry, credential)


def credentials() -> Credentials:
    """The user's credentials for registries: those of `docker login`."""
    from firekiln.oci.credentials import Credentials, config_path  # noqa: PLC0415 - as above

    return Credentials(config_path())


def push(
    reference: str,
    *,
    image: str | BuildResult | None = None,
    platform: str | None = None,
    compression: str = "gzip",
    vm: bool = False,
    provenance: bool = False,
    sbom: bool = False,
    on_event: Subscriber | None = None,
    store: Store | str | Path | None = None,
) -> Pushed:
    """Put an image of the store (None: the one of that name) into the registry that `reference` names, under it.

    compression  of layers: none, gzip or zstd
    vm           push a VM artifact too, which refers to the image: a flat ext4, its kernel and Firecracker's
                 configuration (see `firekiln.machine.export.artifact`)
    provenance   push what the store knows of how the image came about too: a statement that refers to it
    sbom         push one on its packages too; where none is kept with the image it is made now

    As any container engine takes it. ImageNotFoundError where the store lacks it; RegistryError.
    """
    from firekiln.rootfs.compression import Compression  # noqa: PLC0415 - who builds does not push
    from firekiln.store import transfer  # noqa: PLC0415 - ditto

    name = Reference.parse(reference).tagged()
    events = Events(on_event)
    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        wanted = image.digest if isinstance(image, BuildResult) else image or str(name)
        found = opened.images.get(wanted, parse_platform(platform))
        if provenance and PROVENANCE not in found.attestations:
            raise ImageNotFoundError(
                f"{wanted}: there is no provenance of this image", hint="push without --provenance"
            )
        repository = stack.enter_context(open_repository(name))
        task = stack.enter_context(events.running(f"push {name}"))
        moved = moved_status(events, task)
        pushed = transfer.push(opened, repository, found, compression=Compression(compression), moved=moved)
        statements = [opened.blobs.read(found.attestations[PROVENANCE])] if provenance else []
        if sbom:
            statements.append(sbom_statement(opened, found))
        _push_statements(repository, pushed, statements)
        if vm:
            _push_vm(opened, repository, found, pushed)
        return pushed


def push_container_disk(
    reference: str,
    image: str | BuildResult,
    *,
    platform: str | None = None,
    on_event: Subscriber | None = None,
    store: Store | str | Path | None = None,
) -> str:
    """Put an image of the store under `reference` as a containerDisk for KubeVirt: a disk that boots anywhere.

    Returns the manifest's digest. As `push`, and what `export` of type=raw raises.
    """
    from firekiln.machine.export import Raw, Request, export  # noqa: PLC0415 - few push disks
    from firekiln.machine.export.artifact import container_disk  # noqa: PLC0415 - ditto

    name = Reference.parse(reference).tagged()
    events = Events(on_event)
    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        wanted = image.digest if isinstance(image, BuildResult) else image
        found = opened.images.get(wanted, parse_platform(platform))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=opened.temporary.folder)))
        repository = stack.enter_context(open_repository(name))
        stack.enter_context(events.running(f"push {name}"))
        export(opened, Request(image=found, output=Raw(dest=str(folder / "disk.img"))))
        made = container_disk(folder / "disk.img", found.image.platform, folder / "layer")
        return _push_artifact(repository, made, name.tag or "")


def _push_statements(repository: Repository, pushed: Pushed, statements: Sequence[bytes]) -> None:
    from firekiln.oci import attestation  # noqa: PLC0415 - few push statements
    from firekiln.oci.manifest import MEDIA_TYPE_MANIFEST, Descriptor  # noqa: PLC0415 - ditto

    subject = Descriptor(media_type=MEDIA_TYPE_MANIFEST, digest=pushed.digest, size=pushed.size)
    for said in statements:
        statement = attestation.about(said, pushed.digest, pushed.layers)
        manifest, blobs = attestation.referrer(statement, subject)
        for name, data in blobs.items():
            repository.put_bytes(name, data)
        repository.put_manifest(manifest, MEDIA_TYPE_MANIFEST)


def _push_vm(store: Store, repository: Repository, image: StoredImage, pushed: Pushed) -> None:
    from firekiln.errors import MachineError  # noqa: PLC0415 - few push disks
    from firekiln.machine.export import Ext4, Request, export  # noqa: PLC0415 - ditto
    from firekiln.machine.export.artifact import vm_artifact  # noqa: PLC0415 - ditto
    from firekiln.machine.kernel import default_kernel  # noqa: PLC0415 - ditto
    from firekiln.oci.manifest import MEDIA_TYPE_MANIFEST, Descriptor  # noqa: PLC0415 - ditto

    with tempfile.TemporaryDirectory(dir=store.temporary.folder) as folder:
        disk = Path(folder, "rootfs.ext4")
        export(store, Request(image=image, output=Ext4(dest=str(disk))))
        kernel = default_kernel(store.root, image.image.platform.architecture)
        if kernel is None:
            raise MachineError("the store has no kernel for the VM artifact", hint="firekiln kernel pull")
        subject = Descriptor(media_type=MEDIA_TYPE_MANIFEST, digest=pushed.digest, size=pushed.size)
        _push_artifact(repository, vm_artifact(disk, kernel, subject), "")


def _push_artifact(repository: Repository, artifact: Artifact, tag: str) -> str:
    from firekiln.oci.manifest import MEDIA_TYPE_MANIFEST  # noqa: PLC0415 - as above

    for digest, (descriptor, content) in artifact.blobs.items():
        if isinstance(content, bytes):
            repository.put_bytes(digest, content)
        else:
            repository.put_blob(digest, descriptor.size, partial(_opened, content))
    return repository.put_manifest(artifact.manifest, MEDIA_TYPE_MANIFEST, tag)


def _opened(path: Path) -> IO[bytes]:
    return path.open("rb")
