"""`system`, `builder` and `image prune` as people type them."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time

import pytest

from firekiln.cli import command
from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform
from firekiln.store import Result, Store
from trees import file, folder


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as made:
        kept, cached = (made.layers.commit(folder({word: file(word * 5000)})) for word in (b"kept", b"cached"))
        for key, layer in (("1", kept), ("2", cached)):
            made.index.record({key: Result(chain=key, layers=(layer.digest,), created="")})
        image = Image(platform=Platform.host(), config=ImageConfig(cmd=("/bin/true",)))
        made.images.put(image, [kept], references=["web"])
        (made.cache_folder("mount") / "f").write_bytes(os.urandom(5000))
    return made


@pytest.fixture
def firekiln(store, monkeypatch, capsys):
    """A command line carried out in this process: what it printed, both streams after one another."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def made(*args, answer="", status=0):
        monkeypatch.setattr(sys, "argv", ["firekiln", "--root", str(store.root), *args])
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        found = command.run()
        out, err = capsys.readouterr()
        assert found == status, err
        return out + err

    return made


def test_df_is_dockers_table(firekiln):
    lines = firekiln("system", "df").splitlines()
    assert lines[0].split() == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert [line[:13].strip() for line in lines[1:]] == [
        "Images",
        "Containers",
        "Local Volumes",
        "Snapshots",
        "Build Cache",
        "Kernels",
    ]
    rows = [json.loads(line) for line in firekiln("system", "df", "--format", "json").splitlines()]
    assert [row["TotalCount"] for row in rows] == ["1", "0", "0", "0", "3", "0"]
    assert rows[0]["Reclaimable"].endswith("(100%)")
    assert firekiln("system", "df", "--format", "{{.Type}}").splitlines()[4] == "Build Cache"


def test_df_in_full_and_du_list_each_part(firekiln):
    shown = firekiln("system", "df", "-v")
    assert "web" in shown
    assert "mount" in shown
    assert "Build cache usage:" in shown
    kinds = firekiln("builder", "du", "--format", "{{.CacheType}} {{.Reclaimable}}").splitlines()
    assert sorted(kinds) == ["layer false", "layer true", "mount true"]


@pytest.mark.parametrize(
    "verb", [["system", "prune"], ["builder", "prune", "-a"], ["image", "prune", "-a"]], ids=" ".join
)
def test_pruning_asks_first_and_takes_no_for_an_answer(firekiln, store, verb):
    for answer in ("n\n", "", "maybe\n"):
        said = firekiln(*verb, answer=answer, status=1)
        assert "WARNING! This will remove" in said
        assert "Are you sure you want to continue? [y/N]" in said
        assert "nothing was removed" in said
    assert len(list(store.blobs.all())) == 4
    assert "Total reclaimed space:" in firekiln(*verb, answer="y\n")


def test_the_system_is_pruned_of_what_has_no_name_then_of_all(firekiln, store):
    assert "mount" in firekiln("system", "prune", "-f")
    assert [image.references for image in store.images.list()] == [("docker.io/library/web:latest",)]
    assert len(list(store.blobs.all())) == 3
    said = firekiln("system", "prune", "-a", "-f")
    assert "untagged: web:latest" in said
    assert list(store.blobs.all()) == []
    assert firekiln("system", "prune", "-a", "-f").strip() == "Total reclaimed space: 0B"


def test_the_builders_cache_is_pruned_by_age_and_size(firekiln, store):
    assert "Total reclaimed space: 0B" in firekiln("builder", "prune", "-f", "--filter", "until=24h")
    assert "Total reclaimed space: 0B" in firekiln("builder", "prune", "-f", "--keep-storage", "10G")
    assert "Total reclaimed space: 0B" in firekiln("builder", "prune", "-f", "--filter", "until=2020-01-01")
    assert "mount" in firekiln("builder", "prune", "-f", "--filter", f"until={time.time() + 60}")
    assert [use.key for use in store.index.uses()] == ["1"]


@pytest.mark.parametrize("words", [["--filter", "label=x"], ["--filter", "until=soon"], ["--keep-storage", "much"]])
def test_what_cannot_be_understood_removes_nothing(firekiln, store, words):
    firekiln("builder", "prune", "-f", *words, status=125)
    assert len(store.index.uses()) == 2


def test_image_has_the_verbs_of_images(firekiln):
    assert firekiln("image", "ls", "-q") == firekiln("images", "-q")
    assert "Untagged: web:latest" in firekiln("image", "rm", "web")


def test_a_check_of_a_sound_store_says_so(firekiln):
    assert firekiln("system", "check") == "4 blobs are as they should be\n"


def test_info_tells_of_the_store_and_of_what_runs_machines(firekiln, store):
    (told,) = [json.loads(line) for line in firekiln("info", "--format", "json").splitlines()]
    assert (told["Containers"], told["ContainersPaused"], told["Images"]) == (0, 0, 1)
    assert (told["DockerRootDir"], told["OSType"], told["Networks"]) == (str(store.root), "linux", ["default"])
    assert told["Accelerator"] in ("kvm", "tcg")
    assert {"VMMs", "Kernels", "NCPU", "MemTotal", "ServerVersion"} <= set(told)
    assert f"Store: {store.root}\n" in firekiln("info")


def test_version_has_dockers_fields(firekiln):
    number = firekiln("version", "--format", "{{.Client.Version}} {{.Server.Version}}").split()
    assert number[0] == number[1]
    assert f"Version: {number[0]}\n" in firekiln("version")
