"""The columns of `top`, as people ask ps(1) for them."""

import time

import pytest

from firekiln.cli.top import Process, parse_options
from firekiln.errors import UsageError


def headings(*words):
    return " ".join(heading for heading, _ in parse_options(words))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "UID PID PPID C STIME TTY TIME CMD"),
        ("-ef", "UID PID PPID C STIME TTY TIME CMD"),
        ("-e -f", "UID PID PPID C STIME TTY TIME CMD"),
        ("-e", "PID TTY TIME CMD"),
        ("aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
        ("ax", "PID TTY STAT TIME COMMAND"),
        ("-o pid,user,args", "PID USER COMMAND"),
        ("-eo pid,cmd", "PID CMD"),
        ("-opid -o comm", "PID COMMAND"),
        ("--format=pid,%cpu,%mem,rss", "PID %CPU %MEM RSS"),
        ("axo pid,etime", "PID ELAPSED"),
        ("-o pid=ID", "ID"),
    ],
)
def test_options_choose_columns_as_those_of_ps_do(words, expected):
    assert headings(*words.split()) == expected


@pytest.mark.parametrize("words", ["-o nosuch", "-o", "-Z", "--forest", "k"])
def test_what_is_not_known_is_refused_with_status_1(words):
    with pytest.raises(UsageError) as caught:
        parse_options(words.split())
    assert caught.value.exit_status == 1


def test_a_process_is_shown_with_what_its_kernel_says_of_it():
    said = {
        "pid": 7,
        "ppid": 1,
        "uid": 33,
        "user": "web",
        "cpu_ms": 65_000,
        "tty": None,
        "rss": 1 << 20,
        "argv": ["/bin/httpd", "-f"],
    }
    now = time.mktime((2026, 11, 24, 12, 0, 0, 0, 0, -1))
    process = Process(said=said, started=now - 130, now=now, memory=100 << 20)
    names = "pid,ppid,user,uid,tty,rss,stat,c,pcpu,pmem,time,bsdtime,etime,start,comm,args"
    shown = [show(process) for _, show in parse_options(["-o", names])]
    assert shown == [*"7 1 web 33 ? 1024 - 50 50.0 1.0 00:01:05 1:05 02:10 11:57 httpd".split(), "/bin/httpd -f"]
    old = Process(said={**said, "user": "", "argv": []}, started=now - 3 * 86400, now=now, memory=1 << 30)
    assert [show(old) for _, show in parse_options(["-o", "user,etime,start,args,comm"])] == [
        "33",
        "3-00:00:00",
        "Nov21",
        "",
        "",
    ]
