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
    Raw,
    Squashfs,
    Tar,
    parse_output,
    with_verity,
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
    "Raw",
    "Request",
    "Squashfs",
    "Tar",
    "export",
    "parse_output",
    "with_verity",
]
