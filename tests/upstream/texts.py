"""Upstream's texts: what each needs to be built, what runs, and what it says itself about the image that it makes.

`FIREKILN_UPSTREAM` names the folder of the texts; else `../shared/upstream` beside the checkout.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

FOLDER = Path(os.environ.get("FIREKILN_UPSTREAM") or Path(__file__).parents[2] / ".." / "shared" / "upstream")
RELEASE = "RELEASE.2026-01-02T03-04-05Z"
"""The build argument that MinIO's texts since 2023 want."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One Dockerfile. `context` maps a path in the build context to its source, `KIND:PATH`:

    upstream  a file of the folder of texts
    fixture   a file of ours in `fixtures/`, which stands in for one of upstream's that we don't have
    mirror    a download that lies in the stand-in bases

    `ignore` is a text of upstream's that is the context's `.dockerignore`. `files` says of paths in the image which
    mode, user and group they have; `absent` what it must not hold. `online` is what `scripts/upstream --online` builds,
    None where upstream publishes no context.
    """

    path: str
    product: str
    build_args: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)
    ignore: str = ""
    files: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    quick: bool = False
    online: Online | None

    @property
    def file(self) -> Path:
        return FOLDER / self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Online:
    """Upstream's own repository, where the text finds its context: `folder` below `ref` of `repository`.

    The text itself is always the one of our folder.
    """

    repository: str
    ref: str
    folder: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{self.repository}#{self.ref}" + (f":{self.folder}" if self.folder else "")


def _consul(path: str, *, entrypoint: str, folder: str, quick: bool = False, license_file: bool = False) -> Text:
    ubi = "ubi" in path
    owner = (100, 0) if ubi else (100, 1000)
    return Text(
        path=path,
        product="consul",
        context={"docker-entrypoint.sh": entrypoint, **({"LICENSE": "fixture:LICENSE"} if license_file else {})},
        files={
            "/bin/consul": (0o755, 0, 0),
            "/consul": (0o775 if ubi else 0o755, *owner),
            "/consul/data": (0o775 if ubi else 0o755, *owner),
            "/usr/local/bin/docker-entrypoint.sh": (0o755, 0, 0),
        },
        absent=("/tmp/build", "/root/.gnupg", *(() if ubi else ("/usr/bin/gpg", "/usr/bin/openssl"))),
        quick=quick,
        online=Online(repository="https://github.com/hashicorp/docker-consul.git", ref="master", folder=folder),
    )


_PLUGINS = (
    "auth-user auth-ldap google-id-provider google-id-info unsecured-jwt-info unsecured-jwt-provider oidc-provider"
).split()


def _kafka_proxy(path: str, *, quick: bool = False, plugins: bool = False, user: bool = True, **online: str) -> Text:
    sources = (
        "go.mod main.go Makefile vendor/modules.txt cmd/plugin-auth-user/main.go cmd/plugin-auth-ldap/main.go "
        "cmd/plugin-googleid-provider/main.go cmd/plugin-googleid-info/main.go cmd/plugin-unsecured-jwt-info/main.go "
        "cmd/plugin-unsecured-jwt-provider/main.go cmd/plugin-oidc-provider/main.go"
    ).split()
    programs = ("kafka-proxy", *(_PLUGINS if plugins else ()))
    arguments = {"VERSION": "1.2.3"} if user else {}
    return Text(
        path=path,
        product="kafka-proxy",
        build_args=arguments,
        context={name: f"fixture:kafka-proxy/{name}" for name in sources},
        files={f"/opt/kafka-proxy/bin/{name}": (0o755, 0, 0) for name in programs},
        absent=("/go", "/nonexistent", "/usr/local/go"),
        quick=quick,
        online=Online(repository="https://github.com/grepplabs/kafka-proxy.git", build_args=arguments, **online),
    )


def _minio(path: str, *, quick: bool = False, release: bool = False, ref: str = "", **options) -> Text:
    """`ref` is a release; none for a text whose context holds programs that upstream's release process puts there."""
    source = "https://github.com/minio/minio.git"
    return Text(
        path=path,
        product="minio",
        build_args={"RELEASE": RELEASE} if release else {},
        quick=quick,
        online=Online(repository=source, ref=ref, build_args={"RELEASE": ref} if release else {}) if ref else None,
        **options,
    )


_MINIO_ENTRYPOINT = "upstream:minio/dockerscripts/docker-entrypoint.sh"
_MINIO_RELEASE = f"mirror:dl.min.io/server/minio/release/linux-amd64/archive/minio.{RELEASE}"
_LICENCES = {"CREDITS": "fixture:CREDITS", "LICENSE": "fixture:LICENSE"}

TEXTS = (
    _consul(
        "consul/0.X/Dockerfile.2021-03",
        entrypoint="upstream:consul/0.X/docker-entrypoint.sh.2021-03",
        quick=True,
        folder="0.X",
    ),
    _consul(
        "consul/0.X/Dockerfile.head",
        entrypoint="upstream:consul/0.X/docker-entrypoint.sh.head",
        folder="0.X",
    ),
    _consul(
        "consul/ubi-Dockerfile.head",
        entrypoint="fixture:docker-entrypoint-ubi.sh",
        license_file=True,
        folder="ubi",
    ),
    _kafka_proxy("kafka-proxy/Dockerfile.2021-03", user=False, ref="v0.2.8"),
    _kafka_proxy("kafka-proxy/Dockerfile.2023-platform", ref="v0.3.6"),
    _kafka_proxy("kafka-proxy/Dockerfile.head", quick=True, ref="master"),
    _kafka_proxy("kafka-proxy/Dockerfile.all.head", plugins=True, ref="master"),
    _minio(
        "minio/Dockerfile.2021-03",
        ref="RELEASE.2021-03-04T00-53-13Z",
        ignore="minio/dockerignore.2021-03",
        files={"/usr/bin/minio": (0o755, 0, 0), "/licenses/CREDITS": (0o644, 0, 0)},
        absent=("/go", "/var/cache/yum"),
    ),
    _minio(
        "minio/Dockerfile.dev.2021-03",
        ignore="minio/dockerignore.2021-03",
        context={
            "dockerscripts/docker-entrypoint.sh": _MINIO_ENTRYPOINT + ".2021-03",
            "minio": "mirror:dl.min.io/server/minio/release/linux-amd64/minio",
        },
        files={"/usr/bin/minio": (0o755, 0, 0), "/usr/bin/docker-entrypoint.sh": (0o755, 0, 0)},
        absent=("/var/cache/yum",),
    ),
    _minio(
        "minio/Dockerfile.release.2021-03",
        quick=True,
        ref="RELEASE.2021-03-04T00-53-13Z",
        ignore="minio/dockerignore.2021-03",
        context={
            "dockerscripts/docker-entrypoint.sh": _MINIO_ENTRYPOINT + ".2021-03",
            "dockerscripts/verify-minio.sh": "upstream:minio/dockerscripts/verify-minio.sh.2021-03",
            **_LICENCES,
        },
        files={"/usr/bin/minio": (0o755, 0, 0), "/licenses/LICENSE": (0o644, 0, 0)},
        absent=("/var/cache/yum",),
    ),
    _minio(
        "minio/Dockerfile.release.2023",
        release=True,
        ref="RELEASE.2023-07-21T21-12-44Z",
        ignore="minio/dockerignore.head",
        context={
            "dockerscripts/docker-entrypoint.sh": _MINIO_ENTRYPOINT + ".2021-03",
            "dockerscripts/verify-minio.sh": "fixture:verify-minio-2023.sh",
            **_LICENCES,
        },
        files={"/opt/bin": (0o777, 0, 0), "/opt/bin/minio": (0o755, 0, 0), "/opt/bin/mc": (0o755, 0, 0)},
        absent=("/var/cache/yum",),
    ),
    _minio(
        "minio/Dockerfile.release.head",
        release=True,
        ref="RELEASE.2025-04-22T22-12-26Z",
        ignore="minio/dockerignore.head",
        context={
            "dockerscripts/docker-entrypoint.sh": _MINIO_ENTRYPOINT + ".head",
            "dockerscripts/download-static-curl.sh": "fixture:download-static-curl.sh",
            **_LICENCES,
        },
        files={
            "/usr/bin/minio": (0o755, 0, 0),
            "/usr/bin/minio.minisig": (0o644, 0, 0),
            "/usr/bin/mc.sha256sum": (0o644, 0, 0),
            "/usr/bin/curl": (0o755, 0, 0),
            "/usr/bin/bash": (0o777, 0, 0),
            "/usr/bin": (0o777, 0, 0),
            "/etc/ssl/certs/ca-certificates.crt": (0o644, 0, 0),
        },
        absent=("/build", "/go"),
    ),
    _minio(
        "minio/Dockerfile.head",
        release=True,
        ignore="minio/dockerignore.head",
        context={
            "dockerscripts/docker-entrypoint.sh": _MINIO_ENTRYPOINT + ".head",
            **{f"minio-amd64.{RELEASE}{kind}": _MINIO_RELEASE + kind for kind in ("", ".minisig", ".sha256sum")},
        },
        files={
            "/usr/bin/minio": (0o755, 0, 0),
            "/usr/bin/minio.minisig": (0o644, 0, 0),
            "/usr/bin/docker-entrypoint.sh": (0o755, 0, 0),
            "/usr/bin/bash": (0o777, 0, 0),
        },
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the last stage of a text says about its image, read by a reader of these tests that knows just enough."""

    labels: Mapping[str, str]
    env: Mapping[str, str]
    exposed: frozenset[str]
    volumes: frozenset[str]
    user: str
    entrypoint: tuple[str, ...] | None
    cmd: tuple[str, ...] | None


def bases(text: str) -> list[str]:
    """The images that a text's stages start from, in order."""
    named: set[str] = set()
    found = []
    for words in (rest.split() for keyword, rest in _instructions(text) if keyword == "FROM"):
        words = [word for word in words if not word.startswith("--")]  # noqa: PLW2901 - the flags are of no interest
        if words[0] not in named:
            found.append(words[0])
        if len(words) > 1:
            named.add(words[2])
    return list(dict.fromkeys(found))


def declared(text: str, build_args: Mapping[str, str], base_env: Mapping[str, str]) -> Declared:
    """Independent of firekiln's parser. `base_env` are the variables of the last stage's base."""
    labels: dict[str, str] = {}
    env: dict[str, str] = {}
    lists: dict[str, set[str]] = {}
    single: dict[str, str] = {}
    arguments: dict[str, str] = {}

    def expand(value: str) -> str:
        return Template(value).substitute({**base_env, **arguments, **env})

    for keyword, rest in _instructions(text):
        match keyword:
            case "FROM":
                for known in (labels, env, lists, single, arguments):
                    known.clear()
            case "ARG":
                name, _, value = rest.partition("=")
                arguments[name] = build_args.get(name, value)
            case "LABEL" | "ENV":
                target = labels if keyword == "LABEL" else env
                target.update({name: expand(value) for name, value in _pairs(rest)})
            case "EXPOSE":
                lists.setdefault("EXPOSE", set()).update(
                    port if "/" in port else f"{port}/tcp" for port in rest.split()
                )
            case "VOLUME":
                lists.setdefault("VOLUME", set()).update(json.loads(rest) if rest.startswith("[") else rest.split())
            case "USER" | "ENTRYPOINT" | "CMD":
                single[keyword] = rest
    return Declared(
        labels=labels,
        env=env,
        exposed=frozenset(lists.get("EXPOSE", ())),
        volumes=frozenset(lists.get("VOLUME", ())),
        user=single.get("USER", ""),
        entrypoint=tuple(json.loads(single["ENTRYPOINT"])) if "ENTRYPOINT" in single else None,
        cmd=tuple(json.loads(single["CMD"])) if "CMD" in single else None,
    )


def _pairs(rest: str) -> list[list[str]]:
    """Names and values of LABEL or ENV, which knows the old form `NAME VALUE` too."""
    if "=" not in rest.split(maxsplit=1)[0]:
        return [rest.split(None, 1)]
    return [word.split("=", 1) for word in shlex.split(rest)]


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\[ \t]*\n", " ", lines).splitlines():
        if line.strip():
            keyword, _, rest = line.strip().partition(" ")
            yield keyword.upper(), rest.strip()
