"""Docker Engine ("Moby") through the `docker` Python SDK: find, save, load, build and remove images.

Which engine: DOCKER_HOST's, else the one of the context that DOCKER_CONTEXT or docker's configuration names, else the
host's own. The SDK speaks to the classic builder alone: BuildKit's wants a session that only docker's client has.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from firekiln.errors import EngineError, MissingProgramError
from firekiln.oci.platform import Platform
from firekiln.values import dataclass

if TYPE_CHECKING:
    import requests
    from docker import APIClient

_SILENCE: Final = 300
"""Seconds without a byte until an engine is given up; while it builds it may be silent for ever."""
_PATIENCE: Final = 20.0
_PAUSE: Final = 0.2
"""Seconds for removing what an interrupted build left, and between two attempts."""
_INTERMEDIATE: Final = re.compile(r"^ ---> ([0-9a-f]{12})\n?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineImage:
    """An image of an engine. `id` is its config's digest."""

    id: str
    platform: Platform
    diff_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBuild:
    """What an engine is to build. `context` is a tar that holds the Dockerfile, named `dockerfile`."""

    context: Iterable[bytes]
    dockerfile: str
    tag: str
    build_args: Mapping[str, str] = field(default_factory=dict)
    network: str = "default"
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    pull: bool = False
    platform: Platform | None = None


class DockerEngine:
    """A connection, which is closed when the context is left. Every method may raise EngineError."""

    def __init__(self, client: APIClient) -> None:
        self._client = client
        self._answers: list[requests.Response] = []
        client.hooks["response"].append(lambda answer, *_, **__: self._answers.append(answer))

    @classmethod
    def connect(cls) -> DockerEngine:
        """MissingProgramError where the SDK is not installed; EngineError where no engine answers."""
        try:
            import docker  # noqa: PLC0415 - an extra, and 100 ms
        except ImportError as error:
            hint = "pip install 'firekiln[docker]'"
            raise MissingProgramError("talking to Docker Engine needs the package docker", hint=hint) from error
        with _engine_errors():
            return cls(docker.APIClient(version="auto", timeout=_SILENCE, use_ssh_client=True, **_endpoint()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def find(self, name: str) -> EngineImage | None:
        """The image of a name, an id or a digest."""
        from docker.errors import ImageNotFound  # noqa: PLC0415 - see `connect`

        with _engine_errors():
            try:
                found = self._client.inspect_image(name)
            except ImageNotFound:
                return None
        parts = (found.get("Os"), found.get("Architecture"), found.get("Variant"))
        return EngineImage(
            id=str(found["Id"]),
            platform=Platform.parse("/".join(filter(None, parts))),
            diff_ids=tuple((found.get("RootFS") or {}).get("Layers") or ()),
        )

    def save(self, name: str) -> Iterator[bytes]:
        """`docker save`'s archive, as it comes."""
        with _engine_errors():
            yield from self._client.get_image(name)

    def load(self, archive: Iterable[bytes]) -> None:
        """`docker load`. What the archive's iterator raises ends it."""
        with _engine_errors():
            for line in self._client.load_image(archive):
                _check(line)

    def build(self, wanted: ImageBuild, output: Callable[[str], None]) -> None:
        """Build with the classic builder, and name the image; `output` gets what it says, and may raise to end it.

        Whatever happens, no container is left, and of a build that fails no image either.
        """
        known = self._ids()
        made: list[str] = []
        self._answers.clear()
        try:
            with _engine_errors():
                for line in self._client.build(**_request(wanted)):
                    _check(line)
                    text = str(line.get("stream") or f"{line.get('status', '')}\n")
                    made += _INTERMEDIATE.findall(text)
                    output(text)
        except BaseException:
            for answer in self._answers:
                answer.close()  # which is how the engine learns that nobody wants it any more
            self._remove_new(made, known)
            raise

    def remove(self, name: str) -> None:
        """Take a name away, with it an image that has no other, and what it alone was made of. None is no error."""
        from docker.errors import NotFound  # noqa: PLC0415 - see `connect`

        with _engine_errors(), suppress(NotFound):
            self._client.remove_image(name)

    def _ids(self) -> set[str]:
        with _engine_errors():
            return {str(item["Id"]) for item in self._client.images(all=True)}

    def _remove_new(self, made: Sequence[str], known: set[str]) -> None:
        """Remove the images without names that a build's steps made, the last first; none that was there before.

        An engine takes its time to end the step that is running, whose image it does not let go until then.
        """
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                left = self._ids() - known
            except EngineError:
                return  # it is gone itself
            try:
                for image in _among(made, left):
                    self.remove(image)
            except EngineError:
                time.sleep(_PAUSE)
            else:
                return


def _among(shorts: Sequence[str], ids: set[str]) -> Iterator[str]:
    """Those of `ids` that begin as the last, the one before … of `shorts` says."""
    for short in reversed(shorts):
        yield from sorted(identity for identity in ids if identity.startswith(f"sha256:{short}"))


def _endpoint() -> dict[str, Any]:
    """The APIClient's arguments."""
    from docker.context import ContextAPI  # noqa: PLC0415 - see `connect`
    from docker.utils import kwargs_from_env  # noqa: PLC0415 - ditto

    if os.environ.get("DOCKER_HOST"):
        return dict(kwargs_from_env())
    name = os.environ.get("DOCKER_CONTEXT")
    context = ContextAPI.get_context(name)
    if context is None:
        raise EngineError(f'there is no docker context "{name or "of docker/config.json"}"', hint="docker context ls")
    return {"base_url": context.Host, **({"tls": context.TLSConfig} if context.TLSConfig else {})}


def _request(wanted: ImageBuild) -> dict[str, Any]:
    """The arguments of the SDK's `build`."""
    return {
        "fileobj": wanted.context,  # what can be iterated is sent in chunks
        "custom_context": True,
        "dockerfile": wanted.dockerfile,
        "tag": wanted.tag,
        "buildargs": dict(wanted.build_args),
        "network_mode": wanted.network,
        "extra_hosts": dict(wanted.extra_hosts) or None,
        "nocache": wanted.no_cache,
        "pull": wanted.pull,
        "platform": str(wanted.platform) if wanted.platform else None,
        "rm": True,
        "forcerm": True,
        "decode": True,
    }


def _check(line: Mapping[str, Any]) -> None:
    """EngineError where a line of the engine's answer tells of one."""
    if "error" in line:
        raise EngineError(str(line["error"]).strip())


@contextmanager
def _engine_errors() -> Iterator[None]:
    """The SDK's errors, and those of what it stands on, in ours."""
    import requests  # noqa: PLC0415 - the SDK's own
    from docker.errors import APIError, DockerException  # noqa: PLC0415 - see `connect`
    from urllib3.exceptions import HTTPError  # noqa: PLC0415 - ditto

    try:
        yield
    except APIError as error:
        raise EngineError(f"Docker Engine: {error.explanation or error}") from error
    except DockerException as error:
        raise EngineError(f"Docker Engine: {error}", hint="is it running? DOCKER_HOST says where") from error
    except (requests.RequestException, HTTPError) as error:
        raise EngineError(f"Docker Engine: {error}") from error
