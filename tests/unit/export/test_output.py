"""`-o`, as Docker writes it."""

import pytest

from firekiln.errors import UsageError
from firekiln.machine.export import (
    Boot,
    Cpio,
    Erofs,
    Ext4,
    Folder,
    OciArchive,
    Qcow2,
    Raw,
    Squashfs,
    Tar,
    parse_output,
    with_verity,
)
from firekiln.machine.export.output import parse_size
from firekiln.rootfs.compression import Compression
from firekiln.rootfs.ext4 import Size


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("out", Folder(dest="out")),
        ("a,b", None),
        ("-", Tar(dest="-")),
        ("type=local,dest=out", Folder(dest="out")),
        ("type=dir,dest=out", Folder(dest="out")),
        ("dest=out,type=tar", Tar(dest="out")),
        ("type=tar", Tar(dest="-")),
        ("type=tar,dest=x,compression=zstd", Tar(dest="x", compression=Compression.ZSTD)),
        ("type=oci", OciArchive(dest="-")),
        (
            "type=oci,dest=x,compression=uncompressed,name=n",
            OciArchive(dest="x", compression=Compression.NONE, name="n"),
        ),
        ("type=ext4,dest=x", Ext4(dest="x")),
        ("Type=ext4, dest=x ,size=2G", Ext4(dest="x ", size=Size(total=2 << 30))),
        ('type=ext4,"dest=a,b"', Ext4(dest="a,b")),
        ("type=ext4,dest=x,size=+500M,label=l,uuid=u", Ext4(dest="x", size=Size(extra=500 << 20), label="l", uuid="u")),
        ("type=ext4,dest=x,boot=false", Ext4(dest="x", boot=None)),
        ("type=erofs,dest=x,hostname=web", Erofs(dest="x", boot=Boot(hostname="web"))),
        ("type=squashfs,dest=x,compression=lz4", Squashfs(dest="x", compression="lz4")),
        ("type=cpio,dest=x,compression=gzip", Cpio(dest="x", compression=Compression.GZIP)),
        ("type=qcow2,dest=x,compression=zlib", Qcow2(dest="x", compressed=True)),
        ("type=ext4,dest=x,verity", Ext4(dest="x", verity=True)),
        ("type=erofs,dest=x,verity=false", Erofs(dest="x")),
        ("type=squashfs,dest=x,verity=1", Squashfs(dest="x", verity=True)),
        ("type=raw,dest=x,size=2G,append=ip=a b", Raw(dest="x", size=Size(total=2 << 30), append="ip=a b")),
    ],
)
def test_an_output_is_read_as_docker_reads_it(text, output):
    if output is None:
        with pytest.raises(UsageError, match="key=value"):
            parse_output(text)
    else:
        assert parse_output(text) == output


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        ("dest=x", "type is required"),
        ("type=iso,dest=x", "no output of type iso"),
        ("type=docker", "no output of type docker"),
        ("type=ext4", "dest is required"),
        ("type=local", "dest is required"),
        ("type=ext4,dest=-", "standard output"),
        ("type=ext4,dest=x,compression=gzip", "type=ext4 has no compression"),
        ("type=erofs,dest=x,label=l,uuid=u", "type=erofs has no label, uuid"),
        ("type=tar,dest=x,size=2G", "has no size"),
        ("type=ext4,dest=x,size=huge", "size=huge"),
        ("type=ext4,dest=x,boot=perhaps", "boot is true or false"),
        ("type=ext4,dest=x,boot=false,hostname=h", "no hostname"),
        ("type=ext4,dest=x,hostname=a b", "no host name"),
        ("type=squashfs,dest=x,compression=rar", "no compression rar"),
        ("type=oci,dest=x,compression=xz", "no compression xz"),
        ("type=ext4,dest", "key=value"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        parse_output(text)


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("2G", 2 << 30), ("1.5k", 1536), ("3MiB", 3 << 20), ("1tb", 1 << 40)]
)
def test_sizes_are_binary(text, size):
    assert parse_size(text) == size


def test_verity_for_all_is_asked_of_those_that_can():
    assert with_verity(Ext4(dest="x")) == Ext4(dest="x", verity=True)
    for output in (Cpio(dest="x"), Tar(dest="x"), Folder(dest="x"), Erofs(dest="x", boot=None)):
        with pytest.raises(UsageError, match="verity"):
            with_verity(output)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("type=ext4,dest=x,verity,boot=false", "root hash"),
        ("type=cpio,dest=x,verity", "type=cpio has no verity"),
        ("type=tar,dest=x,verity", "type=tar has no verity"),
        ("type=ext4,dest=x,boot", "key=value"),
        ("type=raw", "dest is required"),
        ("type=raw,dest=x,boot=no", "made to boot"),
        ("type=raw,dest=x,append=a'b", "GRUB"),
    ],
)
def test_what_verity_and_disks_cannot_is_said(text, reason):
    with pytest.raises(UsageError, match=reason):
        parse_output(text)
