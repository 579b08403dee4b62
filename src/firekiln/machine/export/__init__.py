"""Images of the store as files of any format: `export` writes one, `parse_output` reads `-o` as Docker has it."""

from firekiln.machine.export.export import Exported, Request, export
from firekiln.machine.export.output import (
    Boot,
    Cpio,
    Erofs,
    Ext4,
    Folder,
    OciArchive,
    Output,
    Qcow2,
    Squashfs,
    Tar,
    parse_output,
)

__all__ = [
    "Boot",
    "Cpio",
    "Erofs",
    "Exported",
    "Ext4",
    "Folder",
    "OciArchive",
    "Output",
    "Qcow2",
    "Request",
    "Squashfs",
    "Tar",
    "export",
    "parse_output",
]
