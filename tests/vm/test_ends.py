"""How the process of a machine ends, and what is made of it: memory that ran out, and what starts again after what."""

import json
import time

import pytest

from firekiln.machine.guest.contract import Restart
from machines import output

MIB = 1 << 20
DEADLINE = 240
ENDS = """
read -r n 2>/dev/null </n || n=0
echo $((n + 1)) >/n
echo "start $n"
case $n in
0) exit 0 ;;
1) exit 3 ;;
2) kill -KILL $$ ;;
3) kill -SEGV $$ ;;
4) exec tail /dev/zero ;;
esac
exec sleep 1000
"""


def inspected(firekiln, machine):
    done = firekiln("inspect", machine.id)
    assert done.returncode == 0, done
    return json.loads(done.stdout)[0]


@pytest.mark.parametrize(
    ("argv", "oom"),
    [(("tail", "/dev/zero"), True), pytest.param(("sh", "-c", "kill -KILL $$"), False, marks=pytest.mark.slow)],
)
def test_an_end_for_want_of_memory_is_told_apart_from_another_kill(boot, firekiln, argv, oom):
    machine = boot(*argv, memory=128 * MIB)
    assert machine.wait(DEADLINE) == 137
    state = inspected(firekiln, machine)["State"]
    assert (state["ExitCode"], state["OOMKilled"], state["Running"]) == (137, oom, False)


@pytest.mark.slow
def test_always_starts_it_again_after_each_kind_of_end(boot, firekiln):
    machine = boot("sh", "-c", ENDS, memory=128 * MIB, restart=Restart(policy="always"))
    deadline = time.monotonic() + DEADLINE
    while "start 5\n" not in output(machine) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert output(machine) == "".join(f"start {number}\n" for number in range(6))
    found = inspected(firekiln, machine)
    assert (found["State"]["Running"], found["RestartCount"]) == (True, 5)
