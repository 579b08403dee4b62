"""Where the store lies, and what lies where in it.

ROOT/oci-layout         the store is an OCI image layout whose layers are EROFS files
ROOT/index.json         the images and their names; index.json.copy is what it is repaired from (`catalog`)
ROOT/blobs/sha256/HEX   layers, configs, manifests: immutable, each named by its digest
ROOT/index.db           results of build steps and facts about layers (SQLite, WAL): may be lost, costs work only
ROOT/leases/NAME        digests that somebody uses, one a line
ROOT/lock               byte ranges of it are the locks between processes
ROOT/tmp/NAME/          what a process is writing, and its lease; swept when it is gone
ROOT/ballast            space to remove things with when the disk is full
ROOT/damaged/           what was set aside because its bytes were wrong
ROOT/cache/             folders of RUN --mount=type=cache
ROOT/contexts/          digests of build contexts' files by what stat(2) says of them: may be lost, costs work only
ROOT/snapshots/         without root: layers as directories, for steps (`sandbox/snapshot.py`); may be lost
ROOT/kernels/           kernels for machines
ROOT/machines/          state of machines
ROOT/volumes/           named volumes: drives that outlive machines (`machine/volumes/drives.py`)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ROOT_VARIABLE = "FIREKILN_ROOT"


def store_root(explicit: str | Path | None = None, *, environ: Mapping[str, str] = os.environ) -> Path:
    """The store's folder: `explicit` (`--root`), else FIREKILN_ROOT, else the user's data folder (XDG), else root's."""
    chosen = explicit or environ.get(ROOT_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/firekiln")
    # The XDG base directory specification: a relative path counts as unset.
    data = environ.get("XDG_DATA_HOME", "")
    return (Path(data) if os.path.isabs(data) else Path.home() / ".local/share") / "firekiln"  # noqa: PTH117 - a str


def config_file(*, environ: Mapping[str, str] = os.environ) -> Path:
    """The user's configuration (XDG), or root's. It need not be there."""
    if os.geteuid() == 0 and not environ.get("XDG_CONFIG_HOME"):
        return Path("/etc/firekiln/config.toml")
    config = environ.get("XDG_CONFIG_HOME", "")
    return (Path(config) if os.path.isabs(config) else Path.home() / ".config") / "firekiln/config.toml"  # noqa: PTH117 - a str
