"""Debian's kernel for clouds, fetched by apt without touching the host's package state.

apt runs with a configuration, a list of sources and state folders of its own in a temporary folder, so that the same
works on Ubuntu and as an ordinary user. Debian's archive keyring is the only one that it trusts; the host's proxies and
retries are kept. The package is never installed, and none of its scripts is run.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from firekiln.errors import MachineError, MissingProgramError
from firekiln.machine.kernel.bzimage import extract_elf
from firekiln.machine.kernel.catalog import Kernel, NewKernel, NewModule, add
from firekiln.machine.kernel.modules import dependencies, load_order, normal

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITE = "bookworm"
"""Whose kernel (Linux 6.1) the figures in the documentation were measured with."""

WANTED = (
    "virtio_mmio virtio_blk virtio_net virtio_console virtio_rng virtio_balloon "
    "overlay erofs ext4 squashfs vmw_vsock_virtio_transport"
).split()
"""Modules that a machine may need. Which of them one does need is its VMM's matter."""

FEATURES: Mapping[str, str] = {
    "CONFIG_PVH": "pvh",
    "CONFIG_ACPI": "acpi",
    "CONFIG_VIRTIO_MMIO": "virtio-mmio",
    "CONFIG_VIRTIO_BLK": "virtio-blk",
    "CONFIG_VIRTIO_NET": "virtio-net",
    "CONFIG_VIRTIO_CONSOLE": "virtio-console",
    "CONFIG_HW_RANDOM_VIRTIO": "virtio-rng",
    "CONFIG_VIRTIO_VSOCKETS": "vsock",
    "CONFIG_OVERLAY_FS": "overlay",
    "CONFIG_EROFS_FS": "erofs",
    "CONFIG_EXT4_FS": "ext4",
    "CONFIG_SQUASHFS": "squashfs",
    "CONFIG_IP_PNP": "ip-pnp",
}
"""Kernel options and the features that they give, built in or as modules."""

_REQUIRED = frozenset("virtio-mmio virtio-blk virtio-console overlay erofs ext4".split())
_DEADLINE = 600.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Where Debian's packages come from."""

    mirror: str = "http://deb.debian.org/debian"
    security: str = "http://deb.debian.org/debian-security"
    suite: str = SUITE
    keyring: Path = KEYRING


def pull(
    root: Path, *, architecture: str = "amd64", archive: Archive | None = None, progress: Progress = lambda _: None
) -> Kernel:
    """Fetch the newest kernel of `archive` and add it to the store at `root`. Idempotent.

    MachineError where the archive cannot be reached or its signature is wrong; MissingProgramError where apt, dpkg-deb
    or the keyring is absent.
    """
    archive = archive or Archive()
    if not archive.keyring.is_file():
        raise MissingProgramError(
            f"Debian's archive keyring is not at {archive.keyring}", hint="apt-get install debian-archive-keyring"
        )
    with tempfile.TemporaryDirectory(prefix="firekiln-kernel-") as name:
        apt = _Apt(Path(name), architecture, archive)
        progress(f"reading {archive.mirror} {archive.suite}")
        apt.update()
        package, version = apt.newest(f"linux-image-cloud-{architecture}")
        progress(f"fetching {package} {version}")
        deb = apt.download(package, version)
        progress("unpacking")
        return add(root, unpack(deb, version=version, architecture=architecture))


def unpack(deb: Path, *, version: str, architecture: str) -> NewKernel:
    """The kernel in Debian's package `deb`: its ELF, and the modules in WANTED with what they need."""
    with tempfile.TemporaryFile(dir=deb.parent) as spool:
        _run(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=spool.fileno())
        spool.seek(0)
        with tarfile.open(fileobj=spool, mode="r:") as tar:
            return _from_tar(tar, version, architecture)


def apt_configuration(folder: Path, architecture: str, host: str) -> str:
    """apt.conf for work in `folder` alone. `host` is what is kept of the host's, in apt's own syntax."""
    paths = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::sourcelist": folder / "debian.sources",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::trusted": "/dev/null",
        "Dir::Etc::trustedparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
    }
    options = {
        "APT::Architecture": architecture,
        "APT::Sandbox::User": "root",  # the folder is ours alone, and no other user could enter it
        "APT::Update::Error-Mode": "any",  # a source that cannot be read is an error, not a warning
        "Acquire::Languages": "none",
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::AllowWeakRepositories": "false",
        "Acquire::AllowDowngradeToInsecureRepositories": "false",
    }
    lines = [f'{key} "{value}";' for key, value in {**paths, **options}.items()]
    return "\n".join([host.strip(), f'APT::Architectures {{ "{architecture}"; }};', *lines, ""])


def apt_sources(archive: Archive) -> str:
    """The archive as a deb822 list of sources, held to its keyring."""
    stanzas = [
        (archive.mirror, f"{archive.suite} {archive.suite}-updates"),
        (archive.security, f"{archive.suite}-security"),
    ]
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {archive.keyring}\n"
        for uri, suites in stanzas
    )


class _Apt:
    """apt in a folder of its own."""

    def __init__(self, folder: Path, architecture: str, archive: Archive) -> None:
        self._folder = folder
        self._configuration = folder / "apt.conf"
        for name in ("state/lists/partial", "cache/archives/partial", "download"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "debian.sources").write_text(apt_sources(archive))
        self._configuration.write_text(apt_configuration(folder, architecture, _host_settings()))

    def update(self) -> None:
        self._apt("apt-get", "-qq", "update")

    def newest(self, metapackage: str) -> tuple[str, str]:
        """The real package behind `metapackage`, and its version."""
        record = self._apt("apt-cache", "show", "--no-all-versions", metapackage)
        found = re.search(r"^Depends: (linux-image-\S+) \(= (\S+)\)$", record, re.MULTILINE)
        if not found:
            raise MachineError(f"{metapackage}: the archive names no kernel for it")
        return found[1], found[2]

    def download(self, package: str, version: str) -> Path:
        self._apt("apt-get", "-qq", "download", f"{package}={version}")
        return next((self._folder / "download").glob("*.deb"))

    def _apt(self, *args: str) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self._configuration), "LC_ALL": "C.UTF-8"}
        return _run(args, cwd=self._folder / "download", env=environment)


def _host_settings() -> str:
    """The host's proxies, retries and habit about dates."""
    keys = ("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::ForceIPv4", "Acquire::Check-Valid-Until")
    dumped = (_run(["apt-config", "dump", key]) for key in keys)
    # An empty value is a name's own heading in the tree ('Acquire::http "";'), and says nothing.
    return "\n".join(line for text in dumped for line in text.splitlines() if not line.endswith('"";'))


def _run(
    argv: Sequence[str],
    *,
    stdout: int = subprocess.PIPE,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=env,
            timeout=_DEADLINE,
            check=False,
        )
    except FileNotFoundError as error:
        raise MissingProgramError(
            f"{argv[0]} is not on this host", hint="it belongs to Debian's apt and dpkg"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"{argv[0]} did not end within {_DEADLINE:.0f} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith("E:")]
        reason = lines[0].removeprefix("E:").strip() if lines else f"exit status {done.returncode}"
        hint = "is the archive reachable, and the clock right? A proxy is taken from apt's own settings"
        raise MachineError(f"{argv[0]}: {reason}", hint=hint)
    return (done.stdout or b"").decode(errors="replace")


def _from_tar(tar: tarfile.TarFile, version: str, architecture: str) -> NewKernel:
    image, options = b"", ""
    files: dict[str, tarfile.TarInfo] = {}
    depends: dict[str, tuple[str, ...]] = {}
    for name, member in _regular(tar):
        if name.startswith("boot/vmlinuz-"):
            image = _content(tar, member)
        elif name.startswith("boot/config-"):
            options = _content(tar, member).decode(errors="replace")
        elif name.endswith(".ko") and "/kernel/" in name:
            module = normal(name.rpartition("/")[2].removesuffix(".ko"))
            files[module], depends[module] = member, dependencies(_content(tar, member))
    if not image:
        raise MachineError("the package holds no kernel image")
    features = kernel_features(options)
    if missing := _REQUIRED - features:
        raise MachineError(f"the kernel {version} lacks {', '.join(sorted(missing))}")
    return NewKernel(
        kind="debian",
        version=version,
        architecture=architecture,
        image=extract_elf(image),
        modules=tuple(
            NewModule(name=name, data=_content(tar, files[name]), depends=depends[name])
            for name in load_order(WANTED, depends)
        ),
        features=features,
    )


def kernel_features(options: str) -> frozenset[str]:
    """Which of FEATURES a kernel built with these options (the text of its .config) has."""
    chosen = set(re.findall(r"^(CONFIG_\w+)=[ym]$", options, re.MULTILINE))
    return frozenset(feature for option, feature in FEATURES.items() if option in chosen)


def _regular(tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    for member in tar:
        if member.isreg():
            yield member.name.removeprefix("./").removeprefix("usr/"), member


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()
