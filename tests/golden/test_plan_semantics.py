"""Small Dockerfiles, each made to show what an observation of `plan-semantics.txt` shows, and their plans against it.

`FIREKILN_GOLDEN` names the folder; else `../shared/golden` beside the checkout. Without it the tests skip; the unit
tests of the plan hold the same facts.
"""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import pytest

from firekiln.build.graph import CacheMount, ExecOp, SecretMount, SshMount, TmpfsMount
from firekiln.build.plan import PlanOptions, plan, plan_to_json
from firekiln.dockerfile.convert import parse_dockerfile
from firekiln.errors import DockerfileError
from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform

_FOLDER = Path(os.environ.get("FIREKILN_GOLDEN") or Path(__file__).parents[2] / ".." / "shared" / "golden")
_FILE = _FOLDER / "plan-semantics.txt"
_PLATFORM = Platform.parse("linux/amd64")
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

pytestmark = pytest.mark.skipif(not _FILE.exists(), reason="no golden folder: set FIREKILN_GOLDEN")

FULL_BASE = ImageConfig(
    user="bob:grp",
    env=("PATH=/bin", "X=base"),
    cmd=("inherited",),
    volumes=("/v",),
    working_dir="/w",
    shell=("/bin/bash", "-c"),
    on_build=("ENV ARGX=b", "RUN echo onb", "COPY x /y"),
)

# What the title of an observation says, as a Dockerfile of ours; a tuple adds build arguments.
DOCKERFILES: dict[str, str | tuple[str, dict[str, str]]] = {
    "onbuild+base config+entrypoint resets cmd": 'FROM full\nRUN y\nENTRYPOINT ["x"]',
    "cmd before entrypoint": 'FROM b\nCMD ["c"]\nENTRYPOINT e $X',
    "ARG global scope": "ARG V=1\nFROM b\nRUN a$V\nARG V\nRUN b\nRUN c",
    "build-arg overrides ARG in stage, ENV first": ("FROM b\nENV X=env\nARG X=arg\nRUN a", {"X": "cli"}),
    "ARG then ENV": ("FROM b\nARG X=1\nENV X=${X}2\nRUN a", {"X": "cli"}),
    "ENV self-ref same line": "FROM b\nENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc\nRUN x",
    "platform args": "FROM b\nARG TARGETPLATFORM\nARG TARGETARCH TARGETVARIANT\nARG BUILDOS\nRUN x",
    "proxy": ("FROM b\nRUN x", {"HTTP_PROXY": "http://p"}),
    "workdir": "FROM b\nWORKDIR /a\nWORKDIR b\\ c\nWORKDIR /y\nUSER 1:2\nWORKDIR z\nCOPY a .\nCOPY a /t/\nCOPY a b c",
    "workdir unset var": "FROM b\nENV D=/p\nWORKDIR $D/$NOTHING",
    "heredoc copy expand/chomp": 'FROM b\nENV A=1\nCOPY <<-EOF <<"Q" /d/\n\t$A z \\$A "q" \\\\\n\ttab\nEOF\n$A\nQ',
    "heredoc run": (
        'FROM b\nENV A=1\nRUN <<EOF\necho $A\nEOF\nRUN cat <<E1 >x && cat <<-"E2"\na $A\nE1\n\tb\nE2\n'
        "RUN <<PY\n#!/usr/bin/env python\nprint(1)\nPY\nRUN 3<<EOF cat /dev/fd/3\nz\nEOF"
    ),
    "copy parents/link/chmod/exclude": (
        "FROM b\nCOPY --parents --exclude=*.md --chmod=u=rwX,go=rX ./a/./b/**/c* x /d/\n"
        "COPY --link --chown=5:6 f /g\nCOPY --link --chmod=755 f /g"
    ),
    "add url/git/unpack": (
        f"FROM b\nADD --checksum=sha256:{'a' * 64} --chmod=644 https://e.com/x/f.tgz /d/\n"
        "ADD --unpack https://e.com/f.tgz /d/\nADD https://github.com/moby/buildkit.git#v1:docs /g\n"
        "ADD f.tar.gz /t\nADD --unpack=false f.tar.gz /t"
    ),
    "run mounts": (
        "FROM b\nWORKDIR /w\nARG I=id1\nRUN --mount=type=cache,id=/$I,target=/c,sharing=locked,mode=0700,uid=1 "
        "--mount=type=tmpfs,target=/t,size=64m --mount=from=b,source=x,target=y "
        "--mount=type=secret,id=k,target=/sec,env=K --mount=type=secret,id=k2 --mount=type=ssh --network=none x"
    ),
    "expose": "FROM b\nENV P=80\nEXPOSE $P 443/udp 1000-1002",
    "expose ok": "FROM b\nENV P=80\nEXPOSE ${P:-81} 443/UDP 1000-1002/tcp",
    "volume/user/stopsig/label/health": 'FROM b\nVOLUME "/b',
    "copy from var": "FROM b\nARG S=b\nCOPY --from=$S a /b",
    "copy from later": "FROM b AS one\nCOPY --from=two /a /b\nFROM b AS two",
    "copy from index/img": "FROM c\nFROM b\nCOPY --from=0 a /b\nCOPY --from=alpine:3 a /b",
    "unset base": "ARG B\nFROM $B",
    "required var": "FROM b\nWORKDIR ${X:?need X}",
    "dup target / unknown target": "FROM b AS x\nFROM b AS x",
    "env quotes": (
        'FROM b\nENV A=\'$X\' B="a\\"b" C=a\\ b D=\\$X E=\'\\n\' F=\\X\nENV G=${NO:-u}\nENV H two words "q"\nRUN x'
    ),
    "copy quotes": 'FROM b\nENV A="x y"\nCOPY $A "q" \'r\' a"b" /d/\nCOPY ["a b", "$A", "/d/"]',
    "cmd empty/ep empty": "FROM b\nCMD []\nENTRYPOINT []",
    "volume then run": "FROM b\nVOLUME /v\nRUN echo hi > /v/x",
    "uppercase stage": "FROM c AS Up\nFROM b\nCOPY --from=uP a /b",
    "from prev unresolved var in arg default": "ARG A=1\nARG B=${A}-2\nFROM b:$B\nARG B\nARG C=$B\nRUN x",
}


def observations():
    """By title: what was planned, each kind of line in a list, or the error."""
    made, title = {}, ""
    for line in _FILE.read_text().splitlines() if _FILE.exists() else ():
        kind, _, rest = line.strip().partition(" ")
        if kind == "##":
            title = rest
            made[title] = {"exec": [], "file": [], "src": [], "config": [], "ERR": []}
        elif kind in made[title]:
            made[title][kind].append(_read(kind, rest))
    return made


def _read(kind, text):
    if kind == "ERR":
        return text
    if kind == "exec":
        args, cwd, user, env, rest = re.fullmatch(
            r"(\[.*\]) cwd (\S+) user (\S+) env (\[.*?\]) (\{.*\})", text
        ).groups()
        return {
            "args": ast.literal_eval(args),
            "cwd": cwd,
            "user": "" if user == "None" else user,
            "env": ast.literal_eval(env),
            "mounts": sorted(_mount(mount) for mount in ast.literal_eval(rest)["mounts"][1:]),
        }
    value = ast.literal_eval(text)
    if kind == "src":
        return value["identifier"]
    return {key: of for key, of in value.items() if key in ("copy", "mkdir", "mkfile")} if kind == "file" else value


def _mount(mount):
    """A mount's destination, its kind, and what it is known by."""
    kind = mount.get("mountType", "BIND").lower()
    known_by = mount.get("cacheOpt", mount.get("secretOpt", {})).get("ID", "")
    return mount["dest"].rstrip("/"), kind, known_by, mount.get("TmpfsOpt", {}).get("size", "0")


def _our_mount(mount):
    kinds = {CacheMount: "cache", SecretMount: "secret", SshMount: "ssh", TmpfsMount: "tmpfs"}
    known_by = mount.id if isinstance(mount, CacheMount | SecretMount) else ""
    size = mount.size if isinstance(mount, TmpfsMount) else 0
    return mount.target, kinds.get(type(mount), "bind"), known_by, str(size)


def bases(reference, platform):
    config = FULL_BASE if "/full:" in reference else ImageConfig()
    return Image(platform=platform, config=config, diff_ids=("sha256:" + "0" * 64,))


def planned(text, arguments, target):
    made = plan(
        parse_dockerfile(text),
        PlanOptions(platform=_PLATFORM, build_platform=_PLATFORM, build_args=arguments, target=target),
        bases,
    )
    view = plan_to_json(made)
    ops = [vertex.op for vertex in made.vertices if isinstance(vertex.op, ExecOp)]
    for run, op in zip(view["runs"], ops, strict=True):
        run["env"] = [line for line in run["env"] if not line.startswith("PATH=")]
        run["mounts"] = sorted(_our_mount(mount) for mount in op.mounts)
    return view


def unordered(items):
    return sorted(json.dumps(item, sort_keys=True) for item in items)


OBSERVED = observations()


@pytest.mark.parametrize("title", OBSERVED)
def test_a_small_dockerfile_has_buildkits_plan(title):
    made = DOCKERFILES[title]
    text, arguments = made if isinstance(made, tuple) else (made, {})
    target = "z" if "target" in title else ""
    seen = OBSERVED[title]
    if seen["ERR"]:
        with pytest.raises(DockerfileError) as caught:
            planned(text, arguments, target)
        assert caught.value.message.replace("\\", "") == seen["ERR"][0].replace("\\", "")
        return
    view = planned(text, arguments, target)
    assert view["config"] == seen["config"][0]
    assert view["runs"] == seen["exec"]
    assert unordered(view["files"]) == unordered(seen["file"])
    if seen["src"]:  # the first observation has none of its base
        assert unordered(view["sources"]) == unordered(seen["src"])
