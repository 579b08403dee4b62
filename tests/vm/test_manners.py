"""What docker's users type first, at machines that run and machines that don't: the words and statuses that they know.

Each row was typed at Docker 20.10 too.
"""

import os
import sys
import tempfile
import time

import pytest

from firekiln.cli.main import main

SCRIPT = "trap 'exit 3' TERM; trap 'exit 4' USR1; echo hello; echo oops >&2; while :; do sleep 0.2; done"
NOWHERE = "No such container: nosuch"

RUNNING = [
    # command, status, standard output (None: any), a part of standard error
    ("logs web", 0, "hello\n", "oops\n"),
    ("logs --tail 0 web", 0, "", ""),
    ("logs -n 1 web", 0, None, ""),
    ("logs --details web", 0, " hello\n", " oops\n"),
    ("logs nosuch", 1, "", NOWHERE),
    ("exec web echo hi", 0, "hi\n", ""),
    ("exec -it web echo hi", 1, "", "the input device is not a TTY"),
    ("exec -t web echo hi", 0, "hi\r\n", ""),
    ("exec nosuch true", 1, "", NOWHERE),
    ("exec web nosuch", 127, "", 'exec: "nosuch": executable file not found in $PATH'),
    ("exec -u nosuch web true", 126, "", "unable to find user nosuch: no matching entries in passwd file"),
    ("exec -w /nosuch web pwd", 126, "", "no such file or directory"),
    ("exec -w rel web pwd", 126, "", "Cwd must be an absolute path"),
    ("exec --env-file /nosuch web true", 1, "", "open /nosuch: no such file or directory"),
    ("exec -e A=b -e C web sh -c [$A$C]", 127, "", "[b]"),
    ("cp web:/nosuch .", 1, "", "Could not find the file /nosuch in container web"),
    ("cp web:/nosuch -", 1, "", "Could not find the file /nosuch in container web"),
    ("cp /nosuch web:/tmp", 1, "", "/nosuch: no such file or directory"),
    ("cp nosuch:/etc/passwd .", 1, "", NOWHERE),
    ("cp web:/etc/passwd nodir/", 1, "", "no such directory"),
    ("cp /etc/passwd web:/nodir/", 1, "", "no such directory"),
    ("cp /etc/passwd web:/nodir/x", 1, "", "Could not find the file /nodir in container web"),
    ("cp web:/a web:/b", 1, "", "copying between containers is not supported"),
    ("cp /a /b", 1, "", "must specify at least one container source"),
    ("top nosuch", 1, "", NOWHERE),
    ("top web -o nosuch", 1, "", "unknown user-defined format specifier"),
    ("port web", 0, "", ""),
    ("port web 80", 1, "", "o public port '80/tcp' published for web"),
    ("port nosuch", 1, "", NOWHERE),
    ("inspect nosuch", 1, "[]\n", "No such object: nosuch"),
    ("inspect --type container web -f {{.Name}}", 0, "/web\n", ""),
    ("inspect -f {{.State.Status}},{{.State.Running}},{{.State.ExitCode}} web", 0, "running,true,0\n", ""),
    ("inspect -f {{.HostConfig.LogConfig.Type}},{{.HostConfig.Annotations.a}} web", 0, "local,b\n", ""),
    ("ps --format {{.Names}},{{.State}},{{.LocalVolumes}},{{.Mounts}}", 0, "web,running,0,\n", ""),
    ("ps -q --no-trunc -f name=nosuch", 0, "", ""),
    ("ps -f nosuch=1", 1, "", "nvalid filter 'nosuch'"),
    ("rename web web", 1, "", "Renaming a container with the same name as its current name"),
    ("rename nosuch x1", 1, "", NOWHERE),
    ("kill -s NOSUCH web", 1, "", "nvalid signal: NOSUCH"),
    ("kill nosuch", 1, "", NOWHERE),
    ("stop nosuch", 1, "", NOWHERE),
    ("wait nosuch", 1, "", NOWHERE),
    ("rm web", 1, "", "container is running"),
    ("rm nosuch", 1, "", NOWHERE),
    ("rm -f nosuch", 0, "", NOWHERE),
    ("start nosuch", 1, "", NOWHERE),
    ("start web", 0, "web\n", ""),
    ("attach nosuch", 1, "", NOWHERE),
    ("stats --no-stream nosuch", 1, "", NOWHERE),
    ("container prune -f --filter label=x", 0, "Total reclaimed space: 0B\n", ""),
]

ENDED = [
    ("exec web true", 1, "", "is not running"),
    ("attach web", 1, "", "You cannot attach to a stopped container, start it first"),
    ("kill web", 1, "", "is not running"),
    ("top web", 1, "", "is not running"),
    ("port web", 0, "", ""),
    ("wait web", 0, "4\n", ""),
    ("stop web", 0, "web\n", ""),
    ("logs -n 1 web", 0, None, ""),
    ("ps -q", 0, "", ""),
    ("inspect -f {{.State.Status}},{{.State.ExitCode}} web", 0, "exited,4\n", ""),
    ("cp web:/nosuch .", 1, "", "Could not find the file /nosuch in container web"),
    ("rename web other", 0, "", ""),
    ("rm other", 0, "other\n", ""),
    ("rm other", 1, "", "No such container: other"),
]


@pytest.fixture
def typed(store, tmp_path):
    """Have the command line carry out a line, in a process forked off: starting Python each time would take longer."""

    def carry_out(line):
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
            pid = os.fork()
            if pid == 0:
                try:
                    become([os.open(os.devnull, os.O_RDONLY), out.fileno(), error.fileno()])
                    os.chdir(tmp_path)
                    sys.argv = ["firekiln", "--root", str(store.root), *line.split()]
                    main()
                finally:
                    os._exit(99)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return status, *(os.pread(file.fileno(), 1 << 16, 0).decode() for file in (out, error))

    return carry_out


def become(descriptors):
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the process's own, to its end, as the next two
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def differences(rows, typed):
    """What was not as its row says."""
    for line, status, out, error in rows:
        got = typed(line)
        if got[:2] != (status, got[1] if out is None else out) or error not in got[2]:
            yield line, *got


def test_what_is_typed_at_a_machine_has_dockers_words_and_statuses(boot, typed):
    options = {"log_driver": "local", "log_options": {"max-size": "1m"}, "annotations": {"a": "b"}}
    made = boot("sh", "-c", SCRIPT, name="web", **options)
    while len(list(made.logs())) < 2:
        assert made.record.status == "running"
        time.sleep(0.05)
    assert list(differences(RUNNING, typed)) == []
    assert typed("stop -t 60 -s USR1 web")[0] == 0
    assert list(differences(ENDED, typed)) == []


@pytest.mark.parametrize(
    ("line", "status", "error"),
    [
        ("run -w rel busybox true", 125, "the working directory 'rel' is invalid, it needs to be an absolute path"),
        ("run --bogus busybox true", 125, "--bogus"),
        ("run --pull never nosuch true", 125, "Unable to find image 'nosuch:latest' locally"),
        ("run --entrypoint= busybox", 125, "o command specified"),
        ("run --env-file /nosuch busybox true", 125, "open /nosuch: no such file or directory"),
        ("run -v nocolon:rel busybox true", 125, "invalid mount path: 'rel' mount path must be absolute"),
        ("run -m 1k busybox true", 125, "--memory 1k"),
        ("run --rm --restart always busybox true", 125, "cannot specify both --restart and --rm"),
        ("run -d -a stdout busybox true", 125, "onflicting options"),
        ("run --log-driver nosuch busybox true", 125, "no log driver named 'nosuch' is registered"),
        ("run --log-opt foo=bar busybox true", 125, "unknown log opt 'foo' for json-file log driver"),
        ("run --stop-signal NOPE busybox true", 125, "nvalid signal: NOPE"),
        ("run -it busybox true", 1, "the input device is not a TTY"),
        ("run --ulimit x busybox true", 125, "invalid ulimit argument: x"),
    ],
)
def test_a_run_that_cannot_be_is_refused_in_dockers_words(typed, line, status, error):
    got = typed(line)
    assert (got[0], error in got[2]) == (status, True), got
