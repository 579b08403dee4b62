"""Whole builds without a step that runs, from every kind of context: what COPY finds there, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import shutil
import subprocess
import tarfile

import pytest

import firekiln
from firekiln.build.events import Started
from firekiln.errors import BuildError, ImageFormatError, ImageNotFoundError, RootfsError, UsageError
from firekiln.oci.archive import layout as write_layout
from firekiln.oci.archive import make_layer
from firekiln.rootfs import lookup
from firekiln.rootfs.compression import Compression
from firekiln.rootfs.tree import File, walk
from firekiln.store import Store
from gitserver import DAEMON, git, served
from httpserver import serve_folder

DOCKERFILE = "FROM scratch\nCOPY . /\n"


class Builds:
    def __init__(self, folder):
        self.root = folder / "store"
        self.events = []

    def __call__(self, context, **options):
        self.events = []
        return firekiln.build(context, store=self.root, on_event=self.events.append, **options)

    def ran(self):
        return [event.task.name for event in self.events if isinstance(event, Started)]

    def tree(self, result):
        with Store.open(self.root) as store:
            return store.layers.merged(result.image.layers)

    def files(self, result):
        return {path.decode() for path, _ in walk(self.tree(result))}

    def read(self, result, path):
        return lookup.resolve(self.tree(result), path.encode()).node.read()


@pytest.fixture
def build(tmp_path):
    made = Builds(tmp_path)
    yield made
    if (made.root / "tmp").exists():
        assert list((made.root / "tmp").iterdir()) == []


def archive(**members):
    """A tar; a member's value is its text, or a TarInfo."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, value in members.items():
            info = value if isinstance(value, tarfile.TarInfo) else tarfile.TarInfo(name)
            content = b"" if isinstance(value, tarfile.TarInfo) else value.encode()
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
def test_a_tar_on_stdin_is_the_context_and_holds_the_dockerfile(build, pack):
    data = pack(archive(Dockerfile=DOCKERFILE, f="content"))
    result = build(io.BytesIO(data))
    assert build.files(result) == {"Dockerfile", "f"}
    assert build.read(result, "f") == b"content"
    assert build(io.BytesIO(data)).digest == result.digest


def test_an_archives_owners_and_modes_stay_as_with_buildkit(build):
    info = tarfile.TarInfo("f")
    info.uid, info.gid, info.mode = 1234, 5678, 0o640
    result = build(io.BytesIO(archive(Dockerfile=DOCKERFILE, f=info)))
    meta = build.tree(result).children[b"f"].meta
    assert (meta.uid, meta.gid, meta.mode) == (1234, 5678, 0o640)


def test_the_dockerfile_and_its_own_ignore_file_are_found_in_an_archive(build):
    members = {
        "sub/My.Dockerfile": DOCKERFILE,
        "sub/My.Dockerfile.dockerignore": "no*\nsub",
        ".dockerignore": "*",
        "no": "",
        "yes": "",
    }
    result = build(io.BytesIO(archive(**members)), dockerfile="sub/My.Dockerfile")
    assert build.files(result) == {".dockerignore", "yes"}
    result = build(io.BytesIO(archive(**{"Dockerfile": DOCKERFILE, ".dockerignore": "no\n", "no": "", "yes": ""})))
    assert build.files(result) == {"Dockerfile", ".dockerignore", "yes"}


def test_a_dockerfile_on_stdin_has_an_empty_context(build):
    result = build(io.BytesIO(b"FROM scratch\nCOPY <<EOF /f\nhello\nEOF\n"))
    assert build.files(result) == {"f"}
    with pytest.raises(BuildError, match='"/x": not found'):
        build(io.BytesIO(b"FROM scratch\nCOPY x /\n"))
    with pytest.raises(UsageError, match="ambiguous Dockerfile source"):
        build(io.BytesIO(b"FROM scratch\n"), dockerfile="Dockerfile")


def test_an_archive_that_is_damaged_or_hostile_is_refused(build):
    data = gzip.compress(archive(Dockerfile=DOCKERFILE, f="content" * 1000))
    with pytest.raises(RootfsError, match="stdin: the gzip stream is damaged or cut off"):
        build(io.BytesIO(data[:-20]))
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    passwd = build(io.BytesIO(archive(Dockerfile="FROM scratch\nCOPY etc/f /\n", link=link, **{"../link/f": "x"})))
    assert build.files(passwd) == {"f"}, "links and dots lead nowhere but within the archive"
    with pytest.raises(BuildError, match="open Dockerfile: no such file or directory in stdin"):
        build(io.BytesIO(archive(f="")))


def test_a_url_is_an_archive_or_a_dockerfile(build, tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.tgz").write_bytes(gzip.compress(archive(Dockerfile=DOCKERFILE, f="content")))
    (folder / "plain").write_text("FROM scratch\nCOPY <<EOF /g\nEOF\n")
    with serve_folder(folder) as url:
        assert build.files(build(f"{url}/a.tgz")) == {"Dockerfile", "f"}
        assert "[internal] load remote build context" in build.ran()
        assert build.files(build(f"{url}/plain")) == {"g"}
        assert build.files(build(f"{url}/a.tgz", dockerfile=f"{url}/plain")) == {"g"}
        assert build.files(build(None, dockerfile=f"{url}/plain")) == {"g"}
        text = b"FROM scratch\nCOPY --from=x / /\n"
        assert build.files(build(None, dockerfile=text, contexts={"x": f"{url}/a.tgz"})) == {"Dockerfile", "f"}
        assert build.files(build(None, dockerfile=text, contexts={"x": f"{url}/plain"})) == {"plain"}
        with pytest.raises(BuildError, match="invalid response status 404"):
            build(f"{url}/nope")


def test_a_path_that_is_nothing_is_refused(build, tmp_path):
    with pytest.raises(BuildError, match="unable to prepare context"):
        build(str(tmp_path / "nope"))
    with pytest.raises(UsageError, match="no such folder"):
        build(None, dockerfile=b"FROM x\n", contexts={"x": str(tmp_path / "nope")})


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repositories") / "repo.git"
    (folder / "sub").mkdir(parents=True)
    git(folder, "init", "--quiet")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / ".dockerignore").write_text("ignored\n")
    (folder / "ignored").touch()
    (folder / "sub/Dockerfile").write_text("FROM scratch\nCOPY f /sub\n")
    (folder / "sub/f").write_text("one")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    git(folder, "checkout", "--quiet", "-b", "dev")
    (folder / "sub/f").write_text("two")
    git(folder, "commit", "--quiet", "-am", "two")
    git(folder, "checkout", "--quiet", "main")
    with served(folder.parent) as url:
        yield f"{url}/repo.git"


@pytest.mark.skipif(not DAEMON.exists(), reason="needs git and its daemon")
class TestGit:
    def test_a_repository_is_a_context_without_its_git_dir(self, build, repository):
        assert build.files(build(repository)) == {".dockerignore", "Dockerfile", "sub", "sub/Dockerfile", "sub/f"}

    @pytest.mark.parametrize("how", ["#dev:sub", "?ref=dev&subdir=sub", "?branch=dev#:sub"])
    def test_ref_and_folder_may_be_a_fragment_or_a_query(self, build, repository, how):
        result = build(repository + how)
        assert build.files(result) == {"sub"}
        assert build.read(result, "sub") == b"two"

    def test_the_git_dir_can_be_kept(self, build, repository):
        kept = build(repository, build_args={"BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1"})
        assert ".git/HEAD" in build.files(kept)

    def test_a_named_context_may_be_a_repository(self, build, repository):
        text = b"FROM x AS base\nFROM scratch\nCOPY --from=base /f /g\n"
        result = build(None, dockerfile=text, contexts={"x": f"{repository}#dev:sub"})
        assert build.read(result, "g") == b"two"

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ("#dev:../..", "leads out of the repository"),
            ("#--upload-pack=x", "is no git reference"),
            ("#nope", "couldn't find remote ref nope"),
            ("?colour=red", "unexpected query"),
        ],
    )
    def test_a_hostile_or_wrong_reference_is_refused(self, build, repository, how, message):
        with pytest.raises((BuildError, UsageError), match=message):
            build(repository + how)


def test_a_folder_serves_from_as_a_base_and_copy_as_a_source(build, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "f").write_text("content")
    text = b"FROM files\nCOPY --from=files f /g\n"
    result = build(None, dockerfile=text, contexts={"files": str(folder)})
    assert build.files(result) == {"f", "g"}
    document = result.image.image
    assert len(document.diff_ids) == sum(not line.empty_layer for line in document.history)
    (folder / "f").write_text("other")
    assert build.read(build(None, dockerfile=text, contexts={"files": str(folder)}), "g") == b"other"


@pytest.fixture
def layout(build, tmp_path):
    """An image with a deletion, exported as an OCI layout in a folder."""
    (tmp_path / "c").mkdir()
    for name in ("a", "b"):
        (tmp_path / "c" / name).write_text(name)
    (tmp_path / "c" / "Dockerfile").write_text(
        'FROM scratch\nCOPY a b /d/\nCOPY <<EOF /d/b\nnew\nEOF\nENV K=v\nCMD ["x"]\n'
    )
    image = build(tmp_path / "c", tags=["web:1"])
    with Store.open(build.root) as store:
        layers = [
            make_layer(store.layers.tree(layer), tmp_path / f"layer.{number}", Compression.GZIP)
            for number, layer in enumerate(image.image.layers)
        ]
    return write(tmp_path / "layout", write_layout(image.image.image, layers, image.references))


def write(folder, tree):
    for path, node in walk(tree):
        place = folder / path.decode()
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(node, File):
            place.write_bytes(node.read())
    return folder


@pytest.mark.parametrize("how", ["", ":1", "@{digest}"])
def test_an_image_of_a_layout_is_a_base_with_its_config_and_history(build, layout, how):
    digest = json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"]
    shutil.rmtree(build.root)  # it comes from the layout alone
    name = f"oci-layout://{layout}{how.format(digest=digest)}"
    text = b"FROM base\nCOPY --from=base /d/b /copy\n"
    result = build(None, dockerfile=text, contexts={"base": name})
    assert build.files(result) == {"d", "d/a", "d/b", "copy"}
    assert build.read(result, "d/b") == b"new\n"
    assert result.image.image.config.cmd == ("x",)
    assert "K=v" in result.image.image.config.env
    assert len(result.image.image.history) == 5
    again = build(None, dockerfile=text, contexts={"base": name})
    assert again.digest == result.digest
    with Store.open(build.root) as store:
        assert [image.digest for image in store.images.list()] == [result.digest], "the base bears no name"


def largest(layout):
    return max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda layout: flip(largest(layout)), "damaged"),
        (lambda layout: largest(layout).write_bytes(b""), "damaged|has 0 bytes|cut off"),
        (lambda layout: largest(layout).open("ab").write(b"x"), "larger than"),
        (lambda layout: largest(layout).unlink(), "lacks the blob"),
        (lambda layout: (layout / "oci-layout").unlink(), "no OCI image layout"),
        (lambda layout: (layout / "index.json").write_text("[]"), "no JSON object"),
        (lambda layout: (layout / "index.json").write_text('{"manifests": [{}]}'), "malformed"),
    ],
    ids=["flipped", "emptied", "longer", "missing", "no-layout", "no-index", "no-descriptor"],
)
def test_a_damaged_layout_is_refused_and_leaves_nothing(build, layout, damage, message):
    shutil.rmtree(build.root)
    damage(layout)
    with pytest.raises((ImageFormatError, RootfsError), match=message):
        build(None, dockerfile=b"FROM base\n", contexts={"base": f"oci-layout://{layout}"})
    with Store.open(build.root) as store:
        assert list(store.blobs.all()) == []


def test_a_layer_whose_diff_id_is_anothers_is_refused(build, layout):
    """The config is forged with its digest put right: only unpacking tells."""
    blobs = layout / "blobs/sha256"

    def rewrite(digest, change):
        path = blobs / digest.partition(":")[2]
        document = json.loads(path.read_bytes())
        change(document)
        data = json.dumps(document).encode()
        made = hashlib.sha256(data).hexdigest()
        (blobs / made).write_bytes(data)
        return {"digest": f"sha256:{made}", "size": len(data)}

    index = json.loads((layout / "index.json").read_bytes())

    def forge(document):
        document["rootfs"]["diff_ids"][0] = "sha256:" + "0" * 64

    def swap(manifest):
        manifest["config"] |= rewrite(manifest["config"]["digest"], forge)

    index["manifests"][0] |= rewrite(index["manifests"][0]["digest"], swap)
    (layout / "index.json").write_text(json.dumps(index))
    shutil.rmtree(build.root)
    with pytest.raises(ImageFormatError, match=r"is, unpacked, sha256:\w+, not sha256:0000"):
        build(None, dockerfile=b"FROM base\n", contexts={"base": f"oci-layout://{layout}"})


def test_what_a_layout_lacks_is_said_with_what_it_has(build, layout):
    with pytest.raises(ImageNotFoundError, match="no image 2") as caught:
        build(None, dockerfile=b"FROM base\n", contexts={"base": f"oci-layout://{layout}:2"})
    assert "it has 1" in caught.value.hint
    with pytest.raises(RootfsError, match="No such file"):
        build(None, dockerfile=b"FROM base\n", contexts={"base": "oci-layout:///nonexistent"})


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")
def test_a_layout_that_skopeo_wrote_is_read(build, layout, tmp_path):
    written = tmp_path / "skopeo"
    argv = ["skopeo", "--insecure-policy", "copy", "--dest-compress", f"oci:{layout}:1", f"oci:{written}:w"]
    subprocess.run(argv, check=True, capture_output=True)
    shutil.rmtree(build.root)
    result = build(None, dockerfile=b"FROM base\n", contexts={"base": f"oci-layout://{written}:w"})
    assert build.files(result) == {"d", "d/a", "d/b"}
