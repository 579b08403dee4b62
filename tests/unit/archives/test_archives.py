"""`save`, `load` and `import` on stores of their own, checked against skopeo and buildah where they are there."""

import bz2
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile

import pytest

from firekiln import api
from firekiln.build.clamp import clamp
from firekiln.errors import DockerfileError, FirekilnError, ImageNotFoundError, ReferenceFormatError, UsageError
from firekiln.rootfs import directory
from firekiln.rootfs.compare import differences
from firekiln.rootfs.lookup import get
from firekiln.rootfs.tree import Whiteout
from firekiln.store import Store
from imagearchives import HOSTILE, OldArchive, layer
from machines import put_image
from trees import CAPABILITY, file, folder, link

BASE = folder(
    {
        b"bin": folder(
            {
                b"app": file(bytes(range(256)) * 1000, mode=0o4755, mtime_ns=1_700_000_000_123_456_789),
                b"ping": file(b"x" * 5000, mode=0o755, xattrs=((b"security.capability", CAPABILITY),)),
                b"sh": link(b"app"),
            }
        ),
        b"old": folder({b"gone": file(b"1")}),
    }
)
TOP = folder({b"old": folder({b"gone": Whiteout()}), b"new": file(b"2", uid=1000, gid=1000)})
needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def other(tmp_path):
    with Store.open(tmp_path / "other") as opened:
        yield opened


@pytest.fixture
def image(store):
    put_image(store, "base:1", BASE)
    return put_image(store, "reg.example:5000/team/app:2", BASE, TOP, cmd=("app",), labels={"a": "b"})


def contents(path):
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}


def unpacked(path, folder):
    with tarfile.open(path) as archive:
        archive.extractall(folder)
    return folder


def skopeo(*words):
    argv = ["skopeo", "--insecure-policy", *map(str, words)]
    return subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout


@pytest.mark.parametrize("style", ["docker-archive", "oci-archive"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_what_is_saved_here_and_loaded_there_has_the_same_digest_and_name(image, other, tmp_path, style, compression):
    root = tmp_path / "store"
    api.save(image.references, tmp_path / "x", format=style, compression=compression, store=root)
    (loaded,) = api.load(tmp_path / "x", store=other)
    assert loaded.references == loaded.image.references == image.references
    assert loaded.image.digest == image.digest
    with Store.open(root) as store:
        merged = store.layers.merged(image.layers)
    assert not list(differences(other.layers.merged(loaded.image.layers), merged))


def test_the_same_image_gives_the_same_archive(store, image, tmp_path):
    for name in ("a", "b"):
        api.save(image.references, tmp_path / name, store=store)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    pieces = []
    api.save(image.references, pieces.append, store=store)
    assert b"".join(pieces) == (tmp_path / "a").read_bytes()


def test_a_docker_archive_is_a_layout_whose_manifest_json_tells_the_same(store, image, tmp_path):
    api.save(["base:1", image.digest], tmp_path / "x", store=store)
    found = contents(tmp_path / "x")
    for name, data in found.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"
    base, app = json.loads(found["manifest.json"])
    assert (base["RepoTags"], app["RepoTags"]) == (["base:1"], None)
    assert base["Layers"] == app["Layers"][:1]
    for entry in (base, app):
        config = json.loads(found[entry["Config"]])
        assert [f"blobs/{diff_id.replace(':', '/')}" for diff_id in config["rootfs"]["diff_ids"]] == entry["Layers"]
    named, unnamed = json.loads(found["index.json"])["manifests"]
    assert named["annotations"]["io.containerd.image.name"] == "docker.io/library/base:1"
    assert "annotations" not in unnamed


def test_several_names_of_one_image_are_all_kept(store, other, tmp_path):
    put_image(store, "a:1", BASE)
    store.images.tag("a:1", "b:2")
    api.save(["a:1", "b:2"], tmp_path / "x", store=store)
    (loaded,) = api.load(tmp_path / "x", store=other)
    assert loaded.references == ("docker.io/library/a:1", "docker.io/library/b:2")


def test_nothing_is_written_where_an_image_is_missing(store, image, tmp_path):
    with pytest.raises(ImageNotFoundError):
        api.save(["base:1", "nope"], tmp_path / "x", store=store)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_an_archive_is_loaded_from_a_stream_and_from_a_file_compressed_or_not(store, other, image, tmp_path, pack):
    api.save(image.references, tmp_path / "x", store=store)
    packed = pack((tmp_path / "x").read_bytes())
    (loaded,) = api.load(io.BytesIO(packed), store=other)
    assert loaded.image.digest == image.digest
    (tmp_path / "y").write_bytes(packed)
    assert api.load(tmp_path / "y", store=other)[0].image.digest == image.digest
    assert list((other.root / "tmp").rglob("*.*")) == []


def test_a_layout_in_a_folder_is_loaded_too(store, other, image, tmp_path):
    api.save(image.references, tmp_path / "x", format="oci-archive", store=store)
    (loaded,) = api.load(unpacked(tmp_path / "x", tmp_path / "layout"), store=other)
    assert loaded.image.digest == image.digest


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_archive_of_an_older_docker_is_loaded(other, tmp_path, pack):
    gone = tarfile.TarInfo(".wh.a")
    made = OldArchive(layers=[layer(("a", b"1"), ("b", b"2")), layer(gone, ("c", b"3"))], compress=pack)
    (loaded,) = api.load(made.write(tmp_path / "x"), store=other)
    tree = other.layers.merged(loaded.image.layers)
    assert {name: node.read() for name, node in tree.children.items()} == {b"b": b"2", b"c": b"3"}
    assert loaded.image.references == ("docker.io/library/old:1",)
    assert loaded.image.image.config.cmd == ("app",)


def test_layers_that_are_links_to_others_are_followed_within_the_archive(other, tmp_path):
    same = layer(("a", b"1"))
    made = OldArchive(layers=[same, same])
    del made.files["1/layer.tar"]
    made.symlinks["1/layer.tar"] = "../0/layer.tar"
    (loaded,) = api.load(made.write(tmp_path / "x"), store=other)
    assert len(loaded.image.layers) == 2


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_in_one_line_and_leaves_nothing(other, tmp_path, case):
    make, message = HOSTILE[case]
    make(tmp_path / "x")
    with pytest.raises(FirekilnError) as error:
        api.load(tmp_path / "x", store=other)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert other.images.list() == []
    assert list((other.root / "tmp").rglob("*.*")) == []


def test_of_an_index_the_wanted_platform_is_loaded(store, other, tmp_path):
    folders = []
    for architecture in ("amd64", "arm64"):
        made = OldArchive(layers=[layer(("arch", architecture.encode()))], tags=["multi:1"])
        made.config = made.config.replace(b"amd64", architecture.encode())
        made.name = made.manifest[0]["Config"] = hashlib.sha256(made.config).hexdigest() + ".json"
        folders.append(made.write(tmp_path / architecture))
        api.load(folders[-1], store=store, platform=f"linux/{architecture}")
    layout = tmp_path / "layout"
    entries = []
    for image in store.images.list():
        api.save([image.digest], tmp_path / "x", format="oci-archive", store=store)
        unpacked(tmp_path / "x", layout)
        entries += json.loads((layout / "index.json").read_text())["manifests"]
    document = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    digest = hashlib.sha256(document).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(document)
    listed = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": f"sha256:{digest}"}
    listed |= {"size": len(document), "annotations": {"io.containerd.image.name": "docker.io/library/multi:1"}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [listed]}))
    (loaded,) = api.load(layout, platform="linux/arm64", store=other)
    assert get(other.layers.merged(loaded.image.layers), b"arch").read() == b"arm64"
    with pytest.raises(ImageNotFoundError, match="linux/s390x"):
        api.load(layout, platform="linux/s390x", store=other)


def test_a_root_file_system_becomes_an_image_of_one_layer(other, tmp_path):
    (tmp_path / "x").write_bytes(layer(("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), (".wh.kept", b"1")))
    changes = ["ENV A=b PATH=/bin", 'CMD ["app", "x"]', "EXPOSE 80", "LABEL l=v", "USER bob", "VOLUME /v"]
    made = api.import_image(tmp_path / "x", "imported:1", changes=changes, message="from a disk", store=other)
    config = made.image.config
    assert (sorted(config.env), config.cmd) == (["A=b", "PATH=/bin"], ("app", "x"))
    assert config.exposed_ports == ("80/tcp",)
    assert (config.labels, config.user, config.volumes) == ({"l": "v"}, "bob", ("/v",))
    assert made.references == ("docker.io/library/imported:1",)
    assert [line.comment for line in made.image.history] == ["from a disk"]
    tree = other.layers.merged(made.layers)
    # An archive of a whole file system has no whiteouts: the file is what it is called.
    assert get(tree, b".wh.kept").read() == b"1"


def test_an_import_without_changes_has_no_config(other):
    made = api.import_image(io.BytesIO(gzip.compress(layer(("a", b"1")))), store=other)
    assert made.image.config.to_json() == {}
    assert made.references == ()
    assert [line.comment for line in made.image.history] == ["Imported from -"]


@pytest.mark.parametrize("change", ["RUN x", "COPY a b", "FROM y", "ARG a", "CMD a\nFROM scratch", "NOPE 1"])
def test_a_change_does_nothing_but_change_the_config(other, change):
    with pytest.raises(DockerfileError):
        api.import_image(io.BytesIO(layer(("a", b"1"))), changes=[change], store=other)
    assert other.images.list() == []


def test_an_import_is_given_no_digest_and_no_missing_file(other):
    with pytest.raises(ReferenceFormatError):
        api.import_image(io.BytesIO(layer(("a", b"1"))), f"a@sha256:{'0' * 64}", store=other)
    for call in (api.import_image, api.load):
        with pytest.raises(UsageError, match="no such file"):
            call("/nowhere/x.tar", store=other)


@needs_skopeo
def test_skopeo_reads_what_is_saved_and_knows_it_by_the_same_id(store, image, tmp_path):
    api.save(image.references, tmp_path / "x", store=store)
    (entry,) = json.loads(contents(tmp_path / "x")["manifest.json"])
    name = entry["RepoTags"][0]
    skopeo("copy", f"docker-archive:{tmp_path}/x:{name}", f"dir:{tmp_path}/dir")
    config = json.loads((tmp_path / "dir/manifest.json").read_text())["config"]["digest"]
    assert entry["Config"] == f"blobs/{config.replace(':', '/')}"
    api.save(image.references, tmp_path / "o", format="oci-archive", compression="zstd", store=store)
    skopeo("copy", "--preserve-digests", f"oci-archive:{tmp_path}/o:2", f"dir:{tmp_path}/oci")
    (listed,) = json.loads(contents(tmp_path / "o")["index.json"])["manifests"]
    copied = (tmp_path / "oci/manifest.json").read_bytes()
    assert f"sha256:{hashlib.sha256(copied).hexdigest()}" == listed["digest"]


@needs_skopeo
def test_what_skopeo_writes_is_loaded_with_the_same_digest(store, other, image, tmp_path):
    api.save(image.references, tmp_path / "x", store=store)
    name = "reg.example:5000/team/app:2"
    skopeo("copy", f"docker-archive:{tmp_path}/x:{name}", f"docker-archive:{tmp_path}/old:{name}")
    (loaded,) = api.load(tmp_path / "old", store=other)
    assert (loaded.image.digest, loaded.references) == (image.digest, (name,))
    skopeo("copy", f"docker-archive:{tmp_path}/x:{name}", f"oci-archive:{tmp_path}/oci:{name}")
    (again,) = api.load(tmp_path / "oci", store=other)
    assert [layer.digest for layer in again.image.layers] == [layer.digest for layer in image.layers]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("buildah") is None, reason="needs buildah, and root")
def test_buildah_has_the_same_files_and_gives_the_same_image_back(store, other, image, tmp_path):
    api.save(image.references, tmp_path / "x", store=store)
    name = "reg.example:5000/team/app:2"
    buildah = ["unshare", "--mount", "--propagation", "private", "buildah"]
    buildah += ["--root", tmp_path / "b", "--runroot", tmp_path / "r", "--storage-driver", "vfs"]

    # It insists on the file of logins that the tests' DOCKER_CONFIG promises.
    environment = {key: value for key, value in os.environ.items() if key != "DOCKER_CONFIG"}

    def run(*words):
        done = subprocess.run(
            [*buildah, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    run("pull", "--policy", "always", f"docker-archive:{tmp_path}/x:{name}")
    container = run("from", "--pull-never", name)
    mounted = directory.read(run("mount", container), xattrs=True)
    # Directories bear the times of their unpacking.
    assert not list(differences(clamp(mounted, 0), clamp(store.layers.merged(image.layers), 0)))
    run("push", name, f"docker-archive:{tmp_path}/back:{name}")
    (loaded,) = api.load(tmp_path / "back", store=other)
    assert loaded.image.digest == image.digest
    run("umount", container)
    run("rm", "--all")


def test_memory_does_not_grow_with_the_image(store, tmp_path):
    """200 MB there and back in a process of its own."""
    tree = folder({str(n).encode(): file(os.urandom(1 << 20) * 10) for n in range(20)})
    put_image(store, "large:1", tree)
    script = (
        "import resource, sys\nfrom firekiln import api\n"
        "store, other, path = sys.argv[1:]\n"
        "api.save('large:1', path, store=store)\napi.load(path, store=other)\n"
        "print(open('/proc/self/status').read().split('RssAnon:')[1].split()[0])\n"
    )
    words = ["python", "-c", script, tmp_path / "store", tmp_path / "other", tmp_path / "x"]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=100)
    assert int(done.stdout) < 80_000
    assert (tmp_path / "x").stat().st_size > 200 << 20
