from __future__ import annotations

import contextlib
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from firekiln.errors import BuildError, StoreError
from firekiln.oci import digest
from firekiln.rootfs.tree import Directory, File, Meta
from firekiln.store import Layer, Result, Store
from firekiln.store.index import Index
from firekiln.store.locks import named
from firekiln.store.paths import store_root
from firekiln.store.staging import Staging

RESULT = Result(chain="c", layers=("sha256:1", "sha256:2"), created="2026-01-01T00:00:00Z")


def tree(content=b"x"):
    return Directory(meta=Meta(mode=0o755), children={b"f": File.of(content, Meta(mode=0o644))})


def test_a_result_is_found_by_another_process(tmp_path):
    Index(tmp_path / "index.db").record({"key": RESULT})
    assert Index(tmp_path / "index.db").result("key") == RESULT
    assert Index(tmp_path / "index.db").result("other") is None


@pytest.mark.parametrize("damage", [b"garbage" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_index_is_set_aside_and_begun_anew(tmp_path, damage):
    path = tmp_path / "index.db"
    path.write_bytes(damage)
    index = Index(path)
    assert index.result("key") is None
    index.record({"key": RESULT})
    assert Index(path).result("key") == RESULT
    assert (tmp_path / "index.db.damaged").read_bytes() == damage


def test_an_index_of_another_version_is_set_aside(tmp_path):
    path = tmp_path / "index.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert Index(path).result("key") is None


def test_an_index_that_cannot_be_opened_is_a_clear_error(tmp_path):
    (tmp_path / "index.db").mkdir()
    with pytest.raises(StoreError, match="cannot use the index"):
        Index(tmp_path / "index.db").result("key")


def test_results_not_used_for_long_can_be_forgotten(tmp_path):
    index = Index(tmp_path / "index.db")
    index.record({"old": RESULT})
    assert index.layers_of_results() == set(RESULT.layers)
    (use,) = index.uses()
    assert (use.key, use.layers) == ("old", RESULT.layers)
    index.forget(["old", "unknown"])
    assert index.result("old") is None


def test_results_are_listed_by_the_time_of_their_last_use(tmp_path, monkeypatch):
    index = Index(tmp_path / "index.db")
    now = [1_000_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    index.record({"used": RESULT, "unused": RESULT})
    now[0] += 100_000
    index.touch(["used", "unknown"])
    index.touch([])
    assert [use.key for use in index.uses()] == ["unused", "used"]
    now[0] -= 1_000_000  # a clock that was set back
    index.touch(["used"])
    assert [use.key for use in index.uses()] == ["used", "unused"]


def test_a_staged_layer_is_usable_at_once_and_kept_with_its_result(store):
    with Staging(store) as staging:
        lock = store.locks.acquire(named("key"))
        layer = staging.layer(tree())
        assert layer.path.stat().st_size == layer.size
        assert store.layers.find(layer.digest) is None
        staging.record({"key": Result(chain="c", layers=(layer.digest,), created="")}, layer, lock)
        staging.flush()
        assert store.layers.get(layer.digest).size == layer.size
        assert layer.path.exists()
        assert store.index.result("key").layers == (layer.digest,)
        assert store.locks.try_acquire(named("key")) is not None
    assert not layer.path.exists()


def test_a_result_is_never_recorded_without_its_layer(store):
    with Staging(store) as staging:
        lost = Layer(digest="sha256:" + "0" * 64, size=1, path=store.root / "nowhere")
        staging.record({"key": RESULT}, lost, store.locks.acquire(named("key")))
        with pytest.raises(StoreError, match="cannot keep a layer"):
            staging.flush()
    assert store.index.result("key") is None
    assert store.locks.try_acquire(named("key")) is not None


def test_what_was_recorded_before_a_failure_is_kept(store):
    with contextlib.suppress(BuildError), Staging(store) as staging:
        layer = staging.layer(tree())
        staging.record({"key": RESULT}, layer, store.locks.acquire(named("key")))
        raise BuildError("the next step failed")
    assert store.index.result("key") == RESULT
    assert store.layers.find(layer.digest) is not None


def test_the_same_tree_is_the_same_layer(tmp_path):
    with Store.open(tmp_path / "a") as one, Store.open(tmp_path / "b") as two:
        assert one.layers.commit(tree()).digest == two.layers.commit(tree()).digest
        assert one.layers.commit(tree()).digest != one.layers.commit(tree(b"y")).digest


def test_a_layer_reads_back_as_the_tree_that_it_was(store):
    layer = store.layers.commit(tree(b"content"))
    assert store.layers.tree(layer).children[b"f"].read() == b"content"
    with pytest.raises(StoreError, match="lacks the layer"):
        store.layers.get("sha256:" + "0" * 64)


def test_the_root_is_the_option_then_the_variable_then_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    environ = {"FIREKILN_ROOT": "/variable", "XDG_DATA_HOME": "/data"}
    assert str(store_root("/option", environ=environ)) == "/option"
    assert str(store_root(None, environ=environ)) == "/variable"
    assert str(store_root(None, environ={"XDG_DATA_HOME": "/data"})) == "/data/firekiln"
    assert str(store_root(None, environ={"XDG_DATA_HOME": "relative"})).endswith("/.local/share/firekiln")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert str(store_root(None, environ={"XDG_DATA_HOME": "/data"})) == "/var/lib/firekiln"


def test_several_may_make_the_same_store_at_once(tmp_path):
    """Nobody takes what another has just made for a stranger's."""

    def make(place):
        with Store.open(place) as store:
            return store.index.result("nothing"), store.blobs.put(b"x").digest

    with ThreadPoolExecutor(8) as threads:
        for number in range(40):
            made = list(threads.map(make, [tmp_path / str(number)] * 8))
            assert made == [(None, digest.of(b"x"))] * 8


def test_a_new_index_waits_for_who_else_is_preparing_it(tmp_path):
    """SQLite itself would not wait here."""
    other = sqlite3.connect(tmp_path / "index.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, other.rollback)
    timer.start()
    assert Index(tmp_path / "index.db").result("nothing") is None
    timer.join()
    other.close()


def test_a_result_is_found_under_all_its_keys(store):
    one, other = (Result(chain=word, layers=("sha256:a",), created="") for word in ("c", "d"))
    store.index.record({"1": one, "2": one, "3": other})
    assert store.index.keys_of([one]) == {"1": one, "2": one}
    assert store.index.keys_of([]) == {}
    assert store.index.keys_of([Result(chain="c", layers=(), created="")]) == {}
