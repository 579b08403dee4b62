"""Archives that mean harm end as docs/reference/archives.md says, and the host stays as it was."""

import bz2
import gzip
import io
import lzma
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from archives import CASES, archive, holds
from firekiln.errors import RootfsError
from firekiln.rootfs import directory, erofs, tar
from firekiln.rootfs.compare import describe
from firekiln.rootfs.compression import decompress
from firekiln.rootfs.tree import Directory, File, Symlink, walk
from mutation import bounded

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TABLE = Path(__file__).parents[3] / "docs/reference/archives.md"
MIB = 1 << 20


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A folder with a canary, which must be the same afterwards; the process stands two levels below it."""
    folder = tmp_path / "host"
    work = folder / "work" / "here"
    work.mkdir(parents=True)
    (folder / "canary").write_bytes(b"alive")
    os.utime(folder / "canary", ns=(1, 1))
    monkeypatch.chdir(work)
    before = describe(directory.read(folder))
    yield folder
    assert describe(directory.read(folder)) == before


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_archive_ends_as_the_table_says(host, tmp_path, name):
    case = CASES[name]
    case.make(tmp_path / "a.tar", host)
    with bounded(memory=256 * MIB, seconds=5):
        if case.refused:
            with pytest.raises(RootfsError, match=re.escape(case.refused)):
                tar.read(tmp_path / "a.tar", whiteouts=case.layer)
            return
        tree = tar.read(tmp_path / "a.tar", whiteouts=case.layer)
        holds(tree, case.holds)
        if case.stored:
            erofs.write(tree, tmp_path / "layer")
            holds(erofs.read(tmp_path / "layer"), case.holds)
        else:
            with pytest.raises(RootfsError, match="more than EROFS can hold"):
                erofs.write(tree, tmp_path / "layer")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.gnu])
def test_what_is_read_is_what_gnu_tar_unpacks(host, tmp_path, name):
    case = CASES[name]
    case.make(tmp_path / "a.tar", host)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "a.tar", "-C", tmp_path / "out"], check=True, capture_output=True)
    assert content(tar.read(tmp_path / "a.tar")) == content(directory.read(tmp_path / "out"))


def content(tree):
    """Names, what lies there, and the permissions of directories."""
    found = {}
    for path, node in walk(tree):
        match node:
            case File():
                found[path] = node.read()
            case Symlink():
                found[path] = node.target
            case Directory():
                found[path] = node.meta.mode
    return found


def test_the_table_has_a_row_for_each_case_and_says_what_is_refused():
    if not TABLE.exists():
        pytest.skip("the documentation is not here")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|.*\| ([^|]+) \|$", TABLE.read_text(), re.MULTILINE)
    assert [name for name, _ in rows if name not in BOMBS] == list(CASES)
    assert {name for name, outcome in rows if outcome.startswith("refused")} == {
        *BOMBS,
        *(name for name, case in CASES.items() if case.refused),
    }


COMPRESSORS = {"gzip": gzip.compress, "xz": lzma.compress, "bzip2": bz2.compress, "zstd": zstd.compress}


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_a_bomb_stops_at_the_size_that_is_allowed(tmp_path, kind):
    bomb = io.BytesIO(COMPRESSORS[kind](bytes(24 * MIB)))
    with bounded(memory=512 * MIB), pytest.raises(RootfsError, match="more than 2000000 bytes when decompressed"):
        tar.read(bomb, spool=tmp_path / "spool", limits=tar.Limits(size=2_000_000))
    assert (tmp_path / "spool").stat().st_size < 8 * MIB


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_a_bomb_stops_where_it_is_many_times_its_size(tmp_path, kind):
    bomb = io.BytesIO(COMPRESSORS[kind](bytes(24 * MIB)))
    with (
        bounded(memory=512 * MIB),
        pytest.raises(RootfsError, match=r"out of \d+ compressed ones: a decompression bomb"),
    ):
        decompress(bomb, tmp_path / "spool", limit=1 << 40, unsuspected=4 * MIB)
    assert (tmp_path / "spool").stat().st_size <= 16 * MIB


def test_what_is_well_compressed_but_not_suspiciously_is_no_bomb(tmp_path):
    data = gzip.compress(os.urandom(MIB) + bytes(50 * MIB))
    assert decompress(io.BytesIO(data), tmp_path / "spool", limit=1 << 40, unsuspected=MIB).size == 51 * MIB


def test_members_are_counted(tmp_path):
    archive(tmp_path / "a.tar", *(str(number) for number in range(60)))
    with pytest.raises(RootfsError, match="more than 50 members"):
        tar.read(tmp_path / "a.tar", limits=tar.Limits(members=50))


BOMBS = {
    "bomb-by-size": test_a_bomb_stops_at_the_size_that_is_allowed,
    "bomb-by-ratio": test_a_bomb_stops_where_it_is_many_times_its_size,
    "too-many-members": test_members_are_counted,
}
