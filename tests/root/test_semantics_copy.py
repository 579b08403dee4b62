"""COPY, ADD and .dockerignore in real builds: what BuildKit makes of each instruction, on a context of our own.

All instructions of a kind are stages of one build; its target holds every stage's file system in a directory.
"""

from __future__ import annotations

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

import pytest

from building import GROUP, PASSWD, Builds
from copying import describe, of_d
from firekiln.errors import FirekilnError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
]

O = {"o": "d 0755 0:0"}  # noqa: E741 - the directory that most rows make is called o
F1, F2, A = "f 0644 0:0 3", "f 4755 0:0 3", "f 0644 0:0 1"
D2 = {"a": "f 0644 0:0 4", "c": A}


def within(name, nodes):
    return {f"{name}/{path}": text for path, text in nodes.items()}


COPIES = {
    "COPY f1 /o": {"o": F1},
    "COPY f1 /o/": O | {"o/f1": F1},
    "COPY f1 f2 /o/": O | {"o/f1": F1, "o/f2": F2},
    "COPY f1 f2 /o": {"o": F2},
    "COPY d /o": of_d("o"),
    "COPY d/ /o/": of_d("o"),
    "COPY d/. /o": of_d("o"),
    "COPY ./d/* /o/": O | {"o/a": A, "o/b": "f 0600 0:0 2", "o/fifo": "? 0644 0:0", "o/hard": A, "o/lna": A},
    "COPY d d2 /o/": of_d("o", **{"/a": "f 0644 0:0 4", "/c": A, "/hard": A}),
    "COPY f1 /t/exist": {"t/exist/f1": F1},
    "COPY d /t/exist": of_d("t/exist", **{"": ""}),
    "COPY f1 /t/lnd": {"t/real/f1": F1},
    "COPY f1 /t/lnd/": {"t/real/f1": F1},
    "COPY d2 /t/lnd": within("t/real", D2),
    "COPY d2 /t/lnd/": within("t/real", D2),
    "COPY f1 /t/lnf": {"t/file": F1},
    "COPY f1 /t/file": {"t/file": F1},
    "COPY lnf /o": {"o": F1},
    "COPY lnd /o": of_d("o"),
    "COPY lnf lnd /o/": of_d("o", **{"/lnf": F1}),
    "COPY nomatch* /o/": {},
    "COPY f? /o/": O | {"o/f1": F1, "o/f2": F2},
    "COPY arr[[]0].txt /o/": O | {"o/arr[0].txt": A},
    "COPY arr[0].txt /o/": {},
    'COPY ["sp ace","/o/"]': O | {"o/sp ace": A},
    "COPY ../../f1 /o": {"o": F1},
    "COPY /f1 /o": {"o": F1},
    "COPY --chown=bob f1 /o": {"o": "f 0644 7:8 3"},
    "COPY --chown=bob:grp d /o/p": {"o": "d 0755 7:9"} | of_d("o/p", "7:9"),
    "COPY --chown=5 f1 /n/m/o": {"n": "d 0755 5:5", "n/m": "d 0755 5:5", "n/m/o": "f 0644 5:5 3"},
    "COPY --chown=zzz f1 /o": {"o": F1},
    "COPY --chown=7:zz f1 /o": {"o": "f 0644 7:7 3"},
    "COPY --chmod=0640 d /o": {
        path: text if text[0] == "l" else re.sub(r"0[67]..", "0640", text, count=1) for path, text in of_d("o").items()
    },
    "COPY --chmod=u=rwX,go=rX d /o": of_d("o", **{"/sub": "d 0755 0:0", "/sub/b": "f 0644 0:0 2"}),
    "COPY --parents d/sub/b f1 /o/": O
    | {"o/d": "d 2750 0:0", "o/d/sub": "d 0700 0:0", "o/d/sub/b": "f 0600 0:0 2", "o/f1": F1},
    "COPY --parents ./d/./sub/* /o/": O | {"o/sub": "d 0700 0:0", "o/sub/b": "f 0600 0:0 2"},
    "COPY --parents **/a /o/": O | {"o/d": "d 2750 0:0", "o/d/a": A, "o/d2": "d 0755 0:0", "o/d2/a": "f 0644 0:0 4"},
    "COPY --exclude=sub --exclude=f* d /o/": of_d("o", **{"/sub": "", "/sub/b": "", "/fifo": ""}),
    "COPY --exclude=**/b d /o/": of_d("o", **{"/sub/b": ""}),
    "COPY --link f1 /t/lnd/x": {"t/lnd": "d 0755 0:0", "t/lnd/x": F1},
    "COPY --link d2 /t/exist": {"t/exist": "d 0755 0:0"} | within("t/exist", D2),
    "COPY empty /o": O,
    "COPY empty /o/": O,
    "COPY <<f /o/\nhi\nf": O | {"o/f": F1},
    "COPY <<f /o\nhi\nf": {"o": F1},
    "COPY --chmod=755 --chown=1:2 <<f <<g /o/\nhi\nf\nx\ng": {
        "o": "d 0755 1:2",
        "o/f": "f 0755 1:2 3",
        "o/g": "f 0755 1:2 2",
    },
    "WORKDIR /t/lnd\nCOPY f1 x": {"t/real/x": F1},
    "WORKDIR /q\nCOPY f1 .": {"q": "d 0755 0:0", "q/f1": F1},
    "USER bob\nCOPY f1 /o\nWORKDIR /home/bob/x": {
        "home": "d 0755 7:8",
        "home/bob": "d 0755 7:8",
        "home/bob/x": "d 0755 7:8",
        "o": F1,
    },
    "COPY d/sub /t": {"t/b": "f 0600 0:0 2"},
    "COPY f1 /bin": {"bin/f1": F1},
    "COPY d/fifo /o": {"o": "? 0644 0:0"},
    "COPY f1 /o/../p": {"p": F1},
    'COPY f1 ""': {"f1": F1},
    "ADD f1 /o": {"o": F1},
    "COPY d2/** /o/": O | within("o", D2),
    "COPY . /o": O
    | within(
        "o",
        {
            ".dockerignore": "f 0644 0:0 21",
            "arr[0].txt": A,
            "d2": "d 0755 0:0",
            "dang": "l 0777 0:0 ->nope",
            "empty": "d 0755 0:0",
            "f1": F1,
            "f2": F2,
            "lnabs": "l 0777 0:0 ->/etc/passwd",
            "lnd": "l 0777 0:0 ->d",
            "lnf": "l 0777 0:0 ->f1",
            "sp ace": A,
        },
    )
    | within("o/d2", D2)
    | of_d("o/d", **{"": "d 2750 0:0"}),
}

REFUSED = {
    "COPY f1 /t/file/": "mkdir /t/file: not a directory",
    "COPY d /t/file": "cannot copy to non-directory: /t/file",
    "COPY lnabs /o": '"/lnabs": not found',
    "COPY dang /o": '"/dang": not found',
    "COPY nomatch /o/": '"/nomatch": not found',
    "COPY --from=nosuch:1 a /b": "nosuch:1: failed to resolve source metadata for docker.io/library/nosuch:1: ",
}

ARCHIVE = {
    "o/d": "d 0750 11:12 mt1234567890",
    "o/d/f": "f 0644 0:0 1 mt1234567890",
    "o/d/h": "h 0644 0:0 ->o/d/f mt1234567890",
    "o/d/l": "l 0777 0:0 ->/etc/x mt1234567890",
}
OWNED = {path: re.sub(r"\d+:\d+", "5:6", text) for path, text in ARCHIVE.items()}
NO_CHECKSUM = "sha256:" + "0" * 64

ADDS = {
    "ADD t.tar /o": O | ARCHIVE,
    "ADD t.tar /o/": O | ARCHIVE,
    "ADD t.tgz /o": O | ARCHIVE,
    "ADD t.bz2 /o": O | ARCHIVE,
    "ADD t.xz /o": O | ARCHIVE,
    "ADD t.zst /o": O | ARCHIVE,
    "ADD noext /o": O | ARCHIVE,
    "ADD plain.gz /o/": O | {"o/plain.gz": "f 0644 0:0"},
    "ADD empty.tar.gz /o/": O | {"o/empty.tar.gz": "f 0644 0:0"},
    "ADD --chown=5:6 t.tar /o": {"o": "d 0755 5:6"} | OWNED,
    "ADD --chmod=600 t.tar /o": O | ARCHIVE,
    "ADD t.tar /t": {path.replace("o/", "t/"): text.replace("o/", "t/") for path, text in ARCHIVE.items()},
    "ADD s /o": O,
    "ADD --unpack=false t.tgz /o/": O | {"o/t.tgz": "f 0644 0:0"},
    "ADD URL/t.tgz /o/": O | {"o/t.tgz": "f 0600 0:0"},
    "ADD URL/t.tgz /o": {"o": "f 0600 0:0"},
    "ADD --unpack URL/t.tgz /o/": O | ARCHIVE,
    "ADD --checksum=DIGEST URL/t.tgz /o/": O | {"o/t.tgz": "f 0600 0:0"},
    "ADD URL/ /o/": O | {"o/__unnamed__": "f 0600 0:0 mt0"},
    "ADD --chmod=755 --chown=3:4 URL/t.tgz /o": {"o": "f 0755 3:4"},
    "COPY t.tgz /o/": O | {"o/t.tgz": "f 0644 0:0"},
    "ADD t.tar t.tgz /o/": O | ARCHIVE,
}

REFUSED_ADDS = {
    f"ADD --checksum={NO_CHECKSUM} URL/t.tgz /o/": f"digest mismatch DIGEST: {NO_CHECKSUM}",
    "ADD URL/nope /o/": "invalid response status 404",
}

NAMES = ".dockerignore .env Dockerfile README.md a/.env a/x.md a/b/y.md a/b/keep.txt a/b/c/z.md".split()
IGNORED = {
    "*.md": ["README.md"],
    "**/*.md": ["README.md", "a/b/c/z.md", "a/b/y.md", "a/x.md"],
    "**/*.md\n!a/b/y.md": ["README.md", "a/b/c/z.md", "a/x.md"],
    "a\n!a/b": ["a/.env", "a/x.md"],
    "a/b\n!a/b/keep.txt": ["a/b/c", "a/b/c/z.md", "a/b/y.md"],
    "*\n!a/**/*.txt\n!busybox": [
        *".dockerignore .env Dockerfile README.md a/.env a/b/c a/b/c/z.md a/b/y.md a/x.md".split()
    ],
    ".env": [".env"],
    "**/.env\n # x\n#y": [".env", "a/.env"],
    "Dockerfile\n.dockerignore": [".dockerignore", "Dockerfile"],
    "/a/b/": ["a/b", "a/b/c", "a/b/c/z.md", "a/b/keep.txt", "a/b/y.md"],
    "a/../README.md": ["README.md"],
    "!README.md\n*.md": ["README.md"],
}


def write_context(folder):
    (folder / "f1").write_text("one")
    os.chown(folder / "f1", 1234, 1234)
    (folder / "f2").write_text("two")
    (folder / "f2").chmod(0o4755)
    d = folder / "d"
    (d / "sub").mkdir(parents=True)
    d.chmod(0o2750)
    (d / "a").write_text("a")
    os.link(d / "a", d / "hard")
    (d / "lna").symlink_to("a")
    os.mkfifo(d / "fifo", 0o644)
    (d / "sub/b").write_text("bb")
    (d / "sub/b").chmod(0o600)
    (d / "sub").chmod(0o700)
    (folder / "d2").mkdir()
    (folder / "d2/a").write_text("2222")
    (folder / "d2/c").write_text("c")
    (folder / "sp ace").write_text("s")
    (folder / "arr[0].txt").write_text("0")
    for name, target in {"lnf": "f1", "lnd": "d", "lnabs": "/etc/passwd", "dang": "nope"}.items():
        (folder / name).symlink_to(target)
    (folder / "empty").mkdir()
    (folder / ".dockerignore").write_text("# nothing of interest")


def write_base(folder):
    for name in ("etc", "bin", "t/exist", "t/real"):
        (folder / name).mkdir(parents=True)
    (folder / "etc/passwd").write_text(PASSWD)
    (folder / "etc/group").write_text(GROUP)
    (folder / "t/exist").chmod(0o1777)
    (folder / "t/file").write_text("old\n")
    (folder / "t/lnd").symlink_to("real")
    (folder / "t/lnf").symlink_to("file")


def archive():
    members = (
        ("d", b"", {"type": tarfile.DIRTYPE, "mode": 0o750, "uid": 11, "gid": 12}),
        ("d/f", b"f", {}),
        ("d/h", b"", {"type": tarfile.LNKTYPE, "linkname": "d/f"}),
        ("d/l", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/x", "mode": 0o777}),
    )
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data, header in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1234567890
            for key, value in header.items():
                setattr(info, key, value)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Kitchen(Builds):
    """Builds many instructions as stages of one Dockerfile, on one base."""

    def __init__(self, folder):
        super().__init__(folder)
        self.base = folder / "base"
        write_base(self.base)

    def stages(self, bodies, **options):
        """The file system that each instruction makes, as `describe` shows it, and the base's under ""."""
        text = "FROM scratch AS base\nCOPY --from=files / /\n"
        text += "".join(f"FROM base AS s{n}\n{body}\n" for n, body in enumerate(bodies))
        text += "FROM scratch\nCOPY --from=base / /base/\n"
        text += "".join(f"COPY --from=s{n} / /s{n}/\n" for n in range(len(bodies)))
        contexts = {"files": str(self.base), **options.pop("contexts", {})}
        tree = self.tree(self.build(text, contexts=contexts, **options).image)
        names = {"": "base"} | {body: f"s{n}" for n, body in enumerate(bodies)}
        return {body: describe(tree.children[name.encode()], mtimes=True) for body, name in names.items()}

    def refused(self, body):
        with pytest.raises(FirekilnError) as caught:
            self.build(f"FROM scratch AS base\nCOPY --from=files / /\nFROM base\n{body}\n", contexts=self.files)
        return caught.value

    @property
    def files(self):
        return {"files": str(self.base)}


def changes(made, body):
    """What is not in the base, or not so; the times of the day aside."""
    before, after = made[""], made[body]
    return {path: _timeless(text) for path, text in after.items() if _bare(before.get(path)) != _bare(text)}


def _bare(text):
    return text and re.sub(r" mt\d+$", "", text)


def _timeless(text):
    return re.sub(r" mt(?!1234567890$|0$)\d+$", "", text)


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    made = Kitchen(tmp_path_factory.mktemp("copy"))
    write_context(made.context)
    return made


@pytest.fixture(scope="module")
def copied(kitchen):
    return kitchen.stages(list(COPIES))


@pytest.mark.parametrize("body", COPIES)
def test_copy_makes_what_buildkit_makes(copied, body):
    assert changes(copied, body) == COPIES[body]


@pytest.mark.parametrize("body", REFUSED)
def test_copy_refuses_what_buildkit_refuses(kitchen, body):
    error = kitchen.refused(body)
    assert REFUSED[body] in error.message


@pytest.fixture(scope="module")
def larder(tmp_path_factory):
    """A context of archives, a server that has the same ones, and the digest of t.tgz."""
    made = Kitchen(tmp_path_factory.mktemp("add"))
    data = archive()
    packed = {
        "t.tar": data,
        "t.tgz": gzip.compress(data, mtime=0),
        "t.bz2": bz2.compress(data),
        "t.xz": lzma.compress(data),
        "t.zst": zstd.compress(data),
        "noext": gzip.compress(data, mtime=0),
        "plain.gz": gzip.compress(b"plain", mtime=0),
        "empty.tar.gz": b"",
    }
    for name, content in packed.items():
        (made.context / name).write_bytes(content)
    (made.context / "s").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=made.context))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    digest = "sha256:" + hashlib.sha256(packed["t.tgz"]).hexdigest()
    yield made, lambda text: text.replace("URL", url).replace("DIGEST", digest)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def added(larder):
    kitchen, filled_in = larder
    made = kitchen.stages([filled_in(body) for body in ADDS])
    return {"": made[""]} | {body: made[filled_in(body)] for body in ADDS}


def without_sizes(nodes):
    """The sizes of compressed files are zlib's business."""
    return {path: re.sub(r" \d+(?= mt|$)", "", text) if "->" not in text else text for path, text in nodes.items()}


@pytest.mark.parametrize("body", ADDS)
def test_add_makes_what_buildkit_makes(added, body):
    assert without_sizes(changes(added, body)) == without_sizes(ADDS[body])


@pytest.mark.parametrize("body", REFUSED_ADDS)
def test_add_refuses_what_buildkit_refuses(larder, body):
    kitchen, filled_in = larder
    assert filled_in(REFUSED_ADDS[body]) in kitchen.refused(filled_in(body)).message


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What `COPY .` brings of a named context, for each of its ignore files."""
    folder = tmp_path_factory.mktemp("ignore")
    kitchen = Kitchen(folder)
    contexts = {}
    for number, ignore in enumerate(IGNORED):
        for name in NAMES:
            path = folder / f"c{number}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(ignore if name == ".dockerignore" else "x")
        contexts[f"c{number}"] = str(folder / f"c{number}")
    made = kitchen.stages([f"COPY --from={name} . /o/" for name in contexts], contexts=contexts)
    return {ignore: made[f"COPY --from=c{number} . /o/"] for number, ignore in enumerate(IGNORED)}


@pytest.mark.parametrize("ignore", IGNORED)
def test_an_ignore_file_leaves_out_what_buildkit_leaves_out(left, ignore):
    everything = {*NAMES, "a", "a/b", "a/b/c"}
    brought = {path.removeprefix("o/") for path in left[ignore] if path.startswith("o/")}
    assert brought == everything - set(IGNORED[ignore])


def test_the_dockerfiles_own_ignore_file_goes_before_the_contexts(tmp_path):
    kitchen = Kitchen(tmp_path)
    (kitchen.context / "a").write_text("a")
    (kitchen.context / "b").write_text("b")
    (kitchen.context / ".dockerignore").write_text("a\n")
    outside = tmp_path / "elsewhere.Dockerfile"
    outside.write_text("FROM scratch\nCOPY . /\n")
    image = kitchen.build("", dockerfile=outside).image
    assert set(kitchen.tree(image).children) == {b".dockerignore", b"b"}
    (tmp_path / "elsewhere.Dockerfile.dockerignore").write_text("b\n.dockerignore\n")
    image = kitchen.build("", dockerfile=outside).image
    assert set(kitchen.tree(image).children) == {b"a"}
