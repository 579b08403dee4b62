"""What a step may use, and that nothing of the control groups stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from firekiln.errors import SandboxError
from firekiln.sandbox import NamespaceRunner, cgroup
from firekiln.sandbox.limits import Limits, Ulimit
from firekiln.sandbox.runner import PROCESSES
from firekiln.sandbox.runner import _pid_max_is_private as pid_max_is_private
from systems import spawners_of

pytestmark = pytest.mark.root

MIB = 1 << 20


def groups_of(runner: NamespaceRunner) -> list[Path]:
    return list(runner._groups._homes.values())


def controller(name: str) -> None:
    if cgroup.find(name) is None:
        pytest.skip(f"no {name} cgroup here")


def test_ulimits_are_set(run):
    limits = Limits(ulimits=(Ulimit(name="nofile", soft=77, hard=88), Ulimit(name="core", soft=0, hard=0)))
    result = run("ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc", limits=limits, user="bob")
    assert result.out.split() == ["77", "88", "0", "0"]


def test_ulimits_are_raised_where_the_host_lets_us(run):
    limits = Limits(ulimits=(Ulimit(name="nproc", soft=-1, hard=-1), Ulimit(name="sigpending", soft=-1, hard=-1)))
    if _may_raise():
        assert run("ulimit -Hp", limits=limits, user="bob").out == "unlimited\n"
    else:
        with pytest.raises(SandboxError, match=r"^cannot set a --ulimit: not allowed"):
            run("true", limits=limits)


def _may_raise() -> bool:
    status = Path("/proc/self/status").read_text().splitlines()
    sys_resource = 24
    return any(line.startswith("CapEff") and int(line.split()[1], 16) >> sys_resource & 1 for line in status)


def test_shared_memory_has_the_size_that_is_asked_for(run):
    assert run("df -k /dev/shm | tail -1").out.split()[1] == "65536"
    assert run("df -k /dev/shm | tail -1", limits=Limits(shm_size=3 * MIB)).out.split()[1] == "3072"


def test_a_step_that_exceeds_its_memory_is_killed_and_it_is_said_why(runner, base, run):
    controller("memory")
    import threading

    from firekiln.sandbox.step import Step

    def step(line: str, memory: int) -> Step:
        return Step(layers=(base,), args=("/bin/sh", "-c", line), env=(), cwd="/", limits=Limits(memory=memory * MIB))

    def outcome(line: str, memory: int = 24):
        with runner.run(step(line, memory), output=lambda _, __: None, cancel=threading.Event()) as ended:
            return ended.status, ended.out_of_memory

    assert outcome("true") == (0, False)
    assert outcome("exit 137") == (137, False)
    status, killed = outcome("head -c 64m /dev/zero | tail -c 60m >/dev/null; exit $?")
    assert killed
    assert status == 137
    assert outcome("head -c 64m /dev/zero >/big; test -s /big") == (0, False), "files are not the step's memory"
    assert [step for group in groups_of(runner) for step in group.glob("step-*")] == []


def test_a_step_gets_no_more_than_its_share_of_the_processors(run):
    controller("cpu")
    burn = "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done"
    told = run(f"time -p sh -c '{burn}'", limits=Limits(cpus=0.1)).err.split()
    took = dict(zip(told[::2], map(float, told[1::2]), strict=True))
    assert took["user"] + took["sys"] < 0.25 * took["real"], "however busy the host is"


def test_a_step_sees_its_own_control_group_as_the_root(run):
    controller("memory")
    for limits in (Limits(), Limits(memory=64 * MIB)):
        assert "firekiln" not in run("cat /proc/self/cgroup", limits=limits).out


BOMB = "b() { b | b & }; b; wait; n=0; while [ $n -lt 400 ]; do sleep 9 & n=$((n+1)); done; echo all"


def test_a_fork_bomb_ends_at_the_limit_and_the_next_step_runs(base, run, tmp_path):
    controller("pids")
    with NamespaceRunner(tmp_path, processes=100) as limited:
        result = run(BOMB, on=limited)
        assert "all" not in result.out
        assert "fork" in result.err
        assert run("echo again", on=limited).out == "again\n"
        (group,) = groups_of(limited)
        assert (group / "spawner").is_dir()
        limited.close()
        assert not group.exists()
        assert "all" not in run(BOMB, on=limited).out, "one that is used again has a group again"
        (group,) = groups_of(limited)
    assert not group.exists()


def test_by_default_processes_are_limited_too(runner, run):
    controller("pids")
    run("true")
    (spawner,) = spawners_of(os.getpid())
    (group,) = groups_of(runner)
    assert (group / "pids.max").read_text() == f"{PROCESSES}\n"
    assert (group / "spawner/cgroup.procs").read_text() == f"{spawner}\n"


def test_without_control_groups_process_ids_limit_a_fork_bomb(base, run, tmp_path, monkeypatch):
    if not pid_max_is_private():
        pytest.skip("needs Linux 6.14")
    of_the_host = Path("/proc/sys/kernel/pid_max")
    before = of_the_host.read_text()
    monkeypatch.setattr(cgroup, "find", lambda _: None)
    monkeypatch.setattr("firekiln.sandbox.runner.PROCESSES", 350)
    with NamespaceRunner(tmp_path) as without:
        assert run("cat /proc/sys/kernel/pid_max", on=without).out == "350\n"
        result = run(BOMB, on=without)
        assert "all" not in result.out
    assert of_the_host.read_text() == before


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("--memory", (Limits(memory=64 * MIB), None)),
        ("--cpus", (Limits(cpus=1), None)),
        ("--pids-limit", (Limits(), 9)),
    ],
)
def test_a_limit_that_the_host_cannot_keep_is_an_error(run, tmp_path, monkeypatch, option, wanted):
    limits, processes = wanted
    monkeypatch.setattr(cgroup, "find", lambda _: None)
    with NamespaceRunner(tmp_path, processes=processes) as without, pytest.raises(SandboxError, match=f"^{option}: "):
        run("true", on=without, limits=limits)


def test_control_groups_of_a_killed_build_go_with_the_next_one(base, tmp_path, run):
    controller("memory")
    script = f"""
        import threading
        from pathlib import Path
        from firekiln.sandbox import NamespaceRunner
        from firekiln.sandbox.limits import Limits
        from firekiln.sandbox.step import Step
        step = Step(layers=(Path({str(base)!r}),), args=("/bin/sh", "-c", "echo up; sleep 9"), env=(), cwd="/",
                    limits=Limits(memory=64 << 20))
        def output(fd, data):
            print(data.decode(), end="", flush=True)
        with NamespaceRunner(Path({str(tmp_path)!r})) as runner:
            with runner.run(step, output=output, cancel=threading.Event()):
                pass
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE) as build:
        assert build.stdout.readline() == b"up\n"
        (spawner,) = spawners_of(build.pid)
        own = [Path(line.split(":")[2]) for line in Path(f"/proc/{spawner}/cgroup").read_text().splitlines()]
        place = cgroup.find("pids")
        (group,) = (place.folder / own_path.parent.name for own_path in own if own_path.name == "spawner")
        build.send_signal(signal.SIGKILL)
    assert group.is_dir()
    with NamespaceRunner(tmp_path) as later:
        assert run("true", on=later, limits=Limits(memory=64 * MIB)).status == 0
    assert not group.exists()
