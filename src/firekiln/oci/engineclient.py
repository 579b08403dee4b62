"""Docker's own client, for what the SDK lacks: building with BuildKit (`DOCKER_BUILDKIT=1`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Final

from firekiln.errors import EngineError, MissingProgramError
from firekiln.oci.engine import ImageBuild

_VARIABLE: Final = "DOCKER_BUILDKIT"
_PATIENCE: Final = 3.0
"""Seconds that an interrupted client has to tell the engine so."""


def wants_buildkit() -> bool:
    """Whether the user asks for BuildKit, as for `docker build`."""
    return os.environ.get(_VARIABLE) in {"1", "true"}


def build(wanted: ImageBuild, output: Callable[[str], None]) -> None:
    """As `DockerEngine.build`, by `docker build` and BuildKit, to which DOCKER_HOST and contexts mean the same.

    Of a build that fails BuildKit keeps its cache alone. MissingProgramError without docker's client; EngineError.
    """
    program = shutil.which("docker")
    if program is None:
        raise MissingProgramError("BuildKit needs docker's client", hint="apt-get install docker-cli")
    said = ""
    with _running([program, *_words(wanted)], wanted.context) as process:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.decode(errors="replace")
            said = text.strip() or said
            output(text)
        if process.wait() != 0:
            raise EngineError(said or f"docker build ended with {process.returncode}")


def _words(wanted: ImageBuild) -> list[str]:
    words = ["build", "--progress=plain", f"--file={wanted.dockerfile}", f"--tag={wanted.tag}"]
    words += [f"--network={wanted.network}"]
    words += [f"--build-arg={name}={value}" for name, value in wanted.build_args.items()]
    words += [f"--add-host={name}:{address}" for name, address in wanted.extra_hosts.items()]
    words += ["--no-cache"] if wanted.no_cache else []
    words += ["--pull"] if wanted.pull else []
    words += [f"--platform={wanted.platform}"] if wanted.platform else []
    return [*words, "-"]


@contextmanager
def _running(argv: list[str], stdin: Iterable[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The client, fed by a thread; both have ended when the context is left."""
    environment = {**os.environ, _VARIABLE: "1"}
    process = subprocess.Popen(
        argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdin is not None
    feeder = threading.Thread(target=_feed, args=(process.stdin, stdin), name="firekiln-context")
    feeder.start()
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        feeder.join()
        if process.stdout is not None:
            process.stdout.close()


def _feed(stdin: IO[bytes], pieces: Iterable[bytes]) -> None:
    """Write until the other end has enough; its own words say why it ended early."""
    with suppress(BrokenPipeError), stdin:
        for piece in pieces:
            stdin.write(piece)
