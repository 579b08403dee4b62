import json
from pathlib import Path

import pytest

from firekiln.build.recipes import (
    INITS,
    Archive,
    debian_architecture,
    find,
    finish,
    image,
    mmdebstrap_argv,
    recipes,
    sources,
)
from firekiln.oci.platform import Platform
from firekiln.rootfs.tree import Device, Meta, walk
from trees import file, folder, link

AMD64 = Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("reference", "suite", "slim"),
    [
        ("debian", "trixie", False),
        ("debian:bookworm", "bookworm", False),
        ("docker.io/library/debian:12-slim", "bookworm", True),
        ("debian:stable-slim", "trixie", True),
        ("debian:oldstable", "bookworm", False),
        ("debian:bullseye-slim", "bullseye", True),
    ],
)
def test_references_find_their_recipe(reference, suite, slim):
    recipe = find(reference)
    assert recipe is not None
    assert (recipe.suite, recipe.slim) == (suite, slim)


@pytest.mark.parametrize(
    "reference", ["alpine", "debian:nosuch", "example.com/debian:12", "debian:latest-slim", "debian@sha256:" + "0" * 64]
)
def test_other_references_have_none(reference):
    assert find(reference) is None


def test_every_recipe_is_found_by_its_own_reference():
    assert all(find(recipe.reference) == recipe for recipe in recipes())


def test_architectures_bear_debian_s_names():
    assert debian_architecture(AMD64) == "amd64"
    assert debian_architecture(Platform("linux", "arm", "v7")) == "armhf"
    assert debian_architecture(Platform("windows", "amd64")) is None


def test_sources_hold_updates_and_security_fixes_and_the_keyring():
    text = sources(find("debian:12"), Archive(mirror="http://m/debian", security="http://s/x"), keyring="/k.gpg")
    assert "URIs: http://m/debian\nSuites: bookworm bookworm-updates\n" in text
    assert "URIs: http://s/x\nSuites: bookworm-security\n" in text
    assert text.count("Signed-By: /k.gpg") == 2


def test_only_a_slim_base_leaves_documents_out():
    full, slim = (
        mmdebstrap_argv(find(name), "amd64", Path("/t.tar"), apt_options=['A::B "1"'])
        for name in ("debian:12", "debian:12-slim")
    )
    assert not any("path-exclude" in word for word in full)
    assert "--dpkgopt=path-exclude=/usr/share/man/*" in slim
    assert '--aptopt=A::B "1"' in slim
    assert slim[-3:] == ["bookworm", "/t.tar", "-"]


def unpacked():
    """What mmdebstrap leaves, in small."""
    return folder(
        {
            b"dev": folder({b"null": Device(meta=Meta(mode=0o666), block=False, major=1, minor=3)}),
            b"sbin": link(b"usr/sbin"),
            b"usr": folder({b"sbin": folder()}),
            b"etc": folder(
                {
                    b"hostname": file(b"host"),
                    b"resolv.conf": file(b"nameserver"),
                    b"apt": folder(
                        {
                            b"apt.conf.d": folder({b"99mmdebstrap": file(b"x"), b"70debconf": file(b"y")}),
                            b"sources.list.d": folder({b"0000main.sources": file(b"x")}),
                        }
                    ),
                    b"dpkg": folder({b"dpkg.cfg.d": folder({b"99mmdebstrap": file(b"x")})}),
                }
            ),
            b"var": folder({b"log": folder({b"dpkg.log": file(b"x"), b"apt": folder({b"term.log": file(b"x")})})}),
        }
    )


def test_a_finished_tree_holds_nothing_of_the_host_and_apt_s_settings_for_images():
    tree = unpacked()
    finish(tree, find("debian:12-slim"), epoch=5)
    names = {path for path, _ in walk(tree)}
    for path in (b"dev/null", b"etc/hostname", b"etc/resolv.conf", b"var/log/dpkg.log", b"var/log/apt/term.log"):
        assert path not in names
    assert {b"dev", b"var/log/apt", b"etc/apt/apt.conf.d/70debconf", b"usr/sbin/policy-rc.d"} <= names
    assert not any(b"mmdebstrap" in name or b"0000main" in name for name in names)
    nodes = dict(walk(tree))
    assert b"http://deb.debian.org/debian\n" in nodes[b"etc/apt/sources.list.d/debian.sources"].read()
    assert b"path-exclude=/usr/share/man/*\n" in nodes[b"etc/dpkg/dpkg.cfg.d/docker"].read()
    assert nodes[b"etc/apt/apt.conf.d/docker-clean"].meta == Meta(mode=0o644, mtime_ns=5 * 10**9)
    assert nodes[b"usr/sbin/policy-rc.d"].meta.mode == 0o755


def test_an_old_suite_has_its_sources_in_one_file():
    tree = unpacked()
    finish(tree, find("debian:11"), epoch=5)
    nodes = dict(walk(tree))
    assert nodes[b"etc/apt/sources.list"].read().count(b"deb http") == 3
    assert b"etc/dpkg/dpkg.cfg.d/docker" not in nodes


def test_the_config_is_that_of_docker_s_image():
    config = json.loads(image(find("debian:12"), AMD64, epoch=1700000000).encode())
    assert config["config"]["Cmd"] == ["bash"]
    assert config["config"]["Env"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    assert config["created"] == "2023-11-14T22:13:20Z"
    assert (config["os"], config["architecture"]) == ("linux", "amd64")


@pytest.mark.parametrize("init", [*INITS])
def test_a_base_may_have_an_init(init):
    recipe = find(f"debian:bookworm-slim-{init}")
    assert (recipe.tag, recipe.suite, recipe.slim, recipe.init) == (f"bookworm-slim-{init}", "bookworm", True, init)
    argv = mmdebstrap_argv(recipe, "amd64", Path("/target"), apt_options=())
    assert f"--include={','.join(INITS[init])}" in argv
    assert image(recipe, AMD64, epoch=0).config.cmd == ("/sbin/init",)


def test_a_name_that_only_ends_like_an_init_s_has_no_recipe():
    assert find("debian:systemd") is None
    assert find("debian:bookworm-upstart") is None
    assert find("debian:nonsense-systemd") is None
