"""The how-to on the Python API: what it shows runs, and is typed."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import firekiln
from firekiln.build.events import Completed
from firekiln.errors import FirekilnError

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/how-to/python-api.md"


def example(kinds=("",)):
    """The page's blocks, one after the other, as the program that they are."""
    blocks = re.findall(r"^```python ?(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(text for kind, text in blocks if kind in kinds)


def test_what_the_page_shows_runs(tmp_path):
    (tmp_path / "page.py").write_text(example())
    done = subprocess.run(
        [sys.executable, "-W", "error", "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "line 2: " in done.stdout


@pytest.mark.slow
def test_what_the_page_shows_is_typed_for_users(tmp_path):
    (tmp_path / "page.py").write_text(example(("", "vm")))
    argv = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=", str(tmp_path / "page.py")]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "Success: no issues found in 1 source file\n"


def test_builds_in_several_threads_and_stores_do_not_meet(tmp_path):
    """Nothing is global: each has its own events, and makes its own image."""
    said = {number: [] for number in range(4)}
    made = {}

    def build(number):
        (tmp_path / f"{number}").mkdir()
        text = f"FROM scratch\nLABEL number={number}\nWORKDIR /{number}\n"
        store = tmp_path / f"store{number % 2}"
        made[number] = firekiln.build(None, dockerfile=text.encode(), store=store, on_event=said[number].append)

    threads = [threading.Thread(target=build, args=(number,)) for number in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: result.image.image.config.labels for number, result in made.items()} == {
        number: {"number": str(number)} for number in said
    }
    for number, events in said.items():
        names = [event.task.name for event in events if isinstance(event, Completed)]
        assert [name for name in names if "WORKDIR" in name] == [f"[1/1] WORKDIR /{number}"]


def test_what_a_subscriber_raises_ends_the_build_and_is_raised(tmp_path):
    class Stop(Exception):  # noqa: N818 - no error
        pass

    def listen(event):
        if isinstance(event, Completed) and "WORKDIR" in event.task.name:
            raise Stop

    with pytest.raises(Stop):
        firekiln.build(None, dockerfile=b"FROM scratch\nWORKDIR /a\nWORKDIR /b\n", store=tmp_path, on_event=listen)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("firekiln")] == []
    assert list((tmp_path / "tmp").iterdir()) == []
    result = firekiln.build(None, dockerfile=b"FROM scratch\nWORKDIR /a\nWORKDIR /b\n", store=tmp_path)
    assert len(result.image.layers) == 2


def test_importing_the_package_changes_nothing_in_the_process():
    program = (
        "import sys, threading, signal, os, logging, locale\n"
        "before = (threading.active_count(), [signal.getsignal(n) for n in (1, 2, 13, 15)], dict(os.environ), "
        "logging.root.handlers[:], os.umask(0o22))\n"
        "os.umask(before[-1])\n"
        "import firekiln, firekiln.api.builds, firekiln.api.exports, firekiln.api.machines\n"
        "after = (threading.active_count(), [signal.getsignal(n) for n in (1, 2, 13, 15)], dict(os.environ), "
        "logging.root.handlers[:], os.umask(0o22))\n"
        "assert before == after\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_exporting_loads_neither_the_builder_nor_what_only_other_formats_need():
    program = (
        "import sys, firekiln.api.exports\n"
        "needless = tuple('firekiln.' + name for name in ('build', 'dockerfile', 'machine.kernel', 'rootfs.tar'))\n"
        "assert not [name for name in sys.modules if name.startswith((*needless, 'isal'))]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_failure_of_a_build_is_an_error_of_the_tree(tmp_path):
    for options in (
        {"dockerfile": b"FROM"},
        {"dockerfile": b"FROM scratch\nRUN x\n", "target": "none"},
        {"context": "/no"},
    ):
        with pytest.raises(FirekilnError):
            firekiln.build(**{"context": None, "store": tmp_path, **options})
