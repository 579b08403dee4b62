"""The tree of exceptions. Every failure that a user can meet is one of these; `cli` alone catches and prints them.

FirekilnError
├── UsageError              the command line itself is wrong                                   (exit 125)
├── DockerfileError         the Dockerfile's text; carries file, lines and an excerpt
├── BuildError              a build could not be carried out
│   └── StepFailedError     a RUN ended with another status than 0; carries it and the last output
├── ReferenceFormatError    an image reference that is none
├── ImageNotFoundError      no source has that image
├── ImageFormatError        an image or a cache of others that is damaged, forged or malformed
├── ContainerNotFoundError  no machine bears that name (Docker's word: "container")
├── ConflictError           a name or an address is taken
├── RegistryError           a registry can't be reached, refuses, or sends what is not what it should be
├── EngineError             Docker Engine can't be reached, refuses, or could not build
├── StoreError              the store is damaged, full, read-only or locked
│   └── DamagedError        a blob is missing, or its bytes are not those of its digest
├── RootfsError             a file system image or archive is malformed, hostile or beyond a format's limits
├── SandboxError            the host cannot, or may not, isolate a step
├── ExportError             an output (a disk image, an archive, a folder) could not be written
├── MachineError            a virtual machine could not be prepared, started or reached
│   └── NoTimerError        a busy host left a guest without a timer: another boot may do
└── MissingProgramError     a program or package of the host is absent; the hint says how to get it
"""

from __future__ import annotations

from firekiln.values import dataclass


class FirekilnError(Exception):
    """Base of all. `hint` says what to do about it; `exit_status` is what `cli` exits with."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(FirekilnError):
    """The command line asks for something impossible. 125 is Docker's status for a failure of the tool itself."""

    exit_status = 125


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where in a Dockerfile: its name as the user gave it, and lines counted from 1, the last included."""

    file: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.file}:{self.start}"


class DockerfileError(FirekilnError):
    """The text of a Dockerfile is refused, by the parser, an instruction or the plan.

    `location` is None only where the whole file is meant. `source` is the Dockerfile's text, for an excerpt;
    `span` is the offending part of it on `location`'s lines, where that is known, for a caret.
    """

    def __init__(
        self,
        message: str,
        *,
        location: Location | None = None,
        source: str | None = None,
        span: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.location = location
        self.source = source
        self.span = span

    def __str__(self) -> str:
        return f"{self.location}: {self.message}" if self.location else self.message


class BuildError(FirekilnError):
    """A build could not be carried out. `location` names the instruction, where one is to blame.

    `source` is the Dockerfile's text, for an excerpt, where it is known.
    """

    def __init__(self, message: str, *, location: Location | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.location = location
        self.source: str | None = None

    def __str__(self) -> str:
        return f"{self.location}: {self.message}" if self.location else self.message


class StepFailedError(BuildError):
    """A RUN step ended with `status` (128 + n for signal n); `output` holds the last bytes that it wrote."""

    def __init__(
        self,
        message: str,
        *,
        location: Location | None = None,
        status: int,
        output: bytes = b"",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, location=location, hint=hint)
        self.status = status
        self.output = output


class ReferenceFormatError(FirekilnError):
    """An image reference that is none."""


class ImageNotFoundError(FirekilnError):
    """No source has the image. `location` and `source` (its text) are those of the Dockerfile that asks for it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.location: Location | None = None
        self.source: str | None = None

    def __str__(self) -> str:
        return f"{self.location}: {self.message}" if self.location else self.message


class ImageFormatError(FirekilnError):
    """An image of others (a layout, a registry's answer) has other bytes than its digests say, or makes no sense."""


class ContainerNotFoundError(FirekilnError):
    """No machine bears that name or id."""


class ConflictError(FirekilnError):
    """A name, a port or another address is taken already."""

    exit_status = 125


class RegistryError(FirekilnError):
    """A registry can't be reached, refuses, or sends something else than was asked for.

    `status` is HTTP's, 0 where there was no answer; `codes` are the registry's own (`MANIFEST_UNKNOWN`).
    """

    def __init__(self, message: str, *, hint: str | None = None, status: int = 0, codes: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.codes = codes


class EngineError(FirekilnError):
    """Docker Engine can't be reached, refuses, or could not build."""


class StoreError(FirekilnError):
    """The store is damaged, full, read-only or locked."""


class DamagedError(StoreError):
    """A blob is missing, or its bytes are not those of its digest. What it was part of can be made or fetched again."""


class RootfsError(FirekilnError):
    """A file system image or an archive is malformed, hostile, or beyond what the format can say."""


class SandboxError(FirekilnError):
    """The host cannot, or may not, isolate a step."""


class ExportError(FirekilnError):
    """An output (a disk image, an archive, a folder) could not be written to where it was wanted."""


class MachineError(FirekilnError):
    """A virtual machine could not be prepared, started or reached."""

    exit_status = 125


class NoTimerError(MachineError):
    """A guest's kernel found no timer to count by: its VMM lost the processor while it looked. Another boot may do."""


class MissingProgramError(FirekilnError):
    """A program of the host is absent; the hint gives the command that installs it."""

    exit_status = 125
