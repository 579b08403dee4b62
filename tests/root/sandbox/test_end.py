"""However a step ends, nothing of it stays: no process, mount, loop device or file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import isolation
from firekiln.errors import SandboxError
from firekiln.sandbox import NamespaceRunner
from firekiln.sandbox.step import Step
from systems import left_behind, spawners_of

pytestmark = pytest.mark.root


def running_with(marker: str) -> list[int]:
    """Processes whose command line holds `marker`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "cmdline").read_bytes() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def gone(marker: str, seconds: float = 3.0) -> bool:
    deadline = time.monotonic() + seconds
    while running_with(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def ended(pid: int, seconds: float = 3.0) -> bool:
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(autouse=True)
def _nothing_left(base):
    before = left_behind(base.parent)  # others may be at work on this host
    yield  # what follows comes after the runner's own end: fixtures used everywhere are made first
    deadline = time.monotonic() + 3
    while more(before, base.parent) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert more(before, base.parent) == []


def more(before, folder):
    return [one for then, now in zip(before, left_behind(folder), strict=True) for one in now if one not in then]


def test_daemons_of_a_step_end_with_it(run):
    result = run("setsid sleep 98765 & (setsid sleep 98766 &) ; sleep 0.05; echo done")
    assert result.out == "done\n"
    assert gone("98765", 0.5)
    assert gone("98766", 0.5)


def test_output_comes_as_it_is_written(runner, base):
    times = []
    step = Step(layers=(base,), args=("/bin/sh", "-c", "echo one; sleep 0.5; echo two"), env=(), cwd="/")
    with runner.run(step, output=lambda _, __: times.append(time.monotonic()), cancel=threading.Event()):
        pass
    assert len(times) == 2
    assert times[1] - times[0] > 0.3


def test_cancelling_ends_a_step_within_a_second(run):
    run("true")
    cancel = threading.Event()
    set_at = []
    threading.Timer(0.3, lambda: (set_at.append(time.monotonic()), cancel.set())).start()
    with pytest.raises(SandboxError, match="cancelled"):
        run("trap '' TERM; sleep 54321", cancel=cancel)
    assert time.monotonic() - set_at[0] < 1
    assert gone("54321", 0.5)


def test_an_error_of_the_listener_ends_the_step(runner, base):
    def output(fd: int, data: bytes) -> None:
        raise RuntimeError("nobody listens")

    step = Step(layers=(base,), args=("/bin/sh", "-c", "echo x; sleep 54322"), env=(), cwd="/")
    with pytest.raises(RuntimeError, match="nobody"), runner.run(step, output=output, cancel=threading.Event()):
        pass
    assert gone("54322", 0.5)


def test_steps_run_at_the_same_time_from_several_threads(run):
    results = {}

    def one(number: int) -> None:
        results[number] = run(f"sleep 0.3; echo {number}")

    began = time.monotonic()
    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: result.out for number, result in results.items()} == {n: f"{n}\n" for n in range(8)}
    assert time.monotonic() - began < 2


def test_a_runner_goes_on_after_its_spawner_was_killed(run):
    run("true")
    (spawner,) = spawners_of(os.getpid())
    threading.Timer(0.3, os.kill, (spawner, signal.SIGKILL)).start()
    with pytest.raises(SandboxError, match="ended"):
        run("sleep 54323")
    assert gone("54323", 0.5), "the step dies with the spawner"
    assert run("echo again").out == "again\n"


@pytest.mark.parametrize("memory", [True, False])
def test_a_killed_build_leaves_no_process_and_no_mount(base, tmp_path, memory):
    script = f"""
        import threading
        from pathlib import Path
        from firekiln.sandbox import NamespaceRunner
        from firekiln.sandbox.step import Step
        line = "echo up; (setsid sleep 54324 &); sleep 54324"
        step = Step(layers=(Path({str(base)!r}),), args=("/bin/sh", "-c", line), env=(), cwd="/")
        def output(fd, data):
            print(data.decode(), end="", flush=True)
        with NamespaceRunner(Path({str(tmp_path)!r}), memory={memory}) as runner:
            with runner.run(step, output=output, cancel=threading.Event()):
                pass
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE) as build:
        assert build.stdout.readline() == b"up\n"
        assert running_with("54324")
        (spawner,) = spawners_of(build.pid)
        build.kill()
    assert gone("54324", 2)
    assert ended(spawner)
    time.sleep(1)  # younger folders are left alone
    with NamespaceRunner(tmp_path) as later:  # what the killed one left on disk goes with the next one's start
        step = Step(layers=(base,), args=("/bin/true",), env=(), cwd="/")
        with later.run(step, output=lambda _, __: None, cancel=threading.Event()) as outcome:
            assert outcome.status == 0
    assert list(tmp_path.glob("firekiln-step-*")) == []


@isolation.needs_root
def test_a_layer_that_is_none_is_an_error(run, tmp_path):
    (tmp_path / "bad").write_bytes(b"no file system" * 1000)
    with pytest.raises(SandboxError, match="cannot mount the layer"):
        run("true", layers=[tmp_path / "bad"])
    with pytest.raises(SandboxError, match="No such file"):
        run("true", layers=[tmp_path / "none"])


@isolation.needs_root
def test_layers_can_be_mounted_by_loop_devices(run, base, monkeypatch):
    from firekiln.sandbox import mounts

    original = mounts.filesystem

    def without_file_backing(kind, options, **more):
        if kind == "erofs" and not options["source"].startswith("/dev/loop"):
            raise OSError(15, "Block device required", kind)
        return original(kind, options, **more)

    monkeypatch.setattr(mounts, "filesystem", without_file_backing)
    assert run("echo by loop").out == "by loop\n"


def test_a_runner_that_was_never_used_starts_nothing(tmp_path):
    with NamespaceRunner(tmp_path) as runner:
        assert runner.supports(["default", "none", "host"])
        assert not runner.supports(["bridge"])
        assert spawners_of(os.getpid()) == []


def test_closing_ends_what_still_runs(tmp_path, base):
    runner = NamespaceRunner(tmp_path)
    up = threading.Event()
    failures = []

    def work() -> None:
        step = Step(layers=(base,), args=("/bin/sh", "-c", "echo up; sleep 54325"), env=(), cwd="/")
        try:
            with runner.run(step, output=lambda _, __: up.set(), cancel=threading.Event()) as outcome:
                failures.append(outcome.status)
        except SandboxError as error:
            failures.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert up.wait(5)
    runner.close()
    thread.join(5)
    assert gone("54325", 1)
    assert len(failures) == 1
