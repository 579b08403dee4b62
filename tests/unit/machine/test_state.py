import signal
import subprocess
import sys
import time

import pytest

from firekiln.errors import ConflictError, ContainerNotFoundError, StoreError, UsageError
from firekiln.machine.names import random_id, random_name
from firekiln.machine.supervision import lastword
from firekiln.machine.supervision.state import Record, State


def record(name="", **changes):
    made = {"id": random_id(), "name": name, "image": "hello", "image_digest": "sha256:0", "created_ns": time.time_ns()}
    return Record(**made, settings="{}", config="{}", **changes)


HOLDER = """
import sys, time
from pathlib import Path
from firekiln.machine.supervision.state import Record, State
state = State(Path(sys.argv[1]))
record = Record(id="f" * 64, name="web", image="", image_digest="", created_ns=1, settings="", config="")
made, lock = state.create(record)
state.update(made.id, status="running", pid=1)
print("ready", flush=True)
time.sleep(60)
"""
"""A program that runs a machine, as far as the state is concerned."""


@pytest.fixture
def state(tmp_path):
    return State(tmp_path)


def test_a_machine_is_found_by_name_id_and_the_beginning_of_its_id(state):
    made, lock = state.create(record("web"))
    with_words = [state.get(word) for word in ("web", made.id, made.id[:12])]
    assert [found.id for found in with_words] == [made.id] * 3
    lock.release()


@pytest.mark.parametrize("word", ["", "nothing", "we"])
def test_another_word_finds_nothing(state, word):
    state.create(record("web"))[1].release()
    with pytest.raises(ContainerNotFoundError, match="No such container"):
        state.get(word)


def test_a_beginning_of_two_ids_is_refused_and_a_name_comes_before_an_id(state):
    first, _ = state.create(record("abc"))
    second, _ = state.create(Record(**{**_fields(record("x1")), "id": "abc" + "0" * 61}))
    third, _ = state.create(Record(**{**_fields(record("x2")), "id": "abc" + "1" * 61}))
    assert state.get("abc").id == first.id
    with pytest.raises(ContainerNotFoundError, match="several"):
        state.get("ab")
    assert state.get("abc0").id == second.id
    assert state.get("abc1").id == third.id


def _fields(made):
    return {name: getattr(made, name) for name in made.__dataclass_fields__}


def test_a_taken_name_is_refused_and_leaves_nothing(state, tmp_path):
    state.create(record("web"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConflictError, match="already in use") as caught:
        state.create(record("web"))
    assert caught.value.exit_status == 125
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["-x", "a", "a b", "a/b", "ä1"])
def test_a_name_that_docker_refuses_is_refused(state, name):
    with pytest.raises(UsageError, match="Invalid container name"):
        state.create(record(name))


def test_a_machine_without_a_name_is_given_one(state):
    made, _ = state.create(record())
    assert state.get(made.name).id == made.id
    assert random_name().count("_") == 1


def test_a_running_machine_whose_supervisor_was_killed_is_put_down_as_ended(state, tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLDER,
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"ready\n"
        assert state.get("web").status == "running"
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    ended = state.get("web")
    assert (ended.status, ended.exit_status, ended.pid) == ("exited", 137, 0)
    assert "supervisor was killed" in ended.error


def test_an_end_that_the_database_could_not_be_told_is_not_lost(state):
    made, lock = state.create(record("web"))
    folder = state.folder_of(made.id)
    lastword.reserve(folder)
    size = (folder / lastword.NAME).stat().st_size
    state.update(made.id, status="running", pid=1)
    lastword.leave(folder, {"status": "exited", "exit_status": 3, "error": "e" * 9000, "finished_ns": 5, "pid": 0})
    lock.release()
    found = state.get("web")
    assert (found.status, found.exit_status, found.finished_ns, found.error) == ("exited", 3, 5, "e" * 1024)
    assert (folder / lastword.NAME).stat().st_size == size  # no byte more: there may be no room
    lastword.reserve(folder)
    assert lastword.found(folder) is None


def test_the_lock_passes_to_a_child_that_inherits_it(state):
    made, lock = state.create(record("web"))
    child = subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=[lock.fd], stdin=subprocess.PIPE)
    lock.release()
    assert state.is_alive(made.id)
    child.communicate(b"\n")
    assert not state.is_alive(made.id)


def test_a_removed_machine_leaves_nothing(state, tmp_path):
    made, lock = state.create(record("web"))
    lock.release()
    state.remove(made.id)
    state.remove(made.id)
    assert state.list() == []
    assert not (tmp_path / made.id).exists()


def test_machines_are_listed_youngest_first(state):
    for number in range(3):
        state.create(record(f"machine{number}"))
    assert [found.name for found in state.list()] == ["machine2", "machine1", "machine0"]


def test_a_damaged_database_is_an_error_in_one_line(state, tmp_path):
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"state\.db"):
        state.list()


def test_the_lock_file_is_private(state):
    made, _ = state.create(record("web"))
    assert state.folder_of(made.id).stat().st_mode & 0o777 == 0o700
