"""Upstream's Dockerfiles, unchanged, built on stand-in bases: every instruction, script, user, mode and path is real.

What the image must say is read from the text by a small reader of the tests' own (`upstream.texts.declared`).
"""

from __future__ import annotations

import json
import subprocess

import pytest

import firekiln
import isolation
from firekiln.build.events import Output
from firekiln.errors import StepFailedError
from firekiln.rootfs import lookup
from firekiln.store import Store
from machines import argv
from trees import CAPABILITY
from upstream import standins, table
from upstream.texts import FOLDER, RELEASE, TEXTS, Text, bases, declared

pytestmark = [pytest.mark.root, pytest.mark.rootless, isolation.needed]

needs_texts = pytest.mark.skipif(bool(standins.missing()), reason=str(standins.missing()))
texts = pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("store")) as made:
        standins.put_bases(made)
        yield made


def build(store: Store, text: Text, folder, **options):
    standins.write_context(folder / "context", text.context, text.ignore)
    options = {"dockerfile": text.file, "build_args": text.build_args, "pull": "never", **options}
    return firekiln.build(folder / "context", store=store, **options).image


@needs_texts
@texts
def test_an_upstream_text_builds_and_the_image_says_what_the_text_says(store, tmp_path, text):
    image = build(store, text, tmp_path, tags=["built"])
    source = text.file.read_text()
    base = store.images.get(bases(source)[-1]).image.config
    said = declared(source, text.build_args, standins.base_env(store, bases(source)[-1]))
    shown = subprocess.run(argv(store, "inspect", "--type=image", "built"), capture_output=True, check=True)
    config = json.loads(shown.stdout)[0]["Config"]

    assert config["Labels"] == {**base.labels, **said.labels} or not (base.labels or said.labels)
    env = {**dict(pair.split("=", 1) for pair in base.env), **said.env}
    assert config["Env"] == [f"{name}={value}" for name, value in env.items()]
    assert set(config.get("Volumes") or ()) == said.volumes | set(base.volumes)
    exposed = said.exposed | set(base.exposed_ports)
    assert set(config.get("ExposedPorts") or ()) == exposed
    assert config.get("User", "") == said.user
    assert (tuple(config["Entrypoint"]), tuple(config["Cmd"])) == (said.entrypoint, said.cmd)

    tree = store.layers.merged(image.layers)
    for path, (mode, uid, gid) in text.files.items():
        node = lookup.resolve(tree, path.encode()).node
        assert node is not None, path
        assert (oct(node.meta.mode), node.meta.uid, node.meta.gid) == (oct(mode), uid, gid), path
    for path in text.absent:
        assert lookup.get(tree, path.encode()) is None, path
    if "setcap" in source:
        for path in (path for path in text.files if path.startswith("/opt/kafka-proxy/bin/")):
            assert dict(lookup.get(tree, path.encode()).meta.xattrs) == {b"security.capability": CAPABILITY}

    table.hold(text.path, "Bases", ", ".join(f"`{name}`" for name in bases(source)))
    own = len(image.layers) - len(store.images.get(bases(source)[-1]).layers)
    facts = [
        f"{own} layers",
        f"{len(config['Env'])} ENV",
        f"{len(config.get('Labels') or ())} LABEL",
        *([f"EXPOSE {' '.join(sorted(port.removesuffix('/tcp') for port in exposed))}"] if exposed else []),
        *(f"VOLUME {volume}" for volume in sorted(config.get("Volumes") or ())),
        *([f"USER {said.user}"] if said.user else []),
        *(["a file capability for each program"] if "setcap" in source else []),
    ]
    table.hold(text.path, "Built", "; ".join(facts))


@needs_texts
def test_upstream_build_arguments_reach_what_is_made(store, tmp_path):
    text = next(text for text in TEXTS if text.path == "kafka-proxy/Dockerfile.head")
    image = build(store, text, tmp_path, build_args={"VERSION": "9.8.7"})
    program = lookup.get(store.layers.merged(image.layers), b"/opt/kafka-proxy/bin/kafka-proxy")
    assert program.read().endswith(b"\nversion:9.8.7\n")


@needs_texts
def test_upstream_consul_is_refused_when_its_download_is_not_what_was_signed(store, tmp_path):
    """The stand-in of `gpg` does verify: a text's checks are carried out, not passed over."""
    text = TEXTS[0]
    lines = []
    with pytest.raises(StepFailedError) as caught:
        build(
            store,
            text,
            tmp_path,
            build_args={"CONSUL_VERSION": "1.15.4"},  # signed by the key of another year
            on_event=lambda event: lines.append(event.data) if isinstance(event, Output) else None,
        )
    assert b"No public key" in b"".join(lines)
    assert caught.value.status == 2


@needs_texts
def test_upstream_ignore_files_keep_out_what_they_name(store, tmp_path):
    """MinIO's head ignores `*.gz`, not the program that its Dockerfile copies."""
    text = next(text for text in TEXTS if text.path == "minio/Dockerfile.head")
    image = build(store, text, tmp_path)
    program = lookup.get(store.layers.merged(image.layers), b"/usr/bin/minio")
    assert program.read() == standins.product(RELEASE)
    probe = b"FROM scratch\nCOPY . /\n"
    (tmp_path / "context/docs.gz").write_text("ignored")
    copied = firekiln.build(tmp_path / "context", dockerfile=probe, store=store).image
    names = set(store.layers.merged(copied.layers).children)
    assert b"docs.gz" not in names
    assert b"dockerscripts" in names


def test_the_upstream_table_has_a_whole_row_for_each_text():
    rows = table.rows()
    assert set(rows) == {text.path for text in TEXTS}
    assert [path for path, row in rows.items() if not all(row.values())] == []


@needs_texts
def test_each_upstream_text_is_built():
    there = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*Dockerfile*")}
    assert there == {text.path for text in TEXTS}
