"""Base systems made of Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading

import pytest

from firekiln.build.bootstrap import bootstrap
from firekiln.build.sbom import scan
from firekiln.errors import BuildError, MissingProgramError
from firekiln.oci.platform import Platform
from firekiln.rootfs import erofs
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


def test_a_missing_keyring_is_named_with_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr("firekiln.build.bootstrap._KEYRINGS", (tmp_path / "none",))
    with pytest.raises(MissingProgramError, match="keyring") as caught, bootstrap("debian", Platform.host(), tmp_path):
        pass
    assert caught.value.hint == "apt-get install debian-archive-keyring"
