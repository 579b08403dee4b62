"""What this host has of all that builds and machines can use: looked for, and tried where looking says too little.

Each check is a function that gives one Finding, whatever is amiss; none raises. What a trial of KVM taught is
remembered until the host boots again (see `accel`), so that a second look takes a fraction of the first.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from firekiln.errors import FirekilnError, SandboxError
from firekiln.machine.guest.binary import pid1_path
from firekiln.machine.kernel import default_kernel
from firekiln.machine.kernel.apt import KEYRING
from firekiln.machine.vmm.accel import Trial, firecracker_trial, kvm_is_open, kvm_works, qemu_trial
from firekiln.machine.vmm.boards import MICROVM, VIRT, Board, board_of
from firekiln.machine.vmm.firecracker.version import HINT, installed_version, is_safe
from firekiln.machine.vmm.hostfacts import HostFacts
from firekiln.oci.platform import Platform
from firekiln.rootfs import erofs
from firekiln.rootfs.tree import Directory, Meta
from firekiln.sandbox import cgroup, mounts, subids, syscalls, userns
from firekiln.values import dataclass

Status = Literal["ok", "missing", "unusable"]
_KVM: Final = Path("/dev/kvm")
_TUN: Final = Path("/dev/net/tun")
_DOCKER: Final = Path("/var/run/docker.sock")
_DEADLINE: Final = 5.0
_VERSION: Final = re.compile(r"version (\d+\.\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a host may have. `detail` is what was found, `use` what it is for, `commands` how to get it."""

    name: str
    status: Status
    detail: str
    use: str
    commands: tuple[str, ...] = ()

    @property
    def is_ok(self) -> bool:
        return self.status == "ok"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "status": self.status,
            "detail": self.detail,
            "use": self.use,
            "commands": list(self.commands),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """All findings, and whether this host builds and runs images of its own architecture."""

    findings: tuple[Finding, ...]

    def __getitem__(self, name: str) -> Finding:
        return next(finding for finding in self.findings if finding.name == name)

    @property
    def can_build(self) -> bool:
        return self["layers"].is_ok and self["steps"].is_ok

    @property
    def can_run(self) -> bool:
        vmm = self["qemu"].is_ok or (self["firecracker"].is_ok and self["kvm"].is_ok)
        return vmm and self["kernel"].is_ok and self["guest"].is_ok

    def to_json(self) -> dict[str, Any]:
        return {
            "build": self.can_build,
            "run": self.can_run,
            "findings": [finding.to_json() for finding in self.findings],
        }


def examine_host(store: Path) -> HostReport:
    """Look at this host as the current user. `store` is the store's folder, which need not be there."""
    architecture = Platform.host().architecture
    board = board_of(architecture)
    with tempfile.TemporaryDirectory(prefix="firekiln-doctor-") as folder:
        build = [_checked("layers", _LAYERS, lambda: _layers(Path(folder)))]
        build.append(_checked("steps", _STEPS, lambda: _steps(Path(folder))))
    qemu, firecracker = find_qemu(board), find_firecracker("firecracker")
    run = [
        qemu,
        _checked("kvm", _KVM_USE, lambda: _kvm(board, store, architecture, _trial(board, qemu, firecracker))),
        _checked("kernel", _KERNEL, lambda: _kernel(store, architecture)),
        _checked("guest", _GUEST, lambda: _found("guest", str(pid1_path(architecture)), _GUEST)),
        firecracker,
        find_firecracker("jailer"),
        _tap(),
        *(_program(*words) for words in _MACHINE_PROGRAMS),
        find_qemu(VIRT if board is MICROVM else MICROVM, name=f"qemu for {_OTHER[architecture]}"),
    ]
    rest = [_groups(), *(_program(*words) for words in _BUILD_PROGRAMS), _docker()]
    return HostReport(findings=(*build, *run, *rest))


_LAYERS: Final = "base images and layers, mounted without being unpacked"
_STEPS: Final = "RUN steps"
_KVM_USE: Final = "machines at full speed"
_OTHER: Final = {"amd64": "arm64", "arm64": "amd64"}
_KERNEL: Final = "what machines boot"
_GUEST: Final = "PID 1 of machines"
_QEMU_USE: Final = "machines"
_FIRECRACKER_USE: Final = "machines on production hosts"

_MACHINE_PROGRAMS: Final = (("nft", "nftables", "networks of machines, as root"),)
_BUILD_PROGRAMS: Final = (
    ("mmdebstrap", "mmdebstrap", "FROM debian:…, where no registry has it"),
    ("newuidmap", "uidmap", "builds without root"),
    ("git", "git", "ADD and contexts from repositories"),
    ("mksquashfs", "squashfs-tools", "exports as squashfs"),
    ("qemu-img", "qemu-utils", "exports as qcow2"),
)


def _found(name: str, detail: str, use: str) -> Finding:
    return Finding(name=name, status="ok", detail=detail, use=use)


def _checked(name: str, use: str, check: Callable[[], Finding]) -> Finding:
    """What the check finds; its error as a finding."""
    try:
        return check()
    except FirekilnError as error:
        commands = (error.hint,) if error.hint else ()
        return Finding(name=name, status="unusable", detail=error.message, use=use, commands=commands)
    except OSError as error:
        return Finding(name=name, status="unusable", detail=(error.strerror or str(error)).lower(), use=use)


# --- builds ----------------------------------------------------------------------------------------------------------


def _layers(folder: Path) -> Finding:
    """Root mounts layers. A user can't, and has directories in their place, which takes no more than his ids."""
    if not subids.is_host_root():
        ids = subids.own_map()
        lent = sum(part.length for part in ids.uids)
        return _found("layers", f"as directories: without root, with {lent} ids in a user namespace", _LAYERS)
    path = folder / "layer"
    with path.open("w+b") as file:
        erofs.write(Directory(meta=Meta(mode=0o755), children={}), file.fileno())
    os.close(mounts.layer(path))
    return _found("layers", "the kernel mounts EROFS", _LAYERS)


def _steps(folder: Path) -> Finding:
    """An overlay is mounted, attached nowhere: nothing of it can be left behind."""
    for name in ("lower", "upper", "work"):
        (folder / name).mkdir()
    options = {"lowerdir": "lower", "upperdir": "upper", "workdir": "work"}
    named: dict[str, str | None] = {key: str(folder / name) for key, name in options.items()}
    if subids.is_host_root():
        os.close(mounts.filesystem("overlay", named))
        return _found("steps", "as root, in namespaces over overlayfs", _STEPS)
    if reason := _in_user_namespace(lambda: os.close(mounts.filesystem("overlay", {**named, "userxattr": None}))):
        raise SandboxError(f"no overlay in a user namespace: {reason}", hint="Linux 5.11 or later, or run as root")
    return _found("steps", "without root, in a user namespace over overlayfs", _STEPS)


def _in_user_namespace(trial: Callable[[], None]) -> str:
    """Do it in a child that is root of a user namespace of our ids; why it failed, or nothing."""
    ids = subids.own_map()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # newuidmap's own words
            userns.enter(ids)
            syscalls.unshare(syscalls.CLONE_NEWNS)
            trial()
        except OSError as error:
            os.write(writer, (error.strerror or str(error)).encode()[:512])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        reason = pipe.read().decode(errors="replace")
    os.waitpid(child, 0)
    return reason


def _groups() -> Finding:
    use = "limits of steps and machines"
    controllers = [name for name in ("memory", "pids", "cpu") if cgroup.find(name) is not None]
    if len(controllers) == 3:
        return _found("cgroups", "memory, pids, cpu", use)
    has = ", ".join(controllers) or "none that we may use"
    command = "systemd-run --user --scope -p Delegate=yes firekiln …"
    return Finding(
        name="cgroups", status="missing", detail=has, use=use, commands=() if os.geteuid() == 0 else (command,)
    )


def _program(program: str, package: str, use: str) -> Finding:
    path = shutil.which(program)
    if path is not None:
        return _found(program, path, use)
    commands = (f"apt-get install {package}",)
    return Finding(name=program, status="missing", detail="not on this host", use=use, commands=commands)


def _docker() -> Finding:
    use = "images of a Docker Engine, and --load into it"
    if os.access(_DOCKER, os.R_OK | os.W_OK):
        return _found("docker", str(_DOCKER), use)
    if _DOCKER.exists():
        commands = ("usermod -aG docker $USER",)
        return Finding(
            name="docker", status="unusable", detail="its socket is others' alone", use=use, commands=commands
        )
    return Finding(name="docker", status="missing", detail="no engine runs here; none is needed", use=use)


# --- machines --------------------------------------------------------------------------------------------------------


def find_qemu(board: Board, *, name: str = "qemu") -> Finding:
    """QEMU for that machine, by its version and its list of machines."""
    use = _QEMU_USE if name == "qemu" else "machines of another architecture, by emulation"
    commands = (board.hint.partition(" (")[0],)
    said = _output([board.program, "--version"])
    if said is None:
        return Finding(name=name, status="missing", detail="not on this host", use=use, commands=commands)
    version = _VERSION.search(said)
    machine = board.words[1].partition(",")[0]
    known = re.search(rf"^{machine}\s", _output([board.program, "-M", "help"]) or "", re.MULTILINE)
    if version is None or known is None:
        detail = f"{board.program} has no machine `{machine}`"
        return Finding(name=name, status="unusable", detail=detail, use=use, commands=commands)
    return _found(name, f"{version[1]}, machine `{machine}`", use)


def _kvm(board: Board, store: Path, architecture: str, vmm: Trial | None) -> Finding:
    """Whether a guest runs: that the device is there says little. At most a second, once a boot of the host."""

    def missing(status: Status, detail: str, *commands: str) -> Finding:
        return Finding(name="kvm", status=status, detail=detail, use=_KVM_USE, commands=commands)

    if not _KVM.exists():
        where = "and switch virtualisation on in the firmware, or in the settings of the cloud's machine"
        return missing("missing", "no /dev/kvm", "modprobe kvm_intel || modprobe kvm_amd", where)
    if not kvm_is_open(board):
        return missing("unusable", "/dev/kvm is there, but not this user's", "usermod -aG kvm $USER, and log in again")
    if vmm is None:
        return missing("unusable", "/dev/kvm opens; not tried, for want of QEMU or Firecracker")
    kernel = default_kernel(store, architecture)
    if kernel is None:
        return missing("unusable", "/dev/kvm opens; not tried, for want of a kernel", "firekiln kernel")
    if kvm_works(kernel.image, kernel.digest, HostFacts(store / "machines" / "host.json"), vmm):
        return _found("kvm", f"{vmm.name} ran a guest", _KVM_USE)
    return missing("unusable", f"/dev/kvm opens, but {vmm.name}'s guest gets nowhere: nested virtualisation?")


def _trial(board: Board, qemu: Finding, firecracker: Finding) -> Trial | None:
    """By which program KVM is to be tried."""
    if qemu.is_ok:
        return qemu_trial(board)
    return firecracker_trial() if firecracker.is_ok else None


def _kernel(store: Path, architecture: str) -> Finding:
    kernel = default_kernel(store, architecture)
    if kernel is not None:
        return _found("kernel", f"{kernel.kind} {kernel.version}", _KERNEL)
    absent = [program for program in ("apt-get", "dpkg-deb") if shutil.which(program) is None]
    if absent or not KEYRING.is_file():
        detail = f"none in the store; to fetch Debian's, this host lacks {' and '.join(absent) or 'its keyring'}"
        commands = ("firekiln run --kernel FILE …", "apt-get install apt debian-archive-keyring")
        return Finding(name="kernel", status="missing", detail=detail, use=_KERNEL, commands=commands)
    return _found("kernel", "none in the store yet; the first run fetches Debian's (firekiln kernel)", _KERNEL)


def find_firecracker(program: str) -> Finding:
    """Firecracker, or its jailer: present, and of a version without known holes."""
    use = _FIRECRACKER_USE if program == "firecracker" else "Firecracker, shut in"
    if shutil.which(program) is None:
        return Finding(name=program, status="missing", detail="not on this host", use=use, commands=(HINT,))
    try:
        version = installed_version(program)
    except FirekilnError as error:
        return Finding(name=program, status="unusable", detail=error.message, use=use, commands=(HINT,))
    said = ".".join(map(str, version))
    if not is_safe(version):
        return Finding(name=program, status="unusable", detail=f"{said} has known holes", use=use, commands=(HINT,))
    return _found(program, said, use)


def _tap() -> Finding:
    use = "networks of machines, as root"
    if not _TUN.exists():
        return Finding(name="tap", status="missing", detail=f"no {_TUN}", use=use, commands=("modprobe tun",))
    if os.geteuid() != 0:
        return Finding(name="tap", status="unusable", detail="only root makes interfaces", use=use)
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        detail = f"{_TUN}: {(error.strerror or '').lower()}"
        return Finding(name="tap", status="unusable", detail=detail, use=use, commands=("modprobe tun",))
    return _found("tap", str(_TUN), use)


def _output(argv: Sequence[str]) -> str | None:
    """What a program prints; None where it is not there or does not run."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
