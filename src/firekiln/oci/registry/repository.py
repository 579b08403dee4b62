"""One repository of a registry (distribution-spec v1.1): manifests and blobs, read and written.

`Repository` is a `BlobSource`: whoever reads a blob verifies it. Reading goes to a registry's mirrors first, and to the
registry itself where they fail; writing goes to itself alone.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import quote

from firekiln.errors import ImageFormatError, ImageNotFoundError, RegistryError
from firekiln.oci import digest as digests
from firekiln.oci.credentials import CredentialSource
from firekiln.oci.manifest import (
    MEDIA_TYPE_DOCKER_INDEX,
    MEDIA_TYPE_DOCKER_MANIFEST,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Index,
)
from firekiln.oci.reference import DEFAULT_TAG, Reference
from firekiln.oci.registry.download import Download
from firekiln.oci.registry.server import PULL, PUSH, Server
from firekiln.oci.registry.settings import Network
from firekiln.oci.registry.transport import Response
from firekiln.oci.registry.upload import Upload

if TYPE_CHECKING:
    from firekiln.rootfs.compression import Readable

_ACCEPTED: Final = (MEDIA_TYPE_INDEX, MEDIA_TYPE_MANIFEST, MEDIA_TYPE_DOCKER_INDEX, MEDIA_TYPE_DOCKER_MANIFEST)
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+"
_NEXT: Final = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')

T = TypeVar("T")


class Repository:
    """The images under one name. Threads may share it; leaving the context closes its connections."""

    def __init__(
        self,
        reference: Reference,
        network: Network,
        credentials: CredentialSource,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.reference = reference
        self._limits = network.limits
        *self._mirrors, self._origin = (
            Server(
                reference,
                endpoint,
                network.limits,
                partial(credentials.get, endpoint.registry, reference.repository),
                sleep,
            )
            for endpoint in network.endpoints(reference.registry)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in (*self._mirrors, self._origin):
            server.transport.close()

    @property
    def name(self) -> str:
        return self.reference.name

    # --- reading ----------------------------------------------------------------------------------------------------

    def resolve(self, wanted: str = "") -> tuple[Descriptor, bytes]:
        """The manifest or index of a tag or digest (default: the reference's), and its bytes.

        A tag's digest is that of what came; where a digest was asked for, it is compared. ImageNotFoundError,
        ImageFormatError, RegistryError.
        """
        wanted = wanted or self.reference.digest or self.reference.tag or DEFAULT_TAG
        return self._read(lambda server: _manifest(server, wanted))

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[Readable]:
        """The bytes of a blob or manifest, taken up again where the connection breaks. As `BlobSource`."""
        if descriptor.media_type in _ACCEPTED:
            yield _Bytes(self.resolve(descriptor.digest)[1])
            return
        if descriptor.extra.get("urls"):
            raise ImageFormatError(
                f"{self.name}: the layer {descriptor.digest} lies elsewhere (a foreign layer): refused",
                hint="Windows' base images have such layers; Linux's have none",
            )
        with ExitStack() as connection:
            yield self._read(lambda server: Download(server, descriptor, connection))

    def has_blob(self, digest: str) -> bool:
        """Whether the registry itself has a blob."""
        answer = self._origin.send("HEAD", f"blobs/{digests.check(digest)}", PULL, "look for a blob")
        if answer.status not in (200, 404):
            raise self._origin.refusal(answer, "pull")
        return answer.status == 200

    def tags(self) -> list[str]:
        """All tags, in the registry's order. RegistryError where there is no end to them."""
        found: list[str] = []
        target = "tags/list?n=1000"
        for _ in range(self._limits.pages):
            answer = self._origin.expect(self._origin.send("GET", target, PULL, "tags"), 200, what="pull")
            with self._malformed("its list of tags"):
                found += [str(tag) for tag in json.loads(answer.body).get("tags") or []]
            link = _NEXT.search(answer.headers.get("Link", ""))
            if link is None:
                return found
            target = self._origin.url(link[1])
        raise RegistryError(f"{self.name}: its list of tags has more than {self._limits.pages} pages")

    def referrers(self, digest: str, artifact_type: str = "") -> Index:
        """What refers to a manifest by its `subject`: by the referrers API, or by the tag that takes its place."""
        answer = self._origin.send("GET", f"referrers/{digests.check(digest)}", PULL, "referrers")
        if answer.status == 404:
            try:
                data = _manifest(self._origin, _fallback_tag(digest))[1]
            except ImageNotFoundError:
                return Index()
        else:
            data = self._origin.expect(answer, 200, what="pull").body
        with self._malformed("its list of referrers"):
            index = Index.from_json(json.loads(data))
        kept = tuple(item for item in index.manifests if artifact_type in ("", item.extra.get("artifactType")))
        return Index(manifests=kept, annotations=index.annotations)

    def _read(self, ask: Callable[[Server], T]) -> T:
        for mirror in self._mirrors:
            try:
                return ask(mirror)
            except (RegistryError, ImageNotFoundError, ImageFormatError):
                continue  # a mirror may lack anything, and be wrong: the registry itself has the last word
        return ask(self._origin)

    # --- writing ----------------------------------------------------------------------------------------------------

    def put_manifest(self, data: bytes, media_type: str, tag: str = "") -> str:
        """Put a manifest or index under a tag, or under its digest alone; its blobs must be there. Returns its digest.

        Where it has a `subject`, and the registry doesn't keep referrers, the tag that takes their place is renewed.
        """
        digest = digests.of(data)
        kind = {"Content-Type": media_type}
        answer = self._origin.send("PUT", f"manifests/{tag or digest}", PUSH, "push", headers=kind, body=data)
        self._origin.expect(answer, 201, 200, 202, what="push")
        with self._malformed("the manifest"):
            document = json.loads(data)
        subject = (document.get("subject") or {}).get("digest")
        if subject and not answer.headers.get("OCI-Subject"):
            self._add_referrer(str(subject), Descriptor(media_type=media_type, digest=digest, size=len(data)), document)
        return digest

    def put_blob(
        self,
        digest: str,
        size: int,
        content: Callable[[], IO[bytes]],
        *,
        moved: Callable[[int], None] = lambda _: None,
        mount_from: str = "",
    ) -> bool:
        """Put a blob, unless it is there, or the registry can mount it from another repository of its own.

        `content` opens a seekable file of `size` bytes; `moved` is told how many bytes went (negative: in vain).
        Whether anything was sent. RegistryError.
        """
        if self.has_blob(digest):
            return False
        upload = Upload(self._origin, digest, size, moved)
        if upload.begin(mount_from):
            return False
        with content() as file:
            upload.send(file)
        return True

    def put_bytes(self, digest: str, data: bytes) -> None:
        """Put a small blob, as `put_blob`."""
        self.put_blob(digest, len(data), lambda: io.BytesIO(data))

    def check(self) -> None:
        """RegistryError where the registry does not answer, or refuses the credentials."""
        answer = self._origin.send("GET", "/v2/", "", "login")
        self._origin.expect(answer, 200, what="login")

    def _add_referrer(self, subject: str, descriptor: Descriptor, document: dict[str, Any]) -> None:
        kind = document.get("artifactType") or (document.get("config") or {}).get("mediaType")
        entry = Descriptor(
            media_type=descriptor.media_type,
            digest=descriptor.digest,
            size=descriptor.size,
            annotations=document.get("annotations") or {},
            extra={"artifactType": kind},
        )
        known = tuple(item for item in self.referrers(subject).manifests if item.digest != entry.digest)
        self.put_manifest(Index(manifests=(*known, entry)).encode(), MEDIA_TYPE_INDEX, _fallback_tag(subject))

    @contextmanager
    def _malformed(self, what: str) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ImageFormatError(f"{self.name}: {what} is malformed: {error!r}") from None


class _Bytes:
    """Bytes in memory as something to read."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def read(self, size: int, /) -> bytes:
        taken, self._data = self._data[:size], self._data[size:]
        return bytes(taken)


def _manifest(server: Server, wanted: str) -> tuple[Descriptor, bytes]:
    accept = {"Accept": ", ".join((*_ACCEPTED, "*/*;q=0.1"))}
    answer = server.send("GET", f"manifests/{quote(wanted, safe=':')}", PULL, "manifest", headers=accept)
    if answer.status == 404:
        raise ImageNotFoundError(f"manifest for {server.name}{_tail(wanted)} not found: manifest unknown")
    server.expect(answer, 200, what="pull")
    found = digests.of(answer.body)
    if ":" in wanted and found != wanted:
        raise ImageFormatError(f"{server.name}: asked for {wanted}, it sent a manifest with digest {found}")
    media_type = _media_type(answer)
    if media_type.startswith(_SCHEMA_1):
        raise ImageFormatError(
            f"{server.name}{_tail(wanted)} is an image of schema 1, which has been out of use since 2017",
            hint="pull and push it again with a newer Docker",
        )
    return Descriptor(media_type=media_type, digest=found, size=len(answer.body)), answer.body


def _media_type(answer: Response) -> str:
    """What the document says of itself, else what the header does."""
    try:
        named = json.loads(answer.body).get("mediaType")
    except (ValueError, AttributeError):
        named = None
    return str(named or answer.headers.get("Content-Type", "").partition(";")[0].strip())


def _tail(wanted: str) -> str:
    return f"@{wanted}" if ":" in wanted else f":{wanted}"


def _fallback_tag(digest: str) -> str:
    """The tag of a subject's referrers where there is no API for them (distribution-spec, "Referrers Tag Schema")."""
    return digest.replace(":", "-")
