"""`--init`: whether PID 1 is ours, or an init of the image to which the application is a service. Pure."""

from __future__ import annotations

import hashlib
import posixpath
from typing import Literal, TypeAlias

from firekiln.errors import UsageError
from firekiln.machine.guest.contract import Init, Restart, WrittenFile
from firekiln.machine.process import Process
from firekiln.machine.services.initsystem import InitSystem, detect, is_init, read_file
from firekiln.machine.services.scripts import DEPENDENCIES, openrc_files, sysvinit_files
from firekiln.machine.services.service import Service, service_of
from firekiln.machine.services.systemd import unit_files
from firekiln.rootfs.tree import Tree
from firekiln.values import dataclass

InitChoice: TypeAlias = Literal["auto", "firekiln", "image"]
_INITS = ("init", "systemd")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnInit:
    """An image's init as PID 1, and the files that tell it of the application."""

    init: Init
    files: tuple[WrittenFile, ...]


def own_init(
    choice: InitChoice, image: Tree, process: Process, restart: Restart, *, machine_id: str, stop_timeout: float
) -> OwnInit | None:
    """What `--init` means for an image; None where PID 1 is ours.

    `image`: its init becomes PID 1, and the process a service of it; where the process itself is that init, there is no
    service. `auto` does so only then: whoever runs `/sbin/init` wants that. UsageError for `image` where the image has
    none; MachineError where the process can't be a service of it.
    """
    # By its name first: looking for it means reading the image, which most starts need not wait for.
    if choice == "firekiln" or (choice == "auto" and posixpath.basename(process.argv[0]) not in _INITS):
        return None
    runs_init = is_init(image, process.argv[0])
    if choice == "auto" and not runs_init:
        return None
    system = detect(image)
    if system is None:
        if choice == "auto":
            return None
        raise UsageError(
            "--init=image: the image holds no init that firekiln knows",
            hint="systemd, OpenRC and sysvinit are known; without --init=image firekiln's own is PID 1",
        )
    files: tuple[WrittenFile, ...] = (_machine_id(machine_id),)
    argv = process.argv
    if not runs_init:
        if process.stdin or process.tty:
            raise UsageError("--init=image: a service of the image's init has no terminal or standard input (-i, -t)")
        argv = (system.program,)
        files += _service_files(image, system, service_of(image, process, restart, stop_timeout=stop_timeout))
    init = Init(argv=argv, stop_signal=system.stop_signal, stop_argv=system.stop_argv)
    return OwnInit(init=init, files=files)


def _service_files(image: Tree, system: InitSystem, service: Service) -> tuple[WrittenFile, ...]:
    match system.kind:
        case "systemd":
            return unit_files(service)
        case "openrc":
            return openrc_files(service)
        case "sysvinit":
            found = {path: read_file(image, path) for path in DEPENDENCIES}
            return sysvinit_files(service, {path: text.decode() for path, text in found.items() if text is not None})


def _machine_id(text: str) -> WrittenFile:
    """machine-id(5): 32 hexadecimal digits, other ones for each machine, though the images are the same."""
    digits = hashlib.sha256(f"firekiln machine-id {text}".encode()).hexdigest()[:32]
    return WrittenFile(path="/etc/machine-id", data=f"{digits}\n".encode(), mode=0o444)
