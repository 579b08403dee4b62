"""What RUN mounts from contexts, images and caches of every kind, as root."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from pathlib import Path

import pytest

from building import BUSYBOX, Builds, write_base
from firekiln.build.events import Output
from firekiln.oci.archive import layout as write_layout
from firekiln.oci.archive import make_layer
from firekiln.rootfs.compression import Compression
from firekiln.rootfs.tree import File, walk
from firekiln.store import Store

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts and namespaces need root"),
    pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static"),
]


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("builds")
    made = Builds(folder)
    write_base(folder / "base")
    made.build("FROM scratch\nCOPY --from=files / /\n", contexts={"files": str(folder / "base")}, tags=["base"])
    yield made
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    assert list((made.root / "tmp").iterdir()) == []


def said(builds):
    return b"".join(event.data for event in builds.events if isinstance(event, Output)).decode().splitlines()


@pytest.fixture(scope="module")
def layout(builds, tmp_path_factory):
    """An OCI layout of an image with the file /tool."""
    folder = tmp_path_factory.mktemp("layout")
    image = builds.build("FROM scratch\nCOPY <<EOF /tool\ntool\nEOF\n").image
    with Store.open(builds.root) as store:
        layers = [make_layer(store.layers.tree(item), folder / "layer", Compression.ZSTD) for item in image.layers]
    for path, node in walk(write_layout(image.image, layers, ["tool"])):
        place = folder / path.decode()
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(node, File):
            place.write_bytes(node.read())
    return folder


def test_a_mount_reads_an_image_of_a_layout_and_a_named_folder(builds, layout, tmp_path):
    (tmp_path / "f").write_text("folder\n")
    builds.build(
        "FROM base\nRUN --mount=from=tool,target=/t --mount=from=folder,target=/f cat /t/tool /f/f\n",
        contexts={"tool": f"oci-layout://{layout}", "folder": str(tmp_path)},
    )
    assert said(builds) == ["tool", "folder"]


def test_a_mount_reads_an_image_by_its_name(builds):
    builds.build("FROM base\nRUN --mount=from=base,source=/etc,target=/e cat /e/group\n")
    assert said(builds)[0] == "root:x:0:"


def test_what_is_written_to_a_mount_with_rw_is_gone_and_the_source_unchanged(builds, layout):
    builds.build(
        "FROM base\n"
        "RUN --mount=from=tool,target=/t,rw echo other > /t/tool && cat /t/tool\n"
        "RUN --mount=from=tool,target=/t,rw cat /t/tool\n",
        contexts={"tool": f"oci-layout://{layout}"},
    )
    assert said(builds) == ["other", "tool"]


def test_a_folder_is_a_base_that_steps_run_on(builds, tmp_path):
    write_base(tmp_path / "system")
    (tmp_path / "system/etc/name").write_text("system\n")
    text = "FROM system\nRUN cat /etc/name\n"
    builds.build(text, contexts={"system": str(tmp_path / "system")})
    assert said(builds) == ["system"]
    builds.build(text, contexts={"system": str(tmp_path / "system")})
    assert said(builds) == []
    (tmp_path / "system/etc/name").write_text("changed\n")
    builds.build(text, contexts={"system": str(tmp_path / "system")})
    assert said(builds) == ["changed"]


def test_a_mount_of_a_tar_context_shows_its_files(builds):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, text in (("Dockerfile", "FROM base\nRUN --mount=target=/c ls /c; cat /c/f\n"), ("f", "content\n")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    data.seek(0)
    builds.events = []
    import firekiln

    firekiln.build(data, store=builds.root, on_event=builds.events.append)
    assert said(builds) == ["Dockerfile", "f", "content"]


@pytest.mark.parametrize(("sharing", "meet"), [("shared", True), ("private", False)])
def test_steps_at_the_same_time_share_a_cache_or_have_one_each(builds, sharing, meet):
    """Each step puts a file there and looks for the other's for a while."""
    look = (
        "i=0; while [ $i -lt 200 ] && [ ! -e /c/{other} ]; do i=$((i+1)); /bin/busybox usleep 5000; done; "
        "test -e /c/{other} && echo met || echo alone"
    )
    mount = f"RUN --mount=type=cache,id={sharing},target=/c,sharing={sharing} "
    builds.build(
        f"FROM base AS a\n{mount} touch /c/a; {look.format(other='b')}\n"
        f"FROM base AS b\n{mount} touch /c/b; {look.format(other='a')}\n"
        "FROM base\nCOPY --from=a /etc/group /a\nCOPY --from=b /etc/group /b\n"
    )
    assert said(builds) == (["met"] * 2 if meet else ["alone"] * 2)


def test_a_readonly_cache_cannot_be_written(builds):
    mount = "RUN --mount=type=cache,id=ro,target=/c"
    builds.build(f"FROM base\n{mount} echo x > /c/f\n{mount},readonly cat /c/f; touch /c/g 2>/dev/null || echo no\n")
    assert said(builds) == ["x", "no"]


def test_a_capability_of_a_context_file_reaches_the_image_and_counts(builds):
    """struct vfs_cap_data of revision 2: effective, CAP_NET_RAW permitted."""
    path = builds.context / "ping"
    path.write_text("ping")
    text = "FROM scratch\nCOPY ping /\n"
    plain = builds.build(text)
    value = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
    os.setxattr(path, "security.capability", value)
    os.setxattr(path, "user.a", b"1")
    os.setxattr(path, "trusted.b", b"2")
    capable = builds.build(text)
    assert capable.digest != plain.digest
    xattrs = dict(builds.tree(capable.image).children[b"ping"].meta.xattrs)
    assert xattrs == {b"security.capability": value, b"user.a": b"1"}
    os.setxattr(path, "user.a", b"2")
    assert builds.build(text).digest == capable.digest, "as with BuildKit"
