"""One machine that runs for long, and all that is done to it meanwhile: exec, copies, figures, health, attach."""

import json
import os
import pty
import subprocess
import time
from pathlib import Path

import pytest

from firekiln.machine.guest.contract import Restart
from machines import argv, output

BEATING = ("sh", "-c", "trap 'exit 3' TERM; n=0; while :; do n=$((n+1)); echo beat $n; sleep 0.5; done")
CHECK = {"test": ("CMD-SHELL", "test ! -e /sick && echo fine"), "interval": 300_000_000, "retries": 1}


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def state_of(firekiln, name):
    return json.loads(firekiln("inspect", "-f", "{{json .State}}", name).stdout)


def health_of(firekiln, name):
    return state_of(firekiln, name)["Health"]


def in_terminal(store, *args, typed=b""):
    """What a command prints on a terminal of 33 lines and 101 columns; `typed` once it has printed something."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(argv(store)[0], argv(store, *args))
    import fcntl
    import struct
    import termios

    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    said = b""
    try:
        while data := os.read(fd, 4096):
            said += data
            if typed and b"ready\r\n" in said:
                os.write(fd, typed)
                typed = b""
    except OSError:  # a terminal nobody has open any more
        pass
    finally:
        os.close(fd)
    return said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="module")
def machine(store):
    from firekiln.machine.options import RunOptions
    from firekiln.machine.run import start

    options = RunOptions(image="busybox", name="long", args=BEATING, health=CHECK, stdin=True)
    with start(store, options) as made:
        yield made


def test_exec_passes_words_streams_user_directory_and_status_on(machine, firekiln):
    done = firekiln(
        *("exec", "-u", "web", "-w", "/www", "-e", "WORD=a b", "long"),
        *("sh", "-c", 'pwd; id -un; echo "$WORD"; echo "<$1>"; echo err >&2; exit 9', "sh", "x  y"),
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"/www\nweb\na b\n<x  y>\n", b"err\n", 9)
    data = os.urandom(300_000)
    assert firekiln("exec", "-i", "long", "cat", input=data).stdout == data
    missing = firekiln("exec", "long", "nosuch")
    assert (missing.returncode, b'exec: "nosuch": executable file not found in $PATH' in missing.stderr) == (127, True)
    for words in (("long", "/etc/passwd"), ("-u", "nosuch", "long", "id"), ("-w", "/nosuch", "long", "pwd")):
        assert firekiln("exec", *words).returncode == 126
    assert b"Cwd must be an absolute path" in firekiln("exec", "-w", "www", "long", "pwd").stderr
    assert firekiln("exec", "long", "sh", "-c", "kill -9 $$").returncode == 137
    assert firekiln("exec", "absent", "true").returncode == 1
    assert firekiln("exec", "-d", "long", "sh", "-c", "sleep 0.3; echo later >/tmp/later").returncode == 0
    wait_for(lambda: firekiln("exec", "long", "cat", "/tmp/later").stdout == b"later\n")


def test_exec_with_a_terminal_has_its_size_and_gives_it_back(machine, store, firekiln):
    script = "stty size; echo ready; read word; echo got $word; exit 4"
    said, status = in_terminal(store, "exec", "-it", "long", "sh", "-c", script, typed=b"hello\r")
    assert (said, status) == (b"33 101\r\nready\r\nhello\r\ngot hello\r\n", 4)
    said, status = in_terminal(store, "exec", "-it", "long", "sh", "-c", "echo ready; cat", typed=b"\x10\x11")
    assert (said, status) == (b"ready\r\nread escape sequence\r\n", 0)
    for verb in (("exec", "-it", "long"), ("run", "-it", "--rm", "busybox")):
        refused = firekiln(*verb, "true", stdin=subprocess.DEVNULL)
        assert (refused.returncode, b"the input device is not a TTY" in refused.stderr) == (1, True)


def test_a_client_that_does_not_read_stops_only_its_own_process(machine, store, firekiln):
    with subprocess.Popen(argv(store, "exec", "long", "cat", "/dev/zero"), stdout=subprocess.PIPE) as lazy:
        assert lazy.stdout.read(1)
        time.sleep(1)
        assert firekiln("exec", "long", "echo", "others go on").stdout == b"others go on\n"
        before = len(output(machine))
        wait_for(lambda: len(output(machine)) > before)
        lazy.kill()
    wait_for(lambda: b"/dev/zero" not in firekiln("top", "long").stdout)


def test_health_turns_with_what_the_check_says(machine, firekiln):
    wait_for(lambda: health_of(firekiln, "long")["Status"] == "healthy")
    assert b"(healthy)" in firekiln("ps").stdout
    firekiln("exec", "long", "touch", "/sick")
    wait_for(lambda: health_of(firekiln, "long")["Status"] == "unhealthy")
    health = health_of(firekiln, "long")
    assert health["FailingStreak"] >= 1
    assert 1 <= len(health["Log"]) <= 5
    assert health["Log"][-1]["ExitCode"] == 1
    firekiln("exec", "long", "rm", "/sick")
    wait_for(lambda: health_of(firekiln, "long")["Status"] == "healthy")
    assert health_of(firekiln, "long")["Log"][-1]["Output"] == "fine\n"


def test_files_are_copied_both_ways_whatever_their_names_are(machine, firekiln, tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    for name in (b"a b", b"-n", b"caf\xe9", b"new\nline"):
        (source / "sub" / os.fsdecode(name)).write_bytes(name * 1000)
    (source / "link").symlink_to("sub/a b")
    assert firekiln("cp", str(source), "long:/tmp/made").returncode == 0
    assert firekiln("cp", "long:/tmp/made", str(tmp_path / "back")).returncode == 0
    back = tmp_path / "back"
    assert {path.name: path.read_bytes() for path in (back / "sub").iterdir()} == {
        path.name: path.read_bytes() for path in (source / "sub").iterdir()
    }
    assert (back / "link").readlink() == Path("sub/a b")
    assert firekiln("cp", f"{source}/.", "long:/www").returncode == 0
    assert firekiln("exec", "long", "ls", "/www").stdout == b"index.html\nlink\nsub\n"
    assert firekiln("cp", "long:/www/index.html", str(tmp_path / "page")).returncode == 0
    assert (tmp_path / "page").read_bytes() == b"hello from the machine\n"
    archive = firekiln("cp", "long:/www/index.html", "-").stdout
    assert firekiln("cp", "-", "long:/tmp", input=archive).returncode == 0
    assert firekiln("exec", "long", "cat", "/tmp/index.html").stdout == b"hello from the machine\n"
    for args, words in (
        (("long:/nosuch", str(tmp_path)), b"Could not find the file /nosuch in container long"),
        ((str(source), "long:/no/such/place"), b"Could not find the file /no/such in container long"),
        ((f"{tmp_path}/nosuch", "long:/"), b"no such file or directory"),
        (("long:/etc", "long:/tmp"), b"copying between containers is not supported"),
        (("long:/etc", str(tmp_path / "page")), b"cannot copy directory"),
        ((str(source), str(tmp_path)), b"must specify at least one container source"),
    ):
        done = firekiln("cp", *args)
        assert done.returncode == 1
        assert words in done.stderr


def test_figures_are_plausible(machine, firekiln):
    (line,) = firekiln("stats", "--no-stream", "--format", "json", "long").stdout.splitlines()
    row = json.loads(line)
    assert row["Name"] == "long"
    assert 0 < float(row["MemPerc"].rstrip("%")) < 60
    assert 0 <= float(row["CPUPerc"].rstrip("%")) <= 120
    assert int(row["PIDs"]) >= 2
    heading, *rows = firekiln("top", "long").stdout.decode().splitlines()
    assert heading.split() == "UID PID PPID C STIME TTY TIME CMD".split()
    assert any("beat" in row for row in rows)
    heading, *rows = firekiln("top", "long", "-o", "pid,user,etime,args").stdout.decode().splitlines()
    assert heading.split() == "PID USER ELAPSED COMMAND".split()
    assert all(row.split()[1] == "root" for row in rows)


def test_attach_shows_what_is_written_from_now_on_and_may_leave(machine, store, firekiln):
    with subprocess.Popen(
        argv(store, "attach", "--no-stdin", "--no-sig-proxy", "long"), stdout=subprocess.PIPE
    ) as attached:
        assert attached.stdout.readline().startswith(b"beat ")
        attached.kill()
    assert state_of(firekiln, "long")["Running"]
    said = firekiln(
        "events", "--since", "10m", "--until", "0s", "--filter", "container=long", "--format", "{{.Action}}"
    )
    assert {b"create", b"start", b"exec_start", b"exec_die", b"attach"} <= set(said.stdout.split())


def test_a_process_that_fails_is_started_again_as_often_as_was_said(boot, firekiln):
    made = boot("sh", "-c", "echo run; exit 5", restart=Restart(policy="on-failure", retries=2))
    assert made.wait(60) == 5
    assert output(made) == "run\nrun\nrun\n"
    assert firekiln("inspect", "-f", "{{.RestartCount}}", made.name).stdout == b"2\n"


def test_after_a_kill_of_the_vmm_and_a_panic_the_machine_boots_again_and_a_stop_is_for_good(boot, firekiln):
    made = boot(*BEATING, restart=Restart(policy="always"))

    def wait_for_start(number):
        """Until the process has said its first word, so that it has set its trap too, for so many times."""
        wait_for(lambda: output(made).count("beat 1\n") == number)
        assert made.record.status == "running"
        assert firekiln("inspect", "-f", "{{.RestartCount}}", made.name).stdout == b"%d\n" % (number - 1)

    wait_for_start(1)
    os.kill(made.record.pid, 9)
    wait_for_start(2)
    firekiln("exec", made.name, "sh", "-c", "echo c >/proc/sysrq-trigger")
    wait_for_start(3)
    made.stop(60)
    assert (made.record.status, made.record.exit_status) == ("exited", 3)


@pytest.mark.slow
def test_retries_count_on_through_a_boot_of_the_machine(boot, firekiln):
    script = "echo run >>/runs; sync; echo run; test $(wc -l </runs) = 2 && exec sleep 1000; exit 5"
    made = boot("sh", "-c", script, restart=Restart(policy="on-failure", retries=3))
    wait_for(lambda: output(made) == "run\nrun\n" and made.record.status == "running")
    os.kill(made.record.pid, 9)
    assert made.wait(240) == 5
    assert output(made) == 4 * "run\n"
    assert firekiln("inspect", "-f", "{{.RestartCount}}", made.name).stdout == b"3\n"


def test_input_goes_to_the_process_and_a_stopped_machine_can_be_read_and_booted_again(store, firekiln):
    done = firekiln(
        "run", "-i", "--name", "again", "busybox", "sh", "-c", "cat >/data; echo kept; cat /data", input=b"one\n"
    )
    assert (done.stdout, done.returncode) == (b"kept\none\n", 0)
    assert firekiln("cp", "again:/data", "-").stdout.count(b"one\n") == 1
    refused = firekiln("cp", "/etc/passwd", "again:/")
    assert b"again does not run" in refused.stderr
    assert firekiln("start", "-a", "-i", "again", input=b"two\n").stdout == b"kept\ntwo\n"
    assert firekiln("rename", "again", "renamed").returncode == 0
    assert firekiln("rm", "renamed").returncode == 0
    made = firekiln("create", "--name", "made", "-l", "a=b", "busybox", "echo", "created")
    assert made.returncode == 0
    assert b"Created" in firekiln("ps", "-a", "-f", "label=a=b").stdout
    assert firekiln("start", "-a", "made").stdout == b"created\n"
    assert firekiln("container", "prune", "-f").stdout.count(made.stdout.strip()) == 1


def test_a_whole_run_on_a_terminal(store):
    script = "tty; stty size; echo ready; read word; echo got $word; exit 6"
    said, status = in_terminal(store, "run", "--rm", "-it", "busybox", "sh", "-c", script, typed=b"hello\r")
    assert status == 6
    assert said.replace(b"\r\n", b"\n").endswith(b"33 101\nready\nhello\ngot hello\n")
