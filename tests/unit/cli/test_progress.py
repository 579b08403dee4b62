from __future__ import annotations

import base64
import io
import json

import pytest

from firekiln.build.events import Cached, Canceled, Completed, Events, Failed, Output, Started, Status, Warned
from firekiln.cli.live import Live
from firekiln.cli.progress import Plain, RawJson, display
from firekiln.errors import Location

events = Events()


def shown(view_type, said):
    stream = io.StringIO()
    view = view_type(stream)
    for event in said:
        view(event)
    view.close()
    return stream.getvalue()


def test_plain_progress_is_buildkits():
    first, second = events.task("[builder 2/4] RUN make"), events.task("[3/4] COPY a b")
    said = [
        Started(task=first, at=1.0),
        Output(task=first, at=1.5, fd=1, data=b"one\ntw"),
        Cached(task=second, at=1.6),
        Output(task=first, at=1.75, fd=1, data=b"o\nrest"),
        Completed(task=first, at=2.25),
    ]
    assert shown(Plain, said).splitlines() == [
        "#1 [builder 2/4] RUN make",
        "#1 0.500 one",
        "",
        "#2 [3/4] COPY a b",
        "#2 CACHED",
        "",
        "#1 [builder 2/4] RUN make",
        "#1 0.750 two",
        "#1 1.250 rest",
        "#1 DONE 1.2s",
    ]


def test_plain_progress_says_how_a_step_ended():
    task = events.task("x")
    lines = shown(Plain, [Started(task=task), Failed(task=task, message="boom"), Canceled(task=task)]).splitlines()
    assert lines[1:] == ["#1 ERROR: boom", "#1 CANCELED"]
    warned = Warned(message="odd", rule="UndefinedVar", location=Location(file="Dockerfile", start=3, end=3))
    assert shown(Plain, [warned]) == "WARN: UndefinedVar: odd (Dockerfile:3)\n"


def test_what_a_step_writes_does_not_command_the_terminal():
    task = events.task("x")
    data = b"\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2Jgone\rlast\n"
    text = shown(Plain, [Started(task=task, at=0), Output(task=task, at=0, fd=1, data=data)])
    assert text.splitlines()[-1] == "#1 0.000 last"
    text = shown(Plain, [Started(task=task, at=0), Output(task=task, at=0, fd=1, data=data.replace(b"\r", b""))])
    assert text.splitlines()[-1] == "#1 0.000 \x1b[31mred\x1b[0m ]0;title [2Jgonelast"


def test_raw_json_is_one_object_a_line_in_the_words_of_buildkits_solve_status():
    base = events.task("base")
    task = events.task("x", inputs=(base,))
    said = [
        Cached(task=base, at=0),
        Started(task=task, at=0),
        Output(task=task, at=1, fd=2, data=b"hi"),
        Status(task=task, at=1, name="a", current=1, total=2),
        Status(task=task, at=2, name="a", current=2, total=2, done=True),
        Failed(task=task, at=3, message="boom"),
        Warned(message="odd", rule="R", location=Location(file="Dockerfile", start=3, end=4)),
    ]
    documents = [json.loads(line) for line in shown(RawJson, said).splitlines()]
    below, vertex = documents[0]["vertexes"][0]["digest"], documents[1]["vertexes"][0]["digest"]
    assert below != vertex
    assert {len(below), len(vertex)} == {len("sha256:") + 64}
    times = [f"1970-01-01T00:00:0{second}.000000000Z" for second in range(4)]
    started = {"digest": vertex, "name": "x", "started": times[0], "inputs": [below]}
    status = {"id": "a", "vertex": vertex, "total": 2, "started": times[1]}
    assert documents == [
        {
            "vertexes": [
                {"digest": below, "name": "base", "started": times[0], "completed": times[0], "cached": True},
            ]
        },
        {"vertexes": [started]},
        {"logs": [{"vertex": vertex, "stream": 2, "data": "aGk=", "timestamp": times[1]}]},
        {"statuses": [{**status, "current": 1, "timestamp": times[1]}]},
        {"statuses": [{**status, "current": 2, "timestamp": times[2], "completed": times[2]}]},
        {"vertexes": [{**started, "completed": times[3], "error": "boom"}]},
        {
            "warnings": [
                {
                    "level": 1,
                    "short": base64.b64encode(b"WARN: R: odd (Dockerfile:3)").decode(),
                    "range": [{"start": {"line": 3}, "end": {"line": 4}}],
                    "sourceInfo": {"filename": "Dockerfile"},
                }
            ]
        },
    ]


def test_plain_progress_speaks_of_parts_at_their_end_and_now_and_then():
    task = events.task("x")
    said = [Started(task=task, at=0)]
    said += [Status(task=task, at=at, name="layer", current=at * 1000, total=9000) for at in (1, 6, 7, 8)]
    said.append(Status(task=task, at=9, name="layer", current=9000, total=9000, done=True))
    assert shown(Plain, said).splitlines()[1:] == ["#1 layer 6.00kB / 9.00kB", "#1 layer 9.00kB done"]


def test_the_live_view_ends_with_what_is_finished(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    task, other = events.task("done"), events.task("running")
    text = shown(Live, [Started(task=other, at=0), Started(task=task, at=1), Completed(task=task, at=2)])
    assert " => done 1.0s" in text
    assert "\x1b[3" not in text


@pytest.mark.parametrize(
    ("mode", "variable", "kind"), [("auto", "rawjson", RawJson), ("auto", "", Plain), ("tty", "", Live)]
)
def test_the_view_is_the_options_then_the_variables_then_the_streams(monkeypatch, mode, variable, kind):
    monkeypatch.setenv("BUILDKIT_PROGRESS", variable)
    assert isinstance(display(mode, io.StringIO()), kind)


@pytest.mark.parametrize("view_type", [Plain, Live])
def test_neither_a_steps_name_nor_its_error_commands_the_terminal(view_type):
    task = events.task("RUN \x1b]0;title\x07 \udce9")
    said = shown(view_type, [Started(task=task, at=1.0), Failed(task=task, at=2.0, message="no \x1b[2Jsuch \udce9")])
    assert [command for command in ("\x1b]", "\x07", "\x1b[2J", "\udce9") if command in said] == []
