"""`save`, `load`, `import` and `images --filter` as a user types them."""

import gzip
import json
import subprocess

import pytest

from firekiln.cli.imagefilters import parse_filters
from firekiln.oci.reference import Reference
from firekiln.store import Store
from imagearchives import layer
from machines import argv, put_image
from trees import file, folder


def put_two(store):
    put_image(store, "app:1", folder({b"f": file(b"1")}), labels={"k": "v"})
    put_image(store, "reg.example/team/tool:2", folder({b"g": file(b"2")}))


@pytest.fixture
def run(tmp_path):
    """Runs the command on one of several stores; bytes in, bytes out."""

    def command(name, *words, stdin=b""):
        with Store.open(tmp_path / name) as store:
            line = argv(store, *map(str, words))
        return subprocess.run(line, input=stdin, capture_output=True, timeout=60, check=False)

    with Store.open(tmp_path / "a") as store:
        put_two(store)
    return command


def test_images_travel_through_a_pipe_and_a_file(run, tmp_path):
    saved = run("a", "save", "app:1", "reg.example/team/tool:2")
    assert saved.returncode == 0, saved.stderr
    loaded = run("b", "load", stdin=gzip.compress(saved.stdout))
    assert loaded.stdout.decode() == "Loaded image: app:1\nLoaded image: reg.example/team/tool:2\n"
    assert run("a", "save", "-o", tmp_path / "x", "app:1").stdout == b""
    assert run("c", "load", "-q", "-i", tmp_path / "x").stdout == b"Loaded image: app:1\n"
    ids = {run(name, "images", "-q", "--no-trunc", "app:1").stdout for name in "abc"}
    assert len(ids) == 1
    digest = ids.pop().decode().strip()
    unnamed = run("a", "save", "--format", "oci-archive", digest)
    assert run("d", "load", stdin=unnamed.stdout).stdout.decode() == f"Loaded image ID: {digest}\n"


def test_a_root_file_system_is_imported_from_a_pipe(run):
    root = layer(("etc/passwd", b"root:x:0:0::/:/bin/sh\n"))
    made = run("a", "import", "-c", 'CMD ["x"]', "-m", "mine", "--platform", "linux/arm64", "-", "root:1", stdin=root)
    assert made.returncode == 0, made.stderr
    (shown,) = json.loads(run("a", "inspect", "root:1").stdout)
    assert shown["Id"] == made.stdout.decode().strip()
    assert (shown["Architecture"], shown["Config"]["Cmd"], shown["Comment"]) == ("arm64", ["x"], "mine")


def test_errors_are_one_line_with_a_hint(run, tmp_path):
    (tmp_path / "root.tar").write_bytes(layer(("a", b"1")))
    for words, message, hint in (
        (("load", "-i", tmp_path / "root.tar"), "is no archive of images", "firekiln import"),
        (("load", "-i", tmp_path / "none"), "no such file", ""),
        (("save", "none"), "No such image: none", "firekiln images"),
        (("import", "-c", "RUN x", tmp_path / "root.tar"), "RUN is not a valid change command", ""),
        (("images", "-f", "x=1"), "invalid filter 'x'", "dangling"),
        (("images", "-f", "dangling"), "invalid filter", "KEY=VALUE"),
        (("images", "-f", "dangling=perhaps"), "give true or false", ""),
        (("images", "-f", "before=none"), "No such image: none", ""),
    ):
        done = run("a", *words)
        assert done.returncode != 0
        assert done.stdout == b""
        assert message in done.stderr.decode()
        assert hint in done.stderr.decode()
        assert b"Traceback" not in done.stderr


@pytest.fixture(scope="module")
def two_images(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("store")) as store:
        put_two(store)
        yield store


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["reference=app"], ["app:1"]),
        (["reference=ap*:1"], ["app:1"]),
        (["reference=*/team/*"], ["reg.example/team/tool:2"]),
        (["reference=*"], ["app:1"]),
        (["reference=app", "reference=*/*/tool"], ["app:1", "reg.example/team/tool:2"]),
        (["reference=app", "label=other"], []),
        (["label=k"], ["app:1"]),
        (["label=k=v"], ["app:1"]),
        (["label=k=w"], []),
        (["dangling=true"], []),
        (["dangling=false"], ["app:1", "reg.example/team/tool:2"]),
    ],
)
def test_images_are_filtered_as_docker_does(two_images, filters, found):
    passes = parse_filters(filters, two_images)
    rows = [
        (image, {"Repository": name.rpartition(":")[0], "Tag": name.rpartition(":")[2]})
        for image in two_images.images.list()
        for name in (Reference.parse(reference).familiar for reference in image.references)
    ]
    assert sorted(f"{row['Repository']}:{row['Tag']}" for image, row in rows if passes(image, row)) == found
