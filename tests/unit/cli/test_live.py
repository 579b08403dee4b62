from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from fcntl import ioctl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firekiln.build.events import Cached, Canceled, Completed, Events, Failed, Output, Started, Status, Warned
from firekiln.cli import live
from terminal import Terminal, width

events = Events()


class View:
    """A live view on a terminal of our own, drawn when it is told to."""

    def __init__(self, monkeypatch, columns=60, lines=20):
        monkeypatch.setattr(live, "_INTERVAL", 3600)
        monkeypatch.setattr(live, "_size", lambda terminal: (terminal.columns, terminal.height))
        self.terminal = Terminal(columns, lines)
        self.view = live.Live(self.terminal)

    def after(self, *said):
        for event in said:
            self.view(event)
        self.view._draw()
        return self.terminal.text

    def close(self):
        self.view.close()
        return self.terminal.text


@pytest.fixture
def view(monkeypatch):
    made = View(monkeypatch)
    yield made
    made.close()


def test_what_runs_stands_below_what_is_finished(view):
    first = events.task("[build 1/2] FROM debian", stage="build")
    second = events.task("[build 2/2] RUN make", stage="build")
    assert view.after(Started(task=second)) == ["[+] Building 0.0s (0/1)", f"{' => [build 2/2] RUN make':<55}0.0s"]
    output = Output(task=second, fd=1, data=b"cc -c main.c\ncc -o main")
    assert view.after(Cached(task=first), output) == [
        " => CACHED [build 1/2] FROM debian",
        "[+] Building 0.0s (1/2)",
        f"{' => [build 2/2] RUN make':<55}0.0s",
        " => => # cc -c main.c",
        " => => # cc -o main",
    ]
    ended = Completed(task=second, at=output.at + 60, size=12_300_000)
    assert re.fullmatch(r" => \[build 2/2\] RUN make 60\.\ds, 12\.30MB", view.after(ended)[1])
    assert len(view.close()) == 2


def test_the_parts_of_a_task_have_their_bytes(view):
    task = events.task("download")
    part = Status(task=task, name="layer", current=10_000_000, total=40_000_000)
    assert view.after(Started(task=task), part)[-1] == " => => layer 10.00MB / 40.00MB [######..................]"
    done = Status(task=task, name="layer", current=40_000_000, total=40_000_000, done=True)
    assert view.after(done)[-1] == " => => layer 40.00MB done"


def test_a_step_that_failed_leaves_its_last_lines(view):
    task, other = events.task("RUN make"), events.task("RUN sleep")
    lines = b"".join(b"line %d\n" % number for number in range(30))
    view.after(Started(task=task), Started(task=other), Output(task=task, fd=2, data=lines))
    said = view.after(Failed(task=task, message="exit code: 2"), Canceled(task=other))
    assert said[0] == " => ERROR RUN make: exit code: 2"
    assert said[1:21] == [f" => # line {number}" for number in range(10, 30)]
    assert said[21:] == [" => CANCELED RUN sleep"]


def test_a_view_that_is_closed_leaves_no_thread(view):
    view.after(Started(task=events.task("x")))
    assert "firekiln-progress" in {thread.name for thread in threading.enumerate()}
    view.close()
    assert "firekiln-progress" not in {thread.name for thread in threading.enumerate()}


def test_stages_stay_together(view):
    tasks = [events.task(f"[{stage} {number}]", stage=stage) for number in (1, 2) for stage in ("a", "b")]
    names = [line.split("]")[0] for line in view.after(*(Started(task=task) for task in tasks))[1:]]
    assert names == [" => [a 1", " => [a 2", " => [b 1", " => [b 2"]


def test_what_a_step_writes_does_not_command_the_terminal(view):
    task = events.task("RUN \x1b]0;title\x07")
    data = b"\x1b[31mred\x1b[0m \x1b[2Jgone\x07 \t tab \xe2\x80\xae bidi\r\nprogress 1\rprogress 2\n\x9b1A \xff"
    text = view.after(Started(task=task), Output(task=task, fd=1, data=data))
    assert text[1].startswith(" => RUN \ufffd]0;title\ufffd ")
    assert text[2:] == [" => => # red [2Jgone      tab \ufffd bidi", " => => # progress 2", " => => # \ufffd1A \ufffd"]


def test_a_terminal_without_room_shows_what_it_can(monkeypatch):
    view = View(monkeypatch, columns=12, lines=4)
    tasks = [events.task(f"[stage {number}/9] RUN something long") for number in range(9)]
    text = view.after(*(Started(task=task) for task in tasks))
    assert len(text) == 3
    assert view.close() == []


def test_without_colours_there_is_no_escape_but_to_move(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    view = View(monkeypatch)
    written = []
    monkeypatch.setattr(view.terminal, "write", written.append)
    task = events.task("x")
    view.after(Started(task=task), Warned(message="odd"), Completed(task=task))
    view.close()
    assert "m" not in {text[text.index("\x1b") :].lstrip("\x1b[0123456789;")[:1] for text in written if "\x1b" in text}


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["start", "output", "end", "resize"]), words, st.integers(5, 70))),
    st.integers(5, 70),
)
def test_nothing_of_what_ran_is_left_on_any_terminal(said, columns):
    with pytest.MonkeyPatch.context() as monkeypatch:
        # What a narrower terminal pushes out of sight is out of reach: where it changes there is room for all.
        lines = 400 if any(kind == "resize" for kind, _, _ in said) else 12
        view = View(monkeypatch, columns=columns, lines=lines)
        task, finished = events.task("RUNNING"), []
        view.after(Started(task=task))
        for kind, text, number in said:
            match kind:
                case "start":
                    view.after(Started(task=events.task(f"RUNNING {text}")))
                case "output":
                    view.after(Output(task=task, fd=1, data=text.encode()))
                    assert all(width(row) <= view.terminal.columns for row in view.terminal.rows)
                case "end":
                    ended = events.task(f"END{len(finished)}.")
                    finished.append(f"END{len(finished)}.")
                    view.after(Cached(task=ended))
                case "resize" if not finished:
                    view.terminal.resize(number, lines)
                    view.after()
        left = "".join(view.close()).replace(" ", "")
    assert left == "".join(f"=>CACHED{name}" for name in finished)


def test_a_build_on_a_terminal_draws_while_it_runs(tmp_path):
    """The command itself, with a terminal that grows narrower."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "file").write_text("x")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /a\nCOPY file /b\n")
    near, far = pty.openpty()
    ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    argv = [sys.executable, "-m", "firekiln", "--root", str(tmp_path / "store"), "build", str(context)]
    environment = {name: value for name, value in os.environ.items() if name not in ("BUILDKIT_PROGRESS", "NO_COLOR")}
    process = subprocess.Popen(argv, stdout=far, stderr=far, stdin=far, env={**environment, "TERM": "xterm"})
    os.close(far)
    written = _read_all(near)
    assert process.wait(60) == 0, written
    terminal = Terminal(40, 24)
    terminal.write(written.replace("\r\n", "\n"))
    steps = [line for line in terminal.text if "COPY" in line]
    assert len(steps) == 2
    assert all(line.startswith(" => [") for line in steps)
    assert "\x1b[34m" in written


def _read_all(fd):
    data, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([fd], [], [], 1)[0]:
            try:
                data += os.read(fd, 65536)
            except OSError:  # EIO: nobody has the other side open
                break
    os.close(fd)
    return data.decode()
