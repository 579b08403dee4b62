"""Stand-ins for the bases of upstream's texts, named as upstream names them, and for what the texts download.

A base is a small system of busybox and bash whose package managers, fetchers and compilers are programs of ours
(`programs/`): they answer from files that lie in the base, as the real ones would. firekiln knows nothing of it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform
from firekiln.rootfs.tree import Directory, Node
from firekiln.store import Layer, Store
from trees import file, folder, link
from upstream.texts import FOLDER, RELEASE, TEXTS, bases

_HERE = Path(__file__).parent
_BUSYBOX = Path("/bin/busybox")
_BASH = Path("/bin/bash")
_COMPILER = "musl-gcc"
_ROOT = b"usr/lib/stand-in/"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Files = dict[bytes, Node]
"""The files of a tree by path without the leading slash."""


def missing() -> str | None:
    """What this host lacks for the stand-ins."""
    if not FOLDER.exists():
        return "no upstream folder: set FIREKILN_UPSTREAM"
    for program in (_BUSYBOX, _BASH):
        if not program.exists():
            return f"needs {program}"
    return None if shutil.which(_COMPILER) else f"needs {_COMPILER}"


def put_bases(store: Store) -> None:
    """Put each base that a text names into the store, under its name."""
    hidden = store.layers.commit(_tree(_everything()))
    alpine, ubi = (store.layers.commit(_tree(files)) for files in (_alpine(), _ubi()))
    golang = store.layers.commit(_tree({b"usr/local/go/bin/go": _shell("go"), b"go/bin": folder()}))
    minio = store.layers.commit(_tree({b"usr/bin/docker-entrypoint.sh": file(mode=0o755)}))
    for name in {name for text in TEXTS for name in bases(text.file.read_text())}:
        if name.startswith("golang:"):
            _put(store, name, _GOLANG, [alpine, hidden, golang])
        elif name.startswith("alpine:"):
            _put(store, name, _ALPINE, [alpine, hidden])
        elif name.startswith("minio/minio:"):
            _put(store, name, _MINIO, [ubi, hidden, minio])
        else:
            _put(store, name, _UBI, [ubi, hidden])


def base_env(store: Store, name: str) -> dict[str, str]:
    """The variables of a base."""
    return dict(pair.split("=", 1) for pair in store.images.get(name).image.config.env)


def write_context(path: Path, sources: Mapping[str, str], ignore: str) -> None:
    """Make the build context of a text; see `Text.context`."""
    path.mkdir()
    for name, source in sources.items():
        kind, _, where = source.partition(":")
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if kind == "mirror":
            (path / name).write_bytes(mirror()[where])
        else:
            shutil.copyfile({"upstream": FOLDER, "fixture": _HERE / "fixtures"}[kind] / where, path / name)
        program = name.endswith(".sh") or (kind == "mirror" and not name.endswith((".minisig", ".sha256sum")))
        (path / name).chmod(0o755 if program else 0o644)
    if ignore:
        shutil.copyfile(FOLDER / ignore, path / ".dockerignore")


def _put(store: Store, name: str, config: ImageConfig, layers: list[Layer]) -> None:
    image = Image(
        platform=Platform.parse("linux/amd64"), config=config, diff_ids=tuple(layer.digest for layer in layers)
    )
    store.images.put(image, layers, references=[name])


_ALPINE = ImageConfig(env=(f"PATH={_PATH}",), cmd=("/bin/sh",))
_GOLANG = ImageConfig(
    env=(f"PATH=/go/bin:/usr/local/go/bin:{_PATH}", "GOPATH=/go"), cmd=("/bin/sh",), working_dir="/go"
)
_UBI = ImageConfig(
    env=(f"PATH={_PATH}", "container=oci"),
    cmd=("/bin/bash",),
    labels={"name": "ubi", "vendor": "The base's vendor", "architecture": "x86_64"},
)
_MINIO = ImageConfig(
    env=(f"PATH={_PATH}", "MC_CONFIG_DIR=/tmp/.mc"),
    cmd=("minio",),
    exposed_ports=("9000/tcp",),
    volumes=("/data",),
    labels={"name": "MinIO"},
)


@functools.cache
def _program(name: str) -> bytes:
    """A C program of `programs/`, compiled without shared libraries."""
    argv = [_COMPILER, "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror", _HERE / "programs" / f"{name}.c"]
    with tempfile.TemporaryDirectory(prefix="firekiln-upstream-") as scratch:
        subprocess.run([*argv, "-o", f"{scratch}/{name}"], check=True)
        return Path(scratch, name).read_bytes()


def product(version: str) -> bytes:
    """The program that stands in for all products; which it is, its name says."""
    return _program("product") + f"\nversion:{version}\n".encode()


def _shell(name: str) -> Node:
    return file((_HERE / "programs/shell" / name).read_bytes(), mode=0o755)


def _system(prefix: bytes) -> Files:
    """busybox and bash, `prefix` where all programs lie; users and groups."""
    names = subprocess.run([_BUSYBOX, "--list"], capture_output=True, check=True).stdout.split()
    files: Files = {prefix + name: link(b"busybox") for name in names}
    files |= {prefix + b"busybox": file(_BUSYBOX.read_bytes(), mode=0o755)}
    # busybox's shell, as Debian builds it, prefers busybox's own wget and the like to any on the PATH.
    files |= {prefix + b"bash": file(_BASH.read_bytes(), mode=0o755), prefix + b"sh": link(b"bash")}
    libraries = subprocess.run(["ldd", _BASH], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(/\S+) \(0x", libraries):
        files[library.lstrip("/").encode()] = file(Path(library).read_bytes(), mode=0o755)
    return files | {
        b"etc/passwd": file(b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"),
        b"etc/group": file(b"root:x:0:\nnobody:x:65534:\n"),
        b"root": folder(mode=0o700),
        b"tmp": folder(mode=0o1777),
    }


def _alpine() -> Files:
    added = {
        b"sbin/apk": _shell("apk"),
        b"usr/sbin/adduser": _shell("adduser"),
        b"usr/sbin/addgroup": _shell("addgroup"),
    }
    return {**_system(b"bin/"), **added, b"bin/wget": _shell("wget"), b"etc/alpine-release": file(b"stand-in\n")}


def _ubi() -> Files:
    """Red Hat's layout: /bin, /sbin and the libraries' folders are links into /usr."""
    files = _system(b"usr/bin/")
    merged = {(b"usr/" + path if path.startswith(b"lib") else path): node for path, node in files.items()}
    programs = {b"usr/bin/" + name.encode(): _shell(name) for name in ("microdnf", "rpm", "curl", "sha256sum")}
    links = {name: link(b"usr/" + name) for name in (b"bin", b"lib", b"lib64")}
    chroot = file(_program("programs"), mode=0o755)
    return {**merged, **programs, **links, **_shadow(), b"sbin": link(b"usr/sbin"), b"usr/bin/chroot": chroot}


def _shadow() -> Files:
    return {
        b"usr/sbin/groupadd": _shell("groupadd"),
        b"usr/sbin/useradd": _shell("useradd"),
        b"usr/sbin/adduser": link(b"useradd"),
    }


def _everything() -> Files:
    """What lies hidden in every base: packages, downloads, sources and what compilers make of them."""
    files: Files = {_ROOT + b"fetch": _shell("fetch"), _ROOT + b"packages.sh": _shell("packages.sh")}
    for name, content in _packages().items():
        files |= {_ROOT + b"packages/" + name.encode() + b"/" + path: node for path, node in content.items()}
    files |= {_ROOT + b"mirror/" + path.encode(): file(data) for path, data in mirror().items()}
    files |= {_ROOT + b"products/" + path.encode(): node for path, node in _products().items()}
    repository = _ROOT + b"repositories/github.com/minio/minio/"
    files |= {repository + path.encode(): node for path, node in _minio_repository().items()}
    return files | {_ROOT + b"published": file(f"{_digest(_program('programs'))} {_dumb_init_digest()}\n".encode())}


def _packages() -> dict[str, Files]:
    programs = file(_program("programs"), mode=0o755)
    gpg = {b"usr/bin/gpg": _shell("gpg"), b"usr/bin/gpgconf": _shell("gpgconf")}
    git = {b"usr/bin/git": _shell("git")}
    known: dict[str, Files] = {
        "alpine-sdk": {**git, b"usr/bin/make": _shell("make")},
        "bash": {b"usr/share/doc/bash": folder()},
        "ca-certificates": {b"etc/ssl/certs/ca-certificates.crt": file(b"no certificates\n")},
        "curl": {b"usr/bin/curl": _shell("curl")},
        "dumb-init": {b"usr/bin/dumb-init": programs},
        "git": git,
        "gnupg": gpg,
        "libcap": {b"usr/sbin/setcap": programs},
        "minisign": {b"usr/bin/minisign": _shell("minisign")},
        "openssl": {b"usr/bin/openssl": _shell("gpgconf")},
        "shadow-utils": _shadow(),
        "su-exec": {b"sbin/su-exec": programs},
        "util-linux": {b"usr/bin/setpriv": programs},
        "wget": {b"usr/bin/wget": _shell("wget")},
    }
    others = "gzip iproute iptables iputils jq libc6-compat lsof net-tools tar tzdata unzip".split()
    return known | {name: {b"usr/share/doc/" + name.encode(): folder()} for name in others}


def _products() -> Files:
    """What `go` makes, by the path of the package."""
    program = file(_program("product"), mode=0o755)
    plugins = (
        "auth-user auth-ldap googleid-provider googleid-info unsecured-jwt-info unsecured-jwt-provider oidc-provider"
    )
    kafka_proxy = "github.com/grepplabs/kafka-proxy"
    return {
        "github.com/minio/minio": program,
        kafka_proxy: program,
        **{f"{kafka_proxy}.d/cmd/plugin-{name}": program for name in plugins.split()},
        "aead.dev/minisign/cmd/minisign": _shell("minisign"),
    }


def _minio_repository() -> Files:
    entrypoint = (FOLDER / "minio/dockerscripts/docker-entrypoint.sh.2021-03").read_bytes()
    fixtures = _HERE / "fixtures"
    return {
        "go.mod": file(b"module github.com/minio/minio\n"),
        "main.go": file(b"package main\n"),
        "buildscripts/gen-ldflags.go": file((fixtures / "gen-ldflags.go").read_bytes()),
        "CREDITS": file((fixtures / "CREDITS").read_bytes()),
        "LICENSE": file((fixtures / "LICENSE").read_bytes()),
        "dockerscripts/docker-entrypoint.sh": file(entrypoint, mode=0o755),
    }


@functools.cache
def mirror() -> dict[str, bytes]:
    """What the internet holds, by URL without `https://`. Names, versions and keys are those that the texts say."""
    found = {
        "github.com/Yelp/dumb-init/releases/download/v1.2.5/dumb-init_1.2.5_x86_64": _program("programs"),
        "github.com/moparisthebest/static-curl/releases/latest/download/curl-amd64": _shell("curl").read(),
        "dl.fedoraproject.org/pub/epel/epel-release-latest-8.noarch.rpm": b"a package\n",
    }
    for text in (text.file.read_text() for text in TEXTS if text.product == "consul"):
        server, key = re.search(r"--keyserver (\S+) --recv-keys (\w+)", text).groups()
        found[f"{server}/{key}"] = b"a key\n"
        found |= _consul_release(re.search(r"ARG CONSUL_VERSION=(\S+)", text)[1], key)
    key = re.search(r"-P (\w+)", (FOLDER / "minio/dockerscripts/verify-minio.sh.2021-03").read_text())[1]
    server, client = "dl.min.io/server/minio/release/linux-amd64", "dl.min.io/client/mc/release/linux-amd64"
    found |= _signed(f"{server}/minio", product("RELEASE.2021-03-04T00-53-13Z"), key)
    found |= _signed(f"{server}/archive/minio.{RELEASE}", product(RELEASE), key)
    return found | _signed(f"{client}/mc", product("mc"), key)


def _consul_release(version: str, key: str) -> dict[str, bytes]:
    """An archive with what HashiCorp's holds, the digests, and their signature."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (("consul", product(version)), ("EULA.txt", b"terms\n")):
            member = zipfile.ZipInfo(name)
            member.external_attr = (0o755 if name == "consul" else 0o644) << 16
            archive.writestr(member, content)
    where, name = f"releases.hashicorp.com/consul/{version}", f"consul_{version}_linux_amd64.zip"
    sums = f"{_digest(data.getvalue())}  {name}\n".encode()
    return {
        f"{where}/{name}": data.getvalue(),
        f"{where}/consul_{version}_SHA256SUMS": sums,
        f"{where}/consul_{version}_SHA256SUMS.sig": f"{key} {_digest(sums)}\n".encode(),
    }


def _signed(path: str, data: bytes, key: str) -> dict[str, bytes]:
    name = path.rsplit("/", 1)[1]
    return {
        path: data,
        f"{path}.sha256sum": f"{_digest(data)} {name}\n".encode(),
        f"{path}.minisig": f"{key} {_digest(data)}\n".encode(),
    }


def _dumb_init_digest() -> str:
    text = (FOLDER / "consul/ubi-Dockerfile.head").read_text()
    return re.search(r"'([0-9a-f]{64}) /usr/bin/dumb-init'", text)[1]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tree(files: Files) -> Directory:
    """The Tree of files by path; folders that are not named are root's, 0755."""
    root: dict[bytes, Node] = {}
    for path, node in sorted(files.items()):
        *parents, name = path.split(b"/")
        children = root
        for parent in parents:
            children = children.setdefault(parent, folder()).children
        children[name] = node
    return folder(root)
