"""Archives of images for tests, in the form that `docker save` wrote before version 25, and those that mean harm.

`HOSTILE` are the rows of docs/reference/archives-images.md: what each archive tries, and what is said of it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field


def layer(*members) -> bytes:
    """The tar of a layer; members are names with contents, or TarInfos."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as out:
        for each in members:
            info = each if isinstance(each, tarfile.TarInfo) else tarfile.TarInfo(each[0])
            content = b"" if isinstance(each, tarfile.TarInfo) else each[1]
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return data.getvalue()


@dataclass
class OldArchive:
    """An archive that can be spoiled: `config` and `manifest` are written as they are then."""

    layers: list[bytes]
    tags: list[str] | None = field(default_factory=lambda: ["old:1"])
    compress: Callable[[bytes], bytes] = bytes

    def __post_init__(self):
        diff_ids = ["sha256:" + hashlib.sha256(data).hexdigest() for data in self.layers]
        document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        self.config = json.dumps({**document, "config": {"Cmd": ["app"]}}).encode()
        self.name = hashlib.sha256(self.config).hexdigest() + ".json"
        self.files = {f"{number}/layer.tar": self.compress(data) for number, data in enumerate(self.layers)}
        self.symlinks = {}
        self.manifest = [{"Config": self.name, "RepoTags": self.tags, "Layers": list(self.files)}]

    def write(self, path):
        files = {**self.files, self.name: self.config, "manifest.json": json.dumps(self.manifest).encode()}
        with tarfile.open(path, "w") as out:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
            for name, target in self.symlinks.items():
                info = tarfile.TarInfo(name)
                info.type, info.linkname = tarfile.SYMTYPE, target
                out.addfile(info)
        return path


def _plain() -> OldArchive:
    return OldArchive(layers=[layer(("a", b"1")), layer(("b", b"2"))])


def _config_changed(path):
    made = _plain()
    made.config = made.config.replace(b'"app"', b'"own"')
    made.write(path)


def _layer_changed(path):
    made = _plain()
    made.files["1/layer.tar"] = layer(("b", b"3"))
    made.write(path)


def _packed_layer_changed(path):
    made = _plain()
    made.files["1/layer.tar"] = gzip.compress(layer(("b", b"3")))
    made.write(path)


def _layer_missing(path):
    made = _plain()
    del made.files["1/layer.tar"]
    made.write(path)


def _link_to_the_host(path):
    made = _plain()
    del made.files["1/layer.tar"]
    made.symlinks["1/layer.tar"] = "/etc/passwd"
    made.write(path)


def _link_circle(path):
    made = _plain()
    del made.files["1/layer.tar"]
    made.symlinks["1/layer.tar"] = "layer.tar"
    made.write(path)


def _config_of_the_host(path):
    made = _plain()
    made.manifest[0]["Config"] = "../../../../etc/passwd"
    made.write(path)


def _too_few_layers(path):
    made = _plain()
    made.manifest[0]["Layers"].pop()
    made.write(path)


def _no_list(path):
    made = _plain()
    made.manifest = {"Config": 1}
    made.write(path)


def _numbers_for_paths(path):
    made = _plain()
    made.manifest[0]["Layers"] = [1, 2]
    made.write(path)


def _empty(path):
    made = _plain()
    made.manifest = []
    made.write(path)


def _no_name(path):
    made = _plain()
    made.manifest[0]["RepoTags"] = ["../../x"]
    made.write(path)


def _large_document(path):
    made = _plain()
    made.manifest[0]["Comment"] = "x" * (5 << 20)
    made.write(path)


def _deep_document(path):
    made = _plain()
    made.manifest = json.loads("[" * 900 + "]" * 900)
    made.write(path)


def _hostile_layer(path):
    below_a_file = layer(("f", b"1"), ("f/x", b"2"))
    OldArchive(layers=[below_a_file]).write(path)


def _layer_is_no_tar(path):
    OldArchive(layers=[b"no tar at all" * 1000]).write(path)


def _before_1_10(path):
    with tarfile.open(path, "w") as out:
        info = tarfile.TarInfo("repositories")
        info.size = 2
        out.addfile(info, io.BytesIO(b"{}"))


def _a_root(path):
    path.write_bytes(layer(("etc/passwd", b"root:x:0:0::/:/bin/sh\n")))


def _cut_off(path):
    whole = _plain().write(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


HOSTILE: dict[str, tuple[Callable, str]] = {
    "config-changed": (_config_changed, "it was changed"),
    "layer-changed": (_layer_changed, "its bytes have digest sha256:"),
    "compressed-layer-changed": (_packed_layer_changed, "is, unpacked, sha256:"),
    "layer-missing": (_layer_missing, "it lacks 1/layer.tar"),
    "link-to-the-host": (_link_to_the_host, "it lacks 1/layer.tar"),
    "link-in-a-circle": (_link_circle, "1/layer.tar"),
    "config-of-the-host": (_config_of_the_host, "it lacks ../../../../etc/passwd"),
    "too-few-layers": (_too_few_layers, "the image has 1 layers"),
    "no-list": (_no_list, "malformed"),
    "numbers-for-paths": (_numbers_for_paths, "malformed"),
    "no-image": (_empty, "no image in it"),
    "no-name": (_no_name, "invalid reference format"),
    "large-document": (_large_document, "manifest.json is larger than 4194304 bytes"),
    "deep-document": (_deep_document, "malformed"),
    "hostile-layer": (_hostile_layer, "'f' is no directory"),
    "layer-is-no-tar": (_layer_is_no_tar, "malformed"),
    "before-docker-1.10": (_before_1_10, "no archive of images"),
    "root-file-system": (_a_root, "no archive of images"),
    "cut-off": (_cut_off, "cut off"),
}
