"""Whole instructions against what BuildKit made of them: Dockerfile, plan and file operations together.

The observations lie in a folder beside the repository (`FIREKILN_GOLDEN`, else `../shared/golden`); without it these
tests skip. The unit tests hold the same facts in a table of their own.
"""

from __future__ import annotations

import ast
import bz2
import functools
import gzip
import hashlib
import http.server
import io
import lzma
import os
import re
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from copying import NOW, base, changes, context, file, meta, tree
from firekiln.build.context import without_ignored
from firekiln.build.fetch import fetch
from firekiln.build.graph import ContextSource, FileOp, HttpSource, ImageSource, MergeOp
from firekiln.build.ops.fileop import apply
from firekiln.build.plan import PlanOptions, plan
from firekiln.dockerfile.convert import parse_dockerfile
from firekiln.dockerfile.ignore import read_ignore
from firekiln.errors import FirekilnError
from firekiln.oci.config import Image
from firekiln.oci.platform import Platform
from firekiln.rootfs.merge import merge
from firekiln.rootfs.tree import Directory, File, walk

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_FOLDER = Path(os.environ.get("FIREKILN_GOLDEN") or Path(__file__).parents[2] / ".." / "shared" / "golden")
_PLATFORM = Platform.parse("linux/amd64")
pytestmark = pytest.mark.skipif(not _FOLDER.exists(), reason="no golden folder: set FIREKILN_GOLDEN")


def lines(name):
    path = _FOLDER / name
    return path.read_text().splitlines() if path.exists() else []


def observations(name, mark):
    """Pairs of an instruction and what was seen: a mapping, or the text of an error."""
    instruction = None
    for line in lines(name):
        if line.startswith("## ") and not line.startswith("## '"):
            instruction = line[3:].replace("\\n", "\n")
        elif line.startswith(f"{mark} {{"):
            yield instruction, ast.literal_eval(line[len(mark) + 1 :])
        elif line.startswith(f"{mark} ERR error: failed to solve: "):
            yield instruction, line.split("failed to solve: ", 1)[1]


COPIES = [row for row in observations("copy-semantics.txt", "  BK") if "nosuch" not in row[0]]
ADDS = list(observations("add-and-dockerignore-semantics.txt", "  "))
IGNORES = [
    ast.literal_eval(f"({line[3:].replace(chr(39) + ' [', chr(39) + ', [', 1)})")
    for line in lines("add-and-dockerignore-semantics.txt")
    if line.startswith("## '")
]


def build(text, below, source):
    """The tree that a Dockerfile makes on `below`, its only stage's base."""

    def image(reference, platform):
        return Image(platform=platform, diff_ids=("sha256:" + "0" * 64,))

    made = plan(
        parse_dockerfile("FROM base\n" + text, file="Dockerfile"),
        PlanOptions(platform=_PLATFORM, build_platform=_PLATFORM),
        image,
    )
    snapshots = {None: []}
    for vertex in made.vertices:
        inputs = [snapshots[source] for source in vertex.inputs]
        match vertex.op:
            case ImageSource():
                snapshots[vertex] = [below]
            case ContextSource():
                snapshots[vertex] = [source]
            case HttpSource():
                snapshots[vertex] = [fetch(vertex.op)]
            case MergeOp():
                snapshots[vertex] = [layer for layers in inputs for layer in layers]
            case FileOp():
                trees = [merge(layers) if layers else None for layers in inputs]
                snapshots[vertex] = [*inputs[0], apply(vertex.op, trees[0], trees, now_ns=NOW)]
    return merge(snapshots[made.target])


def whole_context():
    source = context()
    source.children[b".dockerignore"] = File(meta=source.children[b"f1"].meta, size=21)
    source.children[b"busybox"] = file(bytes(1982256), 0o755)
    return source


@pytest.mark.parametrize(("instruction", "seen"), COPIES, ids=[row[0] for row in COPIES])
def test_an_instruction_makes_what_buildkit_made(instruction, seen):
    below = base()
    if isinstance(seen, str):
        seen = seen.rpartition("failed to calculate checksum of ref ")[2]
        seen = re.sub(r"^\w+::\w+: ", "", seen).replace("<root>", "")
        with pytest.raises(FirekilnError) as error:
            build(instruction, below, whole_context())
        assert error.value.message == seen
        return
    assert changes(below, build(instruction, below, whole_context())) == seen


def archives():
    members = (
        ("d", b"", {"type": tarfile.DIRTYPE, "mode": 0o750, "uid": 11, "gid": 12}),
        ("d/f", b"f", {}),
        ("d/h", b"", {"type": tarfile.LNKTYPE, "linkname": "d/f"}),
        ("d/l", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/x"}),
    )
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data, header in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1234567890
            for key, value in header.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    data = out.getvalue()
    return {
        "t.tar": data,
        "t.tgz": gzip.compress(data, mtime=0),
        "t.bz2": bz2.compress(data),
        "t.xz": lzma.compress(data),
        "t.zst": zstd.compress(data),
        "noext": gzip.compress(data, mtime=0),
        "plain.gz": gzip.compress(b"plain", mtime=0),
        "empty.tar.gz": b"",
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("www")
    for name, data in archives().items():
        (root / name).write_bytes(data)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=root)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def without_chance(nodes):
    """Sizes of compressed files and times of the day are the oracle's; times of archives and 1970 are facts."""
    shown = {}
    for path, text in nodes.items():
        text = re.sub(r" mt(?!1234567890$|0$)\d+", "", text)  # noqa: PLW2901
        shown[path] = (
            re.sub(r" \d+(?= mt|$)", "", text) if re.search("gz|unnamed|^o$", path) and text[0] == "f" else text
        )
    return shown


@pytest.mark.parametrize(("instruction", "seen"), ADDS, ids=[row[0] for row in ADDS])
def test_an_add_makes_what_buildkit_made(instruction, seen, server):
    packed = archives()
    below = base()
    source = tree(
        **{name: file(data, mtime_ns=NOW) for name, data in packed.items()}, s=Directory(meta=meta(0o755, mtime_ns=NOW))
    )
    digest = "sha256:" + hashlib.sha256(packed["t.tgz"]).hexdigest()
    text = instruction.replace("URL", server).replace("sha256:H", digest)
    if isinstance(seen, str):
        words = re.sub(r"sha256:(?!0)\w+", digest, seen).replace("failed to load cache key: ", "")
        with pytest.raises(FirekilnError, match=f"{re.escape(words)}$"):
            build(text, below, source)
        return
    got = changes(below, build(text, below, source), mtimes=True)
    assert without_chance({path: node for path, node in got.items() if path != "t"}) == without_chance(seen)


@pytest.mark.parametrize(("ignore", "seen"), IGNORES, ids=[row[0] for row in IGNORES])
def test_an_ignore_file_leaves_out_what_buildkit_left_out(ignore, seen):
    names = ".dockerignore .env Dockerfile README.md a/.env a/x.md a/b/y.md a/b/keep.txt a/b/c/z.md".split()
    source = tree(**{name: file() for name in names})
    got = without_ignored(source, read_ignore(ignore))
    assert [path.decode() for path, _ in walk(got)] == seen
