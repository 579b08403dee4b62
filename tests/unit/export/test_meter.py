"""Bytes of work under way."""

import threading

import pytest

from exporting import lower, upper
from firekiln.machine.export import meter
from firekiln.machine.export.meter import Meter, content_bytes


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(meter, "_PATIENCE", 0.0)
    monkeypatch.setattr(meter, "_INTERVAL", 0.001)


def watched(work):
    """What is told while `work` goes on, which ends when something was."""
    told, heard = [], threading.Event()

    def progress(done, total):
        told.append((done, total))
        heard.set()

    with Meter(progress) as made:
        work(made)
        assert heard.wait(10)
    return told[0]


@pytest.mark.usefixtures("impatient")
def test_a_file_counts_by_what_it_occupies_and_its_tree_by_its_content(tmp_path):
    (tmp_path / "x").write_bytes(b"x" * 8192)
    tree = upper()
    done, total = watched(lambda made: made.watch(tmp_path / "x", tree))
    assert done >= 8192
    assert total == content_bytes(tree) == len("the same") + len("in the middle") + 5000


@pytest.mark.usefixtures("impatient")
def test_pieces_are_counted_as_they_pass():
    assert watched(lambda made: list(made.counted([b"abc", b"de"]))) == (5, None)


def test_nothing_is_told_of_what_takes_no_second():
    told = []
    with Meter(lambda *words: told.append(words)) as made:
        made.count(5, lower())
    assert told == []
