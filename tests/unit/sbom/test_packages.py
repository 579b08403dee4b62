"""Package databases: real ones of this host's programs, and ones that lie."""

from __future__ import annotations

import importlib.metadata
import shutil
import sqlite3
import struct
import subprocess
import sysconfig
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firekiln.build.sbom import Package, System, alpine, debian, python, rpm, scan
from firekiln.build.sbom.package import UnreadError
from firekiln.build.sbom.purl import purl
from firekiln.rootfs import directory
from firekiln.rootfs.tree import Directory
from trees import file, folder, link

SPEC = """\
Name: kiln-demo
Epoch: 2
Version: 1.4
Release: 3
Summary: A demonstration
License: GPL-2.0-or-later AND MIT
URL: https://example.org/kiln
Vendor: Example
BuildArch: noarch
%description
It is one.
%files
"""
STATUS = """\
Package: bash
Status: install ok installed
Architecture: amd64
Source: bash-source (5.2-1)
Version: 5.2-1+b7
Maintainer: Some Body <body@example.org>
Description: GNU shell
 More of it: this is no field.
Homepage: https://example.org/bash

Package: gone
Status: deinstall ok config-files
Version: 1

Package: half
Status: install ok half-configured
Version: 2
Architecture: all
"""
INSTALLED = """\
C:Q1abcdefghijklmnopqrstuvwxyz0=
P:musl
V:1.2.5-r0
A:x86_64
L:MIT
o:musl-origin
m:Some Body <body@example.org>
U:https://musl.example.org/
T:the musl c library
F:lib
R:ld-musl-x86_64.so.1
a:0:0:755

P:busybox
V:1.36.1-r2
A:x86_64
L:GPL-2.0-only
o:busybox
"""
RELEASE = b'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'


def at(path: str, node) -> Directory:
    """A Tree with one node at `path`."""
    for name in reversed(path.encode().split(b"/")):
        node = folder({name: node})
    return node


def named(packages) -> list[tuple[str, str]]:
    return [(package.name, package.version) for package in packages]


def test_dpkg_s_list_of_this_host_is_ours():
    if shutil.which("dpkg-query") is None:
        pytest.skip("this host has no dpkg")
    form = "${Package}\t${Version}\t${Architecture}\t${db:Status-Status}\n"
    rows = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, check=True, text=True).stdout
    expected = {
        tuple(row.split("\t")[:3]) for row in rows.splitlines() if not row.endswith(("config-files", "not-installed"))
    }
    found = scan(at("var/lib/dpkg", directory.read(Path("/var/lib/dpkg")))).packages
    assert {(package.name, package.version, package.architecture) for package in found} == expected
    assert len(found) == len(expected) > 50


def test_python_s_list_of_this_environment_is_ours():
    where = sysconfig.get_path("purelib")
    expected = {(item.name, item.version) for item in importlib.metadata.distributions(path=[where])}
    assert set(named(scan(directory.read(Path(where))).packages)) == expected
    assert ("pytest", pytest.__version__) in expected


@pytest.fixture(scope="module")
def rpmdb(tmp_path_factory) -> Path:
    """The folder of a database that rpm itself made, with one package installed."""
    if shutil.which("rpmbuild") is None:
        pytest.skip("needs rpm")
    made = tmp_path_factory.mktemp("rpm")
    (made / "demo.spec").write_text(SPEC)
    top = ["--define", f"_topdir {made}/top"]
    subprocess.run(["rpmbuild", "-bb", *top, made / "demo.spec"], check=True, capture_output=True)
    (package,) = (made / "top/RPMS/noarch").iterdir()
    base = ["rpm", "--dbpath", made / "db", "--define", "_db_backend sqlite"]
    subprocess.run([*base, "--initdb"], check=True, capture_output=True)
    subprocess.run([*base, "-i", "--justdb", "--nodeps", package], check=True, capture_output=True)
    return made / "db"


def test_a_database_that_rpm_made_is_read(rpmdb):
    inventory = scan(folder({b"var": at("lib/rpm", directory.read(rpmdb)), b"etc": at("os-release", file(RELEASE))}))
    assert inventory.unread == ()
    assert inventory.packages == (
        Package(
            kind="rpm",
            name="kiln-demo",
            version="1.4-3",
            where="/var/lib/rpm/rpmdb.sqlite",
            architecture="noarch",
            epoch="2",
            source="kiln-demo-1.4-3.src.rpm",
            licence="GPL-2.0-or-later AND MIT",
            supplier="Example",
            homepage="https://example.org/kiln",
            summary="A demonstration",
        ),
    )


def test_a_damaged_database_of_rpm_s_is_said_to_be_unread(rpmdb):
    whole = (rpmdb / "rpmdb.sqlite").read_bytes()
    for data in (whole[:5000], b"nonsense" * 100, b"", whole[:4096] + bytes(len(whole) - 4096)):
        inventory = scan(at("usr/lib/sysimage/rpm/rpmdb.sqlite", file(data)))
        assert inventory.packages == ()
        assert [line.partition(":")[0] for line in inventory.unread] == ["/usr/lib/sysimage/rpm/rpmdb.sqlite"]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_flipped_byte_of_rpm_s_database_is_more_than_a_note(rpmdb, data):
    whole = bytearray((rpmdb / "rpmdb.sqlite").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    inventory = scan(at("var/lib/rpm/rpmdb.sqlite", file(bytes(whole))))
    assert len(inventory.packages) <= 1
    assert all(line.startswith("/var/lib/rpm/rpmdb.sqlite: ") for line in inventory.unread)


def database(tmp_path, *statements: tuple[str, tuple[object, ...]]) -> bytes:
    path = tmp_path / "made.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        for statement, values in statements:
            connection.execute(statement, values)
        connection.commit()
    return path.read_bytes()


TABLE = ("CREATE TABLE Packages(hnum INTEGER PRIMARY KEY, blob BLOB)", ())


def test_a_view_in_place_of_rpm_s_table_is_not_asked(tmp_path):
    endless = "WITH RECURSIVE n(hnum) AS (SELECT 1 UNION ALL SELECT hnum + 1 FROM n) SELECT hnum, x'00' AS blob FROM n"
    with pytest.raises(UnreadError, match="no table of packages"):
        list(rpm.packages(database(tmp_path, (f"CREATE VIEW Packages AS {endless}", ())), where="/x"))


@pytest.mark.parametrize(
    "header",
    [
        struct.pack(">II", 0xFFFF, 0),
        struct.pack(">II", 0xFFFFFFFF, 0xFFFFFFFF),
        struct.pack(">IIIIII", 1, 1, 1000, 6, 0xFFFFFFF0, 1) + b"x",
        struct.pack(">IIIIII", 1, 1, 1000, 6, 0, 1) + b"x",
        struct.pack(">IIIIII", 1, 2, 1003, 4, 0, 1) + b"xx",
        b"\0",
    ],
    ids=["too short", "too much", "an offset outside", "no end", "a short number", "one byte"],
)
def test_a_forged_header_of_rpm_s_is_a_damaged_database(tmp_path, header):
    data = database(tmp_path, TABLE, ("INSERT INTO Packages VALUES (1, ?)", (header,)))
    with pytest.raises(UnreadError, match="damaged"):
        list(rpm.packages(data, where="/x"))


def test_the_keys_in_rpm_s_table_are_no_packages(tmp_path):
    names = b"gpg-pubkey\0" + b"1\0"
    entries = struct.pack(">IIIIIIII", 1000, 6, 0, 1, 1001, 6, 11, 1)
    header = struct.pack(">II", 2, len(names)) + entries + names
    insert = "INSERT INTO Packages VALUES (?, ?)"
    other = header.replace(b"gpg-pubkey", b"not-pubkey")
    data = database(tmp_path, TABLE, (insert, (1, header)), (insert, (2, other)))
    assert named(rpm.packages(data, where="/x")) == [("not-pubkey", "1")]


@pytest.mark.parametrize(("name", "form"), [("Packages", "Berkeley DB"), ("Packages.db", "ndb")])
def test_rpm_s_older_databases_are_said_to_be_unread(name, form):
    inventory = scan(at(f"var/lib/rpm/{name}", file(b"data")))
    assert inventory.packages == ()
    assert inventory.unread == (f"/var/lib/rpm/{name}: rpm's database in {form}'s form is not read",)


def test_dpkg_s_states_and_sources_are_understood():
    found = list(debian.packages(STATUS, where="/s"))
    assert named(found) == [("bash", "5.2-1+b7"), ("half", "2")]
    assert found[0] == Package(
        kind="deb",
        name="bash",
        version="5.2-1+b7",
        where="/s",
        architecture="amd64",
        source="bash-source@5.2-1",
        supplier="Some Body <body@example.org>",
        homepage="https://example.org/bash",
        summary="GNU shell",
    )


def test_distroless_packages_have_a_file_each():
    control = b"Package: tzdata\nVersion: 2026a-0\nArchitecture: all\n"
    sums = file(b"0123  usr/share/zoneinfo/UTC\n")
    folded = folder({b"tzdata": file(control), b"tzdata.md5sums": sums})
    (package,) = scan(at("var/lib/dpkg/status.d", folded)).packages
    assert (package.name, package.version, package.where) == ("tzdata", "2026a-0", "/var/lib/dpkg/status.d/tzdata")


def test_apk_s_records_are_read_and_their_lines_about_files_are_not():
    musl, busybox = alpine.packages(INSTALLED, where="/a")
    assert (musl.name, musl.version, musl.architecture, musl.licence) == ("musl", "1.2.5-r0", "x86_64", "MIT")
    assert (musl.source, busybox.source) == ("musl-origin", "")
    found = scan(at("lib/apk/db/installed", file(INSTALLED.encode())))
    assert named(found.packages) == [("busybox", "1.36.1-r2"), ("musl", "1.2.5-r0")]


def test_a_database_behind_a_link_is_read_once():
    tree = at("usr/lib/apk/db/installed", file(INSTALLED.encode()))
    tree.children[b"lib"] = link(b"usr/lib")
    assert len(scan(tree).packages) == 2


def test_a_loop_of_links_is_no_database():
    assert scan(at("var/lib/dpkg/status", link(b"status"))).packages == ()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("opt/app/lib/Demo-1.dist-info/METADATA", True),
        ("opt/Demo.egg-info/PKG-INFO", True),
        ("opt/Demo.egg-info", True),
        ("opt/Demo.dist-info/PKG-INFO", False),
        ("src/demo/PKG-INFO", False),
    ],
)
def test_python_s_metadata_is_found_wherever_it_lies(path, found):
    text = b"Metadata-Version: 2.1\nName: De.mo\nVersion: 1.0\nLicense: MIT\n\nName: of the description\n"
    packages = scan(at(path, file(text))).packages
    assert named(packages) == ([("De.mo", "1.0")] if found else [])
    assert all(package.licence == "MIT" and package.where == f"/{path}" for package in packages)


def test_a_database_that_is_too_large_is_left_unread(monkeypatch):
    monkeypatch.setattr("firekiln.build.sbom.inventory.LARGEST_TEXT", 10)
    inventory = scan(at("var/lib/dpkg/status", file(STATUS.encode())))
    assert inventory.packages == ()
    assert inventory.unread == (f"/var/lib/dpkg/status: {len(STATUS)} bytes are too many for what it is",)


def test_names_that_hold_anything_stay_on_one_line():
    text = "Package: a\x1b[31m\u2028b\nVersion: 1\x00\n"
    assert named(debian.packages(text, where="/s")) == [("a [31m b", "1")]
    weird = folder({b"x\n\xff": file(b"Package: a\nVersion: 1\n")})
    (package,) = scan(at("var/lib/dpkg/status.d", weird)).packages
    assert package.where == "/var/lib/dpkg/status.d/x"
    package.where.encode()


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_text_is_some_list(text):
    list(debian.packages(text, where="/"))
    list(alpine.packages(text, where="/"))
    python.package(text, where="/")


def test_package_urls_are_those_of_the_specification():
    system = System(identifier="debian", version="12")
    bash, _ = debian.packages(STATUS, where="/s")
    assert purl(bash, system).to_string() == (
        "pkg:deb/debian/bash@5.2-1%2Bb7?arch=amd64&distro=debian-12&upstream=bash-source%405.2-1"
    )
    demo = Package(kind="pypi", name="De_mo", version="1", where="/")
    assert purl(demo, system).to_string() == "pkg:pypi/de-mo@1"
    nameless = Package(kind="rpm", name="a", version="1-2", epoch="3", where="/")
    assert purl(nameless, System()).to_string() == "pkg:rpm/redhat/a@1-2?epoch=3"
