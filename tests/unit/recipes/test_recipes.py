import json
from pathlib import Path

import pytest

from firekiln.build import recipes
from firekiln.build.aptsystem import Archive, finish, mmdebstrap_argv, public_archive, sources
from firekiln.build.bootstrap import image, unknown
from firekiln.build.recipes import distributions, listed, read
from firekiln.build.rootarchive import newest
from firekiln.errors import UsageError
from firekiln.oci.platform import Platform
from firekiln.rootfs.tree import Device, Meta, walk
from trees import file, folder, link

AMD64 = Platform("linux", "amd64")


def find(reference):
    return recipes.find(reference, distributions())


def argv(reference, target="/t.tar", **options):
    recipe = find(reference)
    return mmdebstrap_argv(recipe, recipe.distribution.method, "amd64", Path(target), apt_options=(), **options)


def finished(reference, architecture="amd64"):
    """The nodes of a finished Tree by path."""
    tree, recipe = unpacked(), find(reference)
    finish(tree, recipe, recipe.distribution.method, architecture, epoch=5)
    return dict(walk(tree))


@pytest.mark.parametrize(
    ("reference", "suite", "slim"),
    [
        ("debian", "trixie", False),
        ("debian:bookworm", "bookworm", False),
        ("docker.io/library/debian:12-slim", "bookworm", True),
        ("debian:stable-slim", "trixie", True),
        ("debian:oldstable", "bookworm", False),
        ("debian:bullseye-slim", "bullseye", True),
        ("ubuntu:24.04", "noble", False),
        ("docker.io/library/ubuntu", "resolute", False),
        ("alpine", "latest-stable", False),
        ("alpine:3", "latest-stable", False),
        ("alpine:3.22", "v3.22", False),
        ("alpine:3.22-openrc", "v3.22", False),
    ],
)
def test_references_find_their_recipe(reference, suite, slim):
    recipe = find(reference)
    assert recipe is not None
    assert (recipe.release, recipe.slim) == (suite, slim)


@pytest.mark.parametrize(
    "reference",
    [
        "fedora",
        "debian:nosuch",
        "example.com/debian:12",
        "debian:latest-slim",
        "debian@sha256:" + "0" * 64,
        "alpine:3.x",
        "alpine:3.22.1",
        "alpine:3.22-systemd",
        "ubuntu:noble-slim",
    ],
)
def test_other_references_have_none(reference):
    assert find(reference) is None


def test_every_recipe_is_found_by_its_own_reference():
    for distribution in distributions():
        for tag, release in listed(distribution):
            recipe = find(f"{distribution.familiar}:{tag.replace('*', '7')}")
            assert recipe.distribution == distribution
            assert recipe.release == release.replace("*", "7")


def test_architectures_bear_the_distribution_s_names():
    debian, alpine = find("debian").distribution, find("alpine").distribution
    assert debian.architecture(AMD64) == "amd64"
    assert debian.architecture(Platform("linux", "arm", "v7")) == "armhf"
    assert debian.architecture(Platform("windows", "amd64")) is None
    assert alpine.architecture(AMD64) == "x86_64"
    assert alpine.architecture(Platform("linux", "mips64le")) is None


def test_sources_hold_updates_and_security_fixes_and_the_keyring():
    recipe = find("debian:12")
    archive = Archive(mirror="http://m/debian", security="http://s/x", keyring="/k.gpg")
    text = sources(recipe, recipe.distribution.method, archive)
    assert "URIs: http://m/debian\nSuites: bookworm bookworm-updates\n" in text
    assert "URIs: http://s/x\nSuites: bookworm-security\n" in text
    assert text.count("Signed-By: /k.gpg") == 2


def test_ubuntu_s_other_architectures_come_from_its_ports():
    method = find("ubuntu").distribution.method
    assert public_archive(method, "amd64").mirror == "http://archive.ubuntu.com/ubuntu"
    assert public_archive(method, "amd64").security == "http://security.ubuntu.com/ubuntu"
    for architecture in ("arm64", "s390x"):
        archive = public_archive(method, architecture)
        assert archive.mirror == archive.security == "http://ports.ubuntu.com/ubuntu-ports"
    written = finished("ubuntu:24.04", "arm64")[b"etc/apt/sources.list.d/ubuntu.sources"].read().decode()
    assert "URIs: http://ports.ubuntu.com/ubuntu-ports\nSuites: noble-security\n" in written
    assert "Components: main restricted universe multiverse\n" in written
    assert "Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n" in written


def test_only_a_slim_base_leaves_documents_out():
    full, slim = argv("debian:12"), argv("debian:12-slim")
    assert not any("path-exclude" in word for word in full)
    assert "--dpkgopt=path-exclude=/usr/share/man/*" in slim
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
    nodes = finished("debian:12-slim")
    for path in (b"dev/null", b"etc/hostname", b"etc/resolv.conf", b"var/log/dpkg.log", b"var/log/apt/term.log"):
        assert path not in nodes
    assert {b"dev", b"var/log/apt", b"etc/apt/apt.conf.d/70debconf", b"usr/sbin/policy-rc.d"} <= nodes.keys()
    assert not any(b"mmdebstrap" in name or b"0000main" in name for name in nodes)
    assert b"http://deb.debian.org/debian\n" in nodes[b"etc/apt/sources.list.d/debian.sources"].read()
    assert b"path-exclude=/usr/share/man/*\n" in nodes[b"etc/dpkg/dpkg.cfg.d/docker"].read()
    assert nodes[b"etc/apt/apt.conf.d/docker-clean"].meta == Meta(mode=0o644, mtime_ns=5 * 10**9)
    assert nodes[b"usr/sbin/policy-rc.d"].meta.mode == 0o755


def test_an_old_suite_has_its_sources_in_one_file():
    nodes = finished("debian:11")
    assert nodes[b"etc/apt/sources.list"].read().count(b"deb http") == 3
    assert b"etc/dpkg/dpkg.cfg.d/docker" not in nodes


def test_the_config_is_that_of_docker_s_image():
    config = json.loads(image(find("debian:12"), AMD64, epoch=1700000000).encode())
    assert config["config"]["Cmd"] == ["bash"]
    assert config["config"]["Env"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    assert config["created"] == "2023-11-14T22:13:20Z"
    assert (config["os"], config["architecture"]) == ("linux", "amd64")


@pytest.mark.parametrize("init", ["systemd", "openrc", "sysvinit"])
def test_a_base_may_have_an_init(init):
    recipe = find(f"debian:bookworm-slim-{init}")
    assert (recipe.tag, recipe.release, recipe.slim, recipe.init) == (f"bookworm-slim-{init}", "bookworm", True, init)
    packages = ",".join(recipe.distribution.inits[init])
    assert f"--include={packages}" in argv(f"debian:bookworm-slim-{init}")
    assert image(recipe, AMD64, epoch=0).config.cmd == ("/sbin/init",)


def test_a_name_that_only_ends_like_an_init_s_has_no_recipe():
    assert find("debian:systemd") is None
    assert find("debian:bookworm-upstart") is None
    assert find("debian:nonsense-systemd") is None


OWN = """
repository = "registry.example/team/base"
method = "mmdebstrap"
[tags]
"1" = "bookworm"
[mmdebstrap]
mirror = "http://mirror.example/debian/"
keyrings = ["/k.gpg"]
include = ["curl"]
suites = ["{release}"]
security-suites = []
[image]
cmd = ["/bin/dash"]
"""


@pytest.fixture
def folder_of_recipes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    made = tmp_path / "firekiln/recipes"
    made.mkdir(parents=True)
    return made


def test_a_user_s_recipe_is_found_and_obeyed(folder_of_recipes):
    (folder_of_recipes / "own.toml").write_text(OWN)
    recipe = find("registry.example/team/base:1")
    method = recipe.distribution.method
    assert recipe.distribution.file == str(folder_of_recipes / "own.toml")
    archive = public_archive(method, "amd64")
    assert sources(recipe, method, archive).splitlines() == [
        "Types: deb",
        "URIs: http://mirror.example/debian",
        "Suites: bookworm",
        "Components: main",
        "Signed-By: /k.gpg",
    ]
    assert "--include=curl" in argv("registry.example/team/base:1")
    assert image(recipe, AMD64, epoch=0).config.cmd == ("/bin/dash",)
    assert recipe.distribution.variable == "FIREKILN_BASE_MIRROR"


def test_a_user_s_recipe_goes_before_ours_for_the_tags_that_it_has(folder_of_recipes):
    (folder_of_recipes / "debian.toml").write_text(OWN.replace("registry.example/team/base", "debian"))
    assert find("debian:1").distribution.method.mirror == "http://mirror.example/debian"
    assert find("debian:12").distribution.file == "debian.toml"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("method", "methot"), "method: is missing"),
        (('"mmdebstrap"', '"magic"'), "method: give mmdebstrap or archive"),
        (("registry.example/team/base", "Base"), "repository: invalid reference format"),
        (("team/base", "team/base:1"), "repository: must be a repository without a tag"),
        (("include = [", "includes = ["), "mmdebstrap.includes: is no key of a recipe"),
        (('["curl"]', '"curl"'), "mmdebstrap.include: must be a list of texts"),
        (('["curl"]', '["--hook-dir=/x"]'), 'mmdebstrap.include: "--hook-dir=/x" is no plain word'),
        (("http://mirror", "file://mirror"), "is no http or https address"),
        (('suites = ["{release}"]', "suites = []"), "mmdebstrap.suites: is empty"),
        (('"/k.gpg"', '"k.gpg"'), 'mmdebstrap.keyrings: "k.gpg" is no absolute path'),
        (('"1" =', '"1*" = "b**" #'), '"1*" is no tag, or its release has more stars'),
        (("[tags]", "[tags"), "Expected ']' at the end of a table declaration"),
        (("[image]", "[[image]]"), "image: must be a table"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_with_file_and_key(folder_of_recipes, change, said):
    path = folder_of_recipes / "own.toml"
    path.write_text(OWN.replace(*change))
    with pytest.raises(UsageError) as caught:
        find("debian")
    assert caught.value.message.startswith(f"recipe {path}: ")
    assert said in caught.value.message


ARCHIVE = """
repository = "own"
method = "archive"
[tags]
latest = "1"
[archive]
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "archive.url: either it or `releases` is wanted"),
        ('url = "https://e.example/x"', "archive.url: `sha256` or `keyring` is wanted"),
        ('releases = "https://e.example/x"', "archive.flavor: `releases` wants it"),
        ('releases = "http://e.example/x"\nflavor = "f"', "archive.releases: without https a `keyring` is wanted"),
        ('url = "https://e.example/x"\nsha256 = "abc"', "archive.sha256: must be 64 hexadecimal digits"),
    ],
)
def test_an_archive_has_to_be_known_by_something(text, said):
    with pytest.raises(UsageError, match=said):
        read(ARCHIVE + text, file="f")
    assert read(ARCHIVE + 'releases = "https://e.example/x"\nflavor = "f"', file="f").repository.endswith("/own")


RELEASES = """\
---
-
  title: "Standard"
  flavor: alpine-standard
  file: alpine-standard-3.22.1-x86_64.iso
  sha256: 0000
-
  title: "Mini root filesystem"
  desc: |
    Minimal root filesystem.
    For use in containers: and minimal chroots.
  flavor: alpine-minirootfs
  file: alpine-minirootfs-3.22.1-x86_64.tar.gz
  sha256: abcd
"""


def test_the_newest_archive_is_found_in_alpine_s_list():
    assert newest(RELEASES, "alpine-minirootfs") == ("alpine-minirootfs-3.22.1-x86_64.tar.gz", "abcd")
    assert newest(RELEASES, "alpine-virt") is None
    assert newest("<html>", "alpine-minirootfs") is None


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("fedora", "there are recipes for debian, ubuntu, alpine; "),
        ("debian:sid", "debian has the tags latest, stable, 13, trixie"),
        ("alpine:edge-runit", "alpine has the tags latest, 3, 3.*, edge, and the inits openrc; "),
    ],
)
def test_an_unknown_base_is_told_which_there_are(reference, hint):
    error = unknown(reference)
    assert error.message == f"{reference}: no recipe makes this base image"
    assert error.hint.startswith(hint)
