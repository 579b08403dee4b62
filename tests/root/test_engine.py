"""Docker Engine: stages built there, its images as bases, ours put into it. A real dockerd of Debian's."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import firekiln
from building import BUSYBOX, write_base
from dockerengine import needs_dockerd, running_engine
from firekiln import api
from firekiln.build.clamp import clamp
from firekiln.build.events import Output
from firekiln.errors import BuildError, DockerfileError, EngineError, ImageNotFoundError
from firekiln.oci.engine import DockerEngine
from firekiln.rootfs.compare import differences
from firekiln.rootfs.lookup import get
from firekiln.store import Store

docker = pytest.importorskip("docker")
pytestmark = [*needs_dockerd, pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static")]


def _client():
    """Debian's client has BuildKit's within itself, later ones want the plugin buildx."""
    for program in filter(None, ("/usr/bin/docker", shutil.which("docker"))):
        if Path(program).exists():
            version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
            plugin = subprocess.run([program, "buildx", "version"], capture_output=True, check=False).returncode == 0
            if plugin or "version 20." in version:
                return program
    return None


CLIENT = _client()
THREE_STAGES = r"""
ARG VERSION=7
FROM base:1 AS files
ARG VERSION
RUN mkdir -p /out/dir/deep /out/empty && echo $VERSION > /out/dir/file && echo x > /out/dir/deep/x \
 && ln -s file /out/dir/link && ln -s ../dir /out/dir/deep/up && ln -s /out/dir /abs && ln /out/dir/file /out/dir/hard \
 && echo 1 > /out/a.txt && echo 2 > /out/b.txt && echo 3 > /out/c.bin && mkdir /lost && echo 4 > /lost/l
RUN rm /out/dir/deep/x /out/b.txt && rm -r /lost && chown 7:8 /out/a.txt && chmod 4751 /out/c.bin
RUN mkdir /lost && echo new > /lost/new
FROM files AS more
COPY src/ /out/src/
COPY --from=0 /out/dir /copied/
COPY --chown=9:9 src/one /owned
RUN rm -r /out/dir && mkdir /out/dir && echo only > /out/dir/only
FROM scratch
COPY --from=files /out/*.txt /out/*.bin /wild/
COPY --from=files /out/dir/ /dir/
COPY --from=files /abs/link /followed
COPY --from=files /abs /whole/
COPY --from=files /out/empty /lost /lists/
COPY --from=more /out /out/
COPY --from=more /copied /owned /more/
COPY src /src
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dockerd")
    with pytest.MonkeyPatch.context() as patch, running_engine(folder) as host:
        patch.setenv("DOCKER_HOST", host)
        client = docker.APIClient(base_url=host, version="auto")
        yield client
        client.close()
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    (folder / "src/sub").mkdir(parents=True)
    (folder / "src/one").write_text("one\n")
    (folder / "src/sub/two").write_text("two\n")
    (folder / "src/left-out").write_text("no\n")
    (folder / ".dockerignore").write_text("src/left-out\n")
    return folder


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Two stores, each of which has the image base:1."""
    folder = tmp_path_factory.mktemp("stores")
    write_base(folder / "base")
    made = []
    for name in ("first", "second"):
        text = b"FROM scratch\nCOPY --from=files / /\n"
        firekiln.build(
            None, dockerfile=text, contexts={"files": str(folder / "base")}, tags=["base:1"], store=folder / name
        )
        made.append(folder / name)
    for applet in ("ln", "chown", "chmod", "sleep"):
        (folder / "base/bin" / applet).symlink_to("busybox")
    for root in made:
        firekiln.build(None, dockerfile=text, contexts={"files": str(folder / "base")}, tags=["base:1"], store=root)
    return made


def command(root, *words):
    return [sys.executable, "-m", "firekiln", "--root", str(root), *words]


def state(engine):
    """What is on the engine: images with their names, and containers."""
    images = {image["Id"]: tuple(image["RepoTags"] or ()) for image in engine.images(all=True)}
    return images, [item["Id"] for item in engine.containers(all=True)]


def merged(root, image):
    with Store.open(root) as store:
        return store.layers.merged(image.layers)


def test_three_stages_give_the_same_tree_with_both_engines(engine, context, roots):
    before = state(engine)
    ours, theirs = (
        firekiln.build(
            context, dockerfile=THREE_STAGES.encode(), stage_engine=name, build_args={"VERSION": "8"}, store=root
        )
        for name, root in zip(("native", "docker"), roots, strict=True)
    )
    assert theirs.image.image.config == ours.image.image.config
    left, right = merged(roots[0], ours.image), merged(roots[1], theirs.image)
    assert not list(differences(clamp(left, 0), clamp(right, 0)))
    assert get(right, b"dir/file").read() == b"8\n"
    assert get(right, b"dir/hard") is get(right, b"dir/file")
    assert get(right, b"wild/b.txt") is get(right, b"dir/deep/x") is get(right, b"lists/l") is None
    assert get(right, b"wild/a.txt").meta.uid == 7
    assert get(right, b"wild/c.bin").meta.mode == 0o4751
    assert get(right, b"followed").read() == b"8\n"
    assert list(get(right, b"out/dir").children) == [b"only"]
    assert get(right, b"more/owned").meta.uid == 9
    assert state(engine) == before


def test_a_target_stands_on_a_stage_that_the_engine_built(engine, context, roots):
    text = b'FROM base:1 AS app\nENV A=b\nRUN echo 1 > /made\nCMD ["app"]\nFROM app\nRUN cat /made > /read\nUSER bob\n'
    before = state(engine)
    ours, theirs = (
        firekiln.build(context, dockerfile=text, stage_engine=name, store=root)
        for name, root in zip(("native", "docker"), roots, strict=True)
    )
    assert get(merged(roots[1], theirs.image), b"read").read() == b"1\n"
    left, right = ours.image.image.config, theirs.image.image.config
    assert (left.env, left.cmd, left.user) == (right.env, right.cmd, right.user)
    assert state(engine) == before


@pytest.mark.skipif(CLIENT is None, reason="needs docker's client with BuildKit")
def test_buildkit_builds_the_stages_where_the_user_wants_it(engine, context, roots, monkeypatch):
    monkeypatch.setenv("DOCKER_BUILDKIT", "1")
    monkeypatch.setenv("PATH", f"{Path(CLIENT).parent}{os.pathsep}{os.environ['PATH']}")
    mount = "RUN --mount=from=files,source=/out,target=/m cp -a /m/dir /mounted\n"
    text = THREE_STAGES.replace("COPY --from=0", mount + "COPY --from=0", 1) + "COPY --from=more /mounted /mounted/\n"
    ours = firekiln.build(context, dockerfile=text.encode(), network="none", store=roots[0])
    before = state(engine)
    theirs = firekiln.build(context, dockerfile=text.encode(), stage_engine="docker", network="none", store=roots[1])
    left, right = merged(roots[0], ours.image), merged(roots[1], theirs.image)
    assert not list(differences(clamp(left, 0), clamp(right, 0)))
    failing = b"FROM base:1 AS a\nRUN exit 3\nFROM scratch\nCOPY --from=a / /\n"
    with pytest.raises(BuildError, match=r"stage a: .*exit code: 3"):
        firekiln.build(context, dockerfile=failing, stage_engine="docker", network="none", store=roots[1])
    assert state(engine) == before


def test_only_what_the_target_needs_is_built(engine, context, roots):
    text = (
        b"FROM base:1 AS used\nRUN echo 1 > /f\nFROM base:1 AS unused\nRUN false\nFROM scratch\nCOPY --from=used /f /\n"
    )
    events = []
    firekiln.build(context, dockerfile=text, stage_engine="docker", store=roots[0], on_event=events.append)
    said = b"".join(event.data for event in events if isinstance(event, Output))
    assert b"RUN echo 1" in said
    assert b"RUN false" not in said


def test_a_stage_that_fails_leaves_nothing_on_the_engine(engine, context, roots):
    before = state(engine)
    stages = b"FROM base:1 AS a\nRUN echo 1 > /f\nFROM a AS b\nRUN echo 2 > /g\nRUN exit 3\n"
    text = stages + b"FROM scratch\nCOPY --from=b /f /\n"
    with pytest.raises(BuildError, match=r"Dockerfile:3: stage b: .*returned a non-zero code: 3"):
        firekiln.build(context, dockerfile=text, stage_engine="docker", store=roots[0])
    assert state(engine) == before


@pytest.mark.parametrize(
    ("number", "buildkit"),
    [
        (signal.SIGINT, False),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, True, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_build_leaves_nothing_on_the_engine(engine, context, roots, number, buildkit, tmp_path):  # noqa: PLR0917 - fixtures
    if buildkit and CLIENT is None:
        pytest.skip("needs docker's client with BuildKit")
    before = state(engine)
    (tmp_path / "D").write_text("FROM base:1 AS a\nRUN echo 1 > /f\nRUN sleep 30\nFROM scratch\nCOPY --from=a /f /\n")
    words = command(
        roots[0],
        "build",
        "--stage-engine=docker",
        "--network=none",
        "--progress=plain",
        "-f",
        str(tmp_path / "D"),
        str(context),
    )
    with (tmp_path / "log").open("wb") as log:
        path = f"{Path(CLIENT or '/').parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "DOCKER_BUILDKIT": str(int(buildkit)), "PATH": path}
        build = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + 30
        while b"RUN sleep 30" not in (tmp_path / "log").read_bytes() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        build.send_signal(number)
        assert build.wait(30) == 128 + number
    deadline = time.monotonic() + 20
    while state(engine) != before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert state(engine) == before
    assert b"Traceback" not in (tmp_path / "log").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM base:1 AS a\nRUN <<EOF\nx\nEOF\nFROM scratch\nCOPY --from=a / /\n", "RUN has a heredoc"),
        ("FROM base:1 AS a\nRUN --mount=target=/c ls\nFROM scratch\nCOPY --from=a / /\n", "RUN has --mount"),
        ("FROM base:1 AS a\nCOPY --chmod=600 src /\nFROM scratch\nCOPY --from=a / /\n", "COPY has --chmod"),
    ],
)
def test_what_only_buildkit_knows_is_said_before_anything_is_built(engine, context, roots, text, message):
    with pytest.raises(BuildError, match=message) as error:
        firekiln.build(context, dockerfile=text.encode(), stage_engine="docker", store=roots[0])
    assert error.value.location.start == 2


def test_an_image_of_the_engine_is_a_base_and_a_named_context(engine, context, roots):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as out:
        out.add(BUSYBOX, "bin/busybox")
        info = tarfile.TarInfo("from-engine")
        info.size = 3
        out.addfile(info, io.BytesIO(b"yes"))
    engine.import_image_from_data(data.getvalue(), repository="only-there", tag="1")
    text = b'FROM only-there:1\nRUN ["/bin/busybox", "cp", "/from-engine", "/copy"]\n'
    with pytest.raises(ImageNotFoundError):
        firekiln.build(context, dockerfile=text, store=roots[0])
    made = firekiln.build(context, dockerfile=text, engine_images=True, store=roots[0])
    assert get(merged(roots[0], made.image), b"copy").read() == b"yes"
    events = []
    again = firekiln.build(context, dockerfile=text, engine_images=True, store=roots[0], on_event=events.append)
    assert again.image.digest == made.image.digest
    assert not [event for event in events if "from Docker Engine" in getattr(event, "task", event).name]
    named = firekiln.build(
        None,
        dockerfile=b"FROM scratch\nCOPY --from=it /from-engine /x\n",
        contexts={"it": "docker-image://only-there:1"},
        engine_images=True,
        store=roots[0],
    )
    assert get(merged(roots[0], named.image), b"x").read() == b"yes"
    engine.remove_image("only-there:1")


def test_a_built_image_is_put_into_the_engine_and_comes_back_the_same(engine, context, roots, tmp_path):
    words = command(roots[0], "build", "-q", "--load=docker", "-t", "loaded:1", "-f", "-", str(context))
    built = subprocess.run(
        words, input="FROM base:1\nCOPY src /src\nENV A=b\n", capture_output=True, text=True, check=True, timeout=60
    )
    config = engine.inspect_image("loaded:1")
    assert "A=b" in config["Config"]["Env"]
    (tmp_path / "x").write_bytes(b"".join(engine.get_image("loaded:1")))
    (loaded,) = api.load(tmp_path / "x", store=tmp_path / "other")
    assert loaded.image.digest == built.stdout.strip()
    with tarfile.open(tmp_path / "x") as archive:
        (entry,) = json.load(archive.extractfile("manifest.json"))
    assert config["Id"] == "sha256:" + entry["Config"].removesuffix(".json")
    engine.remove_image("loaded:1")


def test_an_engine_s_export_is_imported(engine, roots, tmp_path):
    api.load_into_engine("base:1", store=roots[0])
    container = engine.create_container("base:1", command=["true"])
    exported = tmp_path / "x"
    exported.write_bytes(b"".join(engine.export(container)))
    engine.remove_container(container)
    engine.remove_image("base:1")
    made = api.import_image(exported, "imported:1", changes=["CMD true"], store=tmp_path / "other")
    tree = merged(tmp_path / "other", made)
    with Store.open(roots[0]) as store:
        base = store.layers.merged(store.images.get("base:1").layers)
    # Docker adds its own mount points.
    for path in (b"bin", b"t"):
        assert not list(differences(clamp(get(tree, path), 0), clamp(get(base, path), 0)))


def test_the_engine_of_a_context_is_found(engine, roots, tmp_path, monkeypatch):
    import hashlib

    meta = tmp_path / "contexts/meta" / hashlib.sha256(b"there").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    endpoint = {"Host": os.environ["DOCKER_HOST"], "SkipTLSVerify": False}
    meta.write_text(json.dumps({"Name": "there", "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "there"}))
    with DockerEngine.connect() as found:
        assert found.find("nope:1") is None
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("DOCKER_CONTEXT", "there")
    with DockerEngine.connect() as found:
        assert found.find("nope:1") is None
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    with pytest.raises(EngineError, match='no docker context "elsewhere"'):
        DockerEngine.connect()


def test_without_an_engine_it_is_said_in_a_line(roots, context, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineError) as error:
        firekiln.build(context, dockerfile=THREE_STAGES.encode(), stage_engine="docker", store=roots[0])
    assert "\n" not in str(error.value)
    with pytest.raises(DockerfileError):
        firekiln.build(context, dockerfile=b"FROM\n", stage_engine="native", store=roots[0])
