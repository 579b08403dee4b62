"""Base systems of archives, as Alpine offers them: from a server of our own, which answers as Alpine's does."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import pytest

import firekiln
import isolation
from building import BUSYBOX, PROGRAMS
from firekiln.api import create_base
from firekiln.errors import BuildError, ImageNotFoundError, MissingProgramError
from firekiln.oci.platform import Platform
from firekiln.store import Store
from httpserver import serve_folder
from machines import argv

pytestmark = [
    pytest.mark.root,
    pytest.mark.rootless,
    isolation.needed,
    pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static"),
]

ARCHITECTURE = {"amd64": "x86_64", "arm64": "aarch64"}.get(Platform.host().architecture, "")
ARCHIVE = f"alpine-minirootfs-3.22.1-{ARCHITECTURE}.tar.gz"
MADE = 1752576930
"""2025-07-15T10:55:30Z."""
APK = """\
#!/bin/sh
# Answers as apk does: `apk add --no-cache NAME...`
[ "$1 $2" = "add --no-cache" ] || exit 99
shift 2
for name; do
  [ "$name" = openrc ] || { echo "ERROR: unable to select packages: $name (no such package)" >&2; exit 1; }
  printf '\\nP:%s\\nV:0.62-r0\\n' "$name" >> /lib/apk/db/installed
  cp /bin/busybox /sbin/openrc && ln -sf /bin/busybox /sbin/init && echo "OK: $name"
done
"""


@cache
def minirootfs() -> bytes:
    """An archive with Alpine's layout, on busybox."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as archive:

        def add(name: str, data: bytes | None = None, mode: int = 0o755, target: str = "") -> None:
            entry = tarfile.TarInfo(f"./{name}")
            entry.mode, entry.mtime = mode, MADE
            entry.type = tarfile.SYMTYPE if target else tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            entry.linkname, entry.size = target, len(data or b"")
            archive.addfile(entry, io.BytesIO(data or b""))

        for name in "bin dev etc lib lib/apk lib/apk/db proc root sbin sys tmp usr var".split():
            add(name)
        add("bin/busybox", Path(BUSYBOX).read_bytes())
        for program in [*PROGRAMS, "printf", "ln"]:
            add(f"bin/{program}", target="/bin/busybox")
        add("sbin/apk", APK.encode())
        add("etc/os-release", b'ID=alpine\nVERSION_ID=3.22.1\nPRETTY_NAME="Alpine Linux v3.22"\n', 0o644)
        add("lib/apk/db/installed", b"P:busybox\nV:1.37.0-r18\n", 0o644)
    return made.getvalue()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """The folder that a server offers in place of Alpine's."""
    folder = tmp_path / f"mirror/v3.22/releases/{ARCHITECTURE}"
    folder.mkdir(parents=True)
    data = minirootfs()
    (folder / ARCHIVE).write_bytes(data)
    os.utime(folder / ARCHIVE, (MADE, MADE))
    digest = hashlib.sha256(data).hexdigest()
    lines = ["---", "-", "  flavor: alpine-minirootfs", f"  file: {ARCHIVE}", f"  sha256: {digest}", ""]
    (folder / "latest-releases.yaml").write_text("\n".join(lines))
    (tmp_path / "mirror/latest-stable").symlink_to("v3.22")
    with serve_folder(tmp_path / "mirror") as url:
        monkeypatch.setenv("FIREKILN_ALPINE_MIRROR", url)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        (tmp_path / "config/firekiln/recipes").mkdir(parents=True)
        # Docker Hub would be asked first, and is no business of these tests.
        (tmp_path / "config/firekiln/config.toml").write_text('[registry."docker.io"]\nblocked = true\n')
        yield folder


def write_recipe(tmp_path, text):
    (tmp_path / "config/firekiln/recipes/own.toml").write_text(text)


def own_recipe(tmp_path, *lines: str) -> None:
    url = os.environ["FIREKILN_ALPINE_MIRROR"]
    words = ['repository = "own"', 'method = "archive"', "[tags]", 'latest = "v3.22"', "[archive]"]
    address = f'url = "{url}/{{release}}/releases/{ARCHITECTURE}/{ARCHIVE}"'
    write_recipe(tmp_path, "\n".join([*words, address, *lines]))


def test_a_dockerfile_from_alpine_is_built_on_alpine_s_own_archive(mirror, tmp_path):
    text = b"FROM alpine:3.22\nRUN echo hi > /hi && id -u\n"
    image = firekiln.build(None, dockerfile=text, tags=["web"], store=tmp_path / "store").image
    assert image.image.config.env == ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    with Store.open(tmp_path / "store") as store:
        base = store.images.get("alpine:3.22")
        listed = subprocess.run(argv(store, "sbom", "alpine:3.22"), capture_output=True, check=True, text=True).stdout
        said = json.loads(store.blobs.read(image.attestations["provenance"]))
    assert base.image.config.cmd == ("/bin/sh",)
    assert base.image.created == "2025-07-15T10:55:30Z"
    assert ["busybox", "1.37.0-r18", "apk"] in [row.split() for row in listed.splitlines()]
    (dependency,) = said["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert dependency["digest"] == {"sha256": base.digest.removeprefix("sha256:")}


def test_base_create_makes_it_anew_and_the_same_archive_is_the_same_image(mirror, tmp_path):
    first, again = (create_base("alpine", store=tmp_path / "store") for _ in range(2))
    assert first.digest == again.digest
    assert first.references == ("docker.io/library/alpine:latest",)


def test_an_init_is_put_in_with_the_distribution_s_own_installer(mirror, tmp_path):
    with Store.open(tmp_path / "store") as store:
        command = argv(store, "base", "create", "-q", "--with-init", "openrc", "alpine:3.22")
        subprocess.run(command, check=True, capture_output=True)
        image = store.images.get("alpine:3.22-openrc")
        assert image.image.config.cmd == ("/sbin/init",)
        assert {b"openrc", b"init", b"apk"} <= store.layers.merged(image.layers).children[b"sbin"].children.keys()
        listed = subprocess.run(argv(store, "sbom", "alpine:3.22-openrc"), capture_output=True, check=True, text=True)
    assert ["openrc", "0.62-r0", "apk"] in [row.split() for row in listed.stdout.splitlines()]
    built = firekiln.build(None, dockerfile=b"FROM alpine:3.22-openrc\n", store=tmp_path / "store")
    assert built.digest == image.digest


def test_an_archive_with_other_bytes_than_the_list_says_is_no_base(mirror, tmp_path):
    (mirror / ARCHIVE).write_bytes(minirootfs() + b"more")
    with pytest.raises(BuildError, match=f"{ARCHIVE}: digest mismatch"):
        create_base("alpine:3.22", store=tmp_path / "store")
    assert not any((tmp_path / "store/tmp").rglob("bootstrap-*"))


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("alpine:3.99", "v3.99/releases/[a-z0-9_]+/latest-releases.yaml: invalid response status 404"),
        ("alpine:3.22-runit", "alpine:3.22-runit: no recipe makes this base image"),
    ],
)
def test_a_release_that_is_not_there_is_one_clear_error(mirror, tmp_path, reference, said):
    with pytest.raises((BuildError, ImageNotFoundError), match=said):
        create_base(reference, store=tmp_path / "store")


def test_a_list_of_releases_without_the_archive_is_one_clear_error(mirror, tmp_path):
    (mirror / "latest-releases.yaml").write_text("<html>")
    with pytest.raises(BuildError, match="no alpine-minirootfs is in this list of releases"):
        create_base("alpine:3.22", store=tmp_path / "store")


def test_an_own_recipe_names_an_archive_and_its_digest(mirror, tmp_path):
    digest = hashlib.sha256((mirror / ARCHIVE).read_bytes()).hexdigest()
    own_recipe(tmp_path, f'sha256 = "{digest}"', "[image]", 'cmd = ["/bin/echo", "own"]')
    assert create_base("own", store=tmp_path / "store").image.config.cmd == ("/bin/echo", "own")


def test_a_file_that_is_no_archive_is_no_base(mirror, tmp_path):
    (mirror / ARCHIVE).write_bytes(b"hello")
    own_recipe(tmp_path, f'sha256 = "{hashlib.sha256(b"hello").hexdigest()}"')
    with pytest.raises(BuildError, match=f"{ARCHIVE}: this is no archive"):
        create_base("own", store=tmp_path / "store")


def test_an_own_recipe_with_another_digest_makes_nothing(mirror, tmp_path):
    own_recipe(tmp_path, f'sha256 = "{"0" * 64}"')
    with pytest.raises(BuildError, match="digest mismatch"):
        create_base("own", store=tmp_path / "store")


@pytest.fixture
def signed(mirror, tmp_path):
    """A keyring whose key signed the archive."""
    if shutil.which("gpg") is None or shutil.which("gpgv") is None:
        pytest.skip("needs gnupg")
    home = tempfile.mkdtemp(prefix="gpg-")  # the name of the agent's socket may be no longer than 107 bytes
    gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]
    try:
        subprocess.run([*gpg, "--quick-gen-key", "Kiln <kiln@example.org>", "ed25519", "sign"], check=True)
        subprocess.run([*gpg, "--armor", "--detach-sign", mirror / ARCHIVE], check=True)
        subprocess.run([*gpg, "--output", tmp_path / "keyring.gpg", "--export"], check=True)
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
        shutil.rmtree(home, ignore_errors=True)  # the agent may be about to remove its socket
    return tmp_path / "keyring.gpg"


def test_a_signature_is_held_to_the_recipe_s_keyring(signed, mirror, tmp_path):
    own_recipe(tmp_path, f'keyring = "{signed}"')
    assert create_base("own", store=tmp_path / "store").size > 0
    (mirror / ARCHIVE).write_bytes(minirootfs() + b"more")
    with pytest.raises(BuildError, match=f"{ARCHIVE}: the signature is not good: .*BAD signature"):
        create_base("own", store=tmp_path / "store")
    signed.unlink()
    with pytest.raises(MissingProgramError, match="the recipe's keyring is not at"):
        create_base("own", store=tmp_path / "store")


def test_what_the_installer_refuses_is_said(mirror, tmp_path):
    digest = hashlib.sha256((mirror / ARCHIVE).read_bytes()).hexdigest()
    own_recipe(
        tmp_path, f'sha256 = "{digest}"', 'install = ["apk", "add", "--no-cache"]', "[init]", 'runit = ["runit"]'
    )
    with pytest.raises(BuildError, match="own:latest-runit: apk add --no-cache runit ended with 1"):
        create_base("own:latest-runit", store=tmp_path / "store")
