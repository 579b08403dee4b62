"""Mutated images and archives: readers end in another Tree or in one clear error, in bounded time and memory.

A few thousand in all for every run; the long forms take minutes and another seed each day would not hurt.
"""

import pytest

from ext4images import crashed
from firekiln.rootfs import cpio, erofs, ext4, tar
from firekiln.rootfs.compare import describe
from firekiln.rootfs.tree import Device, Directory, Fifo, File, Meta, Socket
from mutation import survive
from trees import ACL, CAPABILITY, file, folder, link, sparse

SEED = 4
LONG = pytest.mark.slow


def sample(*, room=22):
    """A bit of everything, in few bytes."""
    twice = file(b"twice")
    notes = ((b"security.capability", CAPABILITY), (b"system.posix_acl_access", ACL), (b"user.a", b"v" * 99))
    return folder(
        {
            b"d": folder({b"f": file(b"1" * 5000), b"l": link(b"t" * 99), b"s": link(b"f"), b"twice": twice}),
            b"deep": folder({b"er": folder({b"x" * 255: file(b"2", mtime_ns=10**18 + 1)})}),
            b"many": folder({b"%0200d" % number: twice for number in range(40)}),
            b"noted": Directory(meta=Meta(mode=0o755, xattrs=notes)),
            b"noted-too": File.of(b"3", Meta(mode=0o644, xattrs=(*notes, (b"user.large", b"w" * 5000)))),
            b"sparse": sparse(1 << room, {at << room - 5: b"%d" % at for at in range(12)}),
            b"device": Device(meta=Meta(mode=0o600), block=True, major=8, minor=300),
            b"pipe": Fifo(meta=Meta(mode=0o600)),
            b"socket": Socket(meta=Meta(mode=0o600)),
            b"twice": twice,
        }
    )


def walked(reader):
    return lambda path: describe(reader(path))


@pytest.mark.parametrize("rounds", [700, pytest.param(20_000, marks=[LONG, pytest.mark.timeout(1800)])])
def test_ext4_images_that_a_guest_mangled(tmp_path, rounds):
    ext4.write(sample(), tmp_path / "image", journal=False, growth=False)
    data = (tmp_path / "image").read_bytes()
    refused = survive(tmp_path / "image", data, walked(ext4.read), rounds=rounds, seed=SEED)
    assert rounds // 10 < refused < rounds


@pytest.mark.parametrize("rounds", [700, pytest.param(20_000, marks=[LONG, pytest.mark.timeout(1800)])])
def test_mangled_erofs_images(tmp_path, rounds):
    erofs.write(sample(), tmp_path / "image")
    data = (tmp_path / "image").read_bytes()
    refused = survive(tmp_path / "image", data, walked(erofs.read), rounds=rounds, seed=SEED)
    assert rounds // 10 < refused < rounds


@pytest.mark.parametrize("rounds", [700, pytest.param(20_000, marks=[LONG, pytest.mark.timeout(1800)])])
def test_mangled_cpio_archives(tmp_path, rounds):
    cpio.write(sample(room=14), tmp_path / "image")
    data = (tmp_path / "image").read_bytes()
    refused = survive(tmp_path / "image", data, walked(cpio.read), rounds=rounds, seed=SEED)
    assert rounds // 10 < refused < rounds


@pytest.mark.parametrize("rounds", [700, pytest.param(20_000, marks=[LONG, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("whiteouts", [False, True])
def test_mangled_tar_archives(tmp_path, rounds, whiteouts):
    with (tmp_path / "image").open("wb") as out:
        tar.write(sample(room=14), out.fileno())
    data = (tmp_path / "image").read_bytes()

    def read(path):
        path.write_bytes(with_checksums(path.read_bytes()))
        describe(tar.read(path, whiteouts=whiteouts))

    assert rounds // 10 < survive(tmp_path / "image", data, read, rounds=rounds, seed=SEED) < rounds


def with_checksums(data):
    """The archive with the headers' checksums put right, so that readers look further."""
    archive = bytearray(data)
    for at in range(0, len(archive) - 511, 512):
        header = archive[at : at + 512]
        if header[257:262] == b"ustar":
            header[148:156] = b" " * 8
            archive[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    return bytes(archive)


@pytest.mark.parametrize("rounds", [200, pytest.param(3_000, marks=[LONG, pytest.mark.timeout(1800)])])
def test_ext4_journals_that_a_guest_mangled(tmp_path, rounds):
    ext4.write(sample(), tmp_path / "image", growth=False)
    sound = (tmp_path / "image").read_bytes()
    of_directories = [at // 4096 for at in range(0, len(sound), 4096) if b"\1\2.\0" in sound[at : at + 12]]
    data = crashed(sound, {number: sound[number * 4096 :][:4096] for number in of_directories})
    assert len(of_directories) > 3
    refused = survive(tmp_path / "image", data, walked(ext4.read), rounds=rounds, seed=SEED)
    assert rounds // 10 < refused < rounds
