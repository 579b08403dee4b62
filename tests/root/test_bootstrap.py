"""Base systems made of Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from firekiln.build import recipes
from firekiln.build.bootstrap import bootstrap
from firekiln.build.mmdebstrap import host_archive
from firekiln.build.recipes import read
from firekiln.build.sbom import scan
from firekiln.errors import BuildError, MissingProgramError
from firekiln.oci.platform import Platform
from firekiln.rootfs import erofs, lookup
from firekiln.rootfs.tree import walk
from firekiln.sandbox import NamespaceRunner
from firekiln.sandbox.step import Step

pytestmark = [pytest.mark.root, pytest.mark.network]


@pytest.fixture(autouse=True)
def _able():
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("needs root and mmdebstrap")


@pytest.mark.timeout(600)
def test_a_slim_base_is_small_clean_and_runs_apt(tmp_path):
    lines = []
    layer = tmp_path / "layer"
    with bootstrap("debian:bookworm-slim", Platform.host(), tmp_path, lines.append) as (tree, image):
        erofs.write(tree, layer)
        paths = {path for path, _ in walk(tree)}
        listed = scan(tree)
    assert (listed.system.identifier, listed.system.version, listed.unread) == ("debian", "12", ())
    assert image.config.cmd == ("bash",)
    assert any("bookworm" in line for line in lines)
    assert not any(path.startswith((b"dev/", b"usr/share/man/", b"var/lib/apt/lists/")) for path in paths)
    assert layer.stat().st_size < 100 << 20
    assert [path.name for path in tmp_path.iterdir()] == ["layer"]
    fsck = subprocess.run(["fsck.erofs", str(layer)], capture_output=True, text=True, check=False)
    assert fsck.returncode == 0, fsck.stdout + fsck.stderr
    listing = "dpkg-query -W -f '=${Package} ${Version}\\n'"
    install = "apt-get update -qq && apt-get install -y -qq --no-install-recommends netbase >/dev/null"
    line = f"{listing} && {install} && ls /etc/services"
    step = Step(layers=(layer,), args=("/bin/sh", "-c", line), env=(), cwd="/")
    written = []
    with (
        NamespaceRunner(tmp_path) as runner,
        runner.run(step, output=lambda _, data: written.append(data), cancel=threading.Event()) as outcome,
    ):
        said = b"".join(written).decode()
        assert outcome.status == 0, said
        installed = [row[1:] for row in said.splitlines() if row.startswith("=")]
        assert sorted(f"{package.name} {package.version}" for package in listed.packages) == sorted(installed)
        changed = {path for path, _ in walk(outcome.diff)}
    assert b"etc/services" in changed
    assert b"etc/hosts" not in changed
    assert not any(path.endswith(b".deb") for path in changed), "docker-clean is at work"


def test_a_mirror_that_is_none_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("FIREKILN_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
    refused = pytest.raises(BuildError, match=r"cannot fetch http://127.0.0.1:9/debian/dists/bookworm/InRelease")
    with refused as caught, bootstrap("debian:bookworm", Platform.host(), tmp_path):
        pass
    assert "FIREKILN_DEBIAN_MIRROR" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def write_recipe(text, tmp_path, monkeypatch):
    """A user's own recipe."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config/firekiln/recipes"
    folder.mkdir(parents=True)
    (folder / "own.toml").write_text(text)


def test_a_missing_keyring_is_named_with_its_package(tmp_path, monkeypatch):
    recipe = read((Path(recipes.__file__).parent / "debian.toml").read_text(), file="debian.toml")
    method = replace(recipe.method, keyrings=(str(tmp_path / "none"),))
    with pytest.raises(MissingProgramError, match="keyring") as caught:
        host_archive(recipe, method, "amd64")
    assert caught.value.hint == "apt-get install debian-archive-keyring"


OWN = """
repository = "kilnbuntu"
system = "Kilnbuntu"
method = "mmdebstrap"
[tags]
"1.04" = "bookworm"
[mmdebstrap]
origin = "Debian"
mirror = "http://deb.debian.org/debian"
keyrings = ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"]
suites = ["{release}"]
security-suites = []
variant = "apt"
include = ["netbase"]
merged-usr = ["bookworm"]
[init]
sysvinit = ["sysvinit-core"]
[image]
env = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("init", ["", "-sysvinit"])
def test_a_user_s_recipe_sets_up_packages_of_its_own_choice(tmp_path, monkeypatch, init):
    write_recipe(OWN, tmp_path, monkeypatch)
    with bootstrap(f"kilnbuntu:1.04{init}", Platform.host(), tmp_path) as (tree, image):
        names = {package.name for package in scan(tree).packages}
        sources = lookup.get(tree, b"etc/apt/sources.list.d/kilnbuntu.sources").read().decode()
    assert {"apt", "bash", "netbase"} <= names
    assert ("sysvinit-core" in names) == bool(init)
    assert "tzdata" not in names  # minbase has it, the variant `apt` does not
    assert sources.splitlines()[1:3] == ["URIs: http://deb.debian.org/debian", "Suites: bookworm"]
    assert image.config.env == ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8")
    assert image.config.cmd == (("/sbin/init",) if init else ("bash",))
