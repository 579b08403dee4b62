"""Debian's archive, read by apt without touching the host's package state.

apt runs with a configuration, a list of sources and state folders of its own in a temporary folder, so that the same
works on Ubuntu and as an ordinary user. Debian's archive keyring is the only one that it trusts; the host's proxies and
retries are kept. What is fetched is never installed, and none of its scripts is run.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from firekiln.errors import MachineError, MissingProgramError
from firekiln.values import dataclass

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITE = "bookworm"
"""Whose kernel (Linux 6.1) the figures in the documentation were measured with."""

_DEADLINE = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Where Debian's packages come from."""

    mirror: str = "http://deb.debian.org/debian"
    security: str = "http://deb.debian.org/debian-security"
    suite: str = SUITE
    keyring: Path = KEYRING


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


class Apt:
    """apt in `folder`, which is empty and the caller's to remove; it fetches for `architecture` from `archive` alone.

    Every method raises MachineError where the archive cannot be reached or its signature is wrong, and
    MissingProgramError where apt or the keyring is absent.
    """

    def __init__(self, folder: Path, architecture: str, archive: Archive) -> None:
        if not archive.keyring.is_file():
            raise MissingProgramError(
                f"Debian's archive keyring is not at {archive.keyring}", hint="apt-get install debian-archive-keyring"
            )
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

    def version(self, package: str) -> str:
        """The newest version of `package`."""
        record = self._apt("apt-cache", "show", "--no-all-versions", package)
        found = re.search(r"^Version: (\S+)$", record, re.MULTILINE)
        if not found:
            raise MachineError(f"{package}: the archive does not have it")
        return found[1]

    def download(self, package: str, version: str) -> Path:
        self._apt("apt-get", "-qq", "download", f"{package}={version}")
        return next((self._folder / "download").glob("*.deb"))

    def _apt(self, *args: str) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self._configuration), "LC_ALL": "C.UTF-8"}
        return run(args, cwd=self._folder / "download", env=environment)


def _host_settings() -> str:
    """The host's proxies, retries and habit about dates."""
    keys = ("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::ForceIPv4", "Acquire::Check-Valid-Until")
    dumped = (run(["apt-config", "dump", key]) for key in keys)
    # An empty value is a name's own heading in the tree ('Acquire::http "";'), and says nothing.
    return "\n".join(line for text in dumped for line in text.splitlines() if not line.endswith('"";'))


def run(
    argv: Sequence[str],
    *,
    stdout: int = subprocess.PIPE,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run one of apt's or dpkg's programs; what it wrote. MachineError, MissingProgramError."""
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
