"""What RUN does, seen from within: environment, users, mounts, heredocs, and which changes miss the cache.

Each observation is BuildKit's of a like fixture, here made by one real build of many stages. What differs on purpose is
in docs/differences.md.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import isolation
from building import BUSYBOX, Builds, write_base
from firekiln.errors import BuildError, FirekilnError, StepFailedError

pytestmark = [
    pytest.mark.root,
    pytest.mark.rootless,
    isolation.needed,
    pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static"),
]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BASE = "FROM scratch AS base\nCOPY base /\n"


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    made = Builds(folder)
    write_base(made.context / "base")
    (made.context / "ff").write_text("hello\n")
    (made.context / "sub").mkdir()
    (made.context / "sub/inner").write_text("inner\n")
    yield made
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    assert list((made.root / "tmp").iterdir()) == []


OBSERVATIONS: dict[str, tuple[str, list[str]]] = {
    "root has passwd's home and buildkit's path": (
        "RUN env",
        ["HOME=/root", f"PATH={PATH}", "PWD=/", "SHLVL=1"],
    ),
    "root's ids": ("RUN id", ["uid=0(root) gid=0(root) groups=0(root)"]),
    "user by name": (
        "USER bob\nRUN env; id",
        ["HOME=/home/bob", f"PATH={PATH}", "PWD=/", "SHLVL=1", "uid=7(bob) gid=8(bob) groups=8(bob),9(grp),10(sup)"],
    ),
    "a group given takes the supplementary ones away": (
        "USER bob:root\nRUN id",
        ["uid=7(bob) gid=0(root) groups=0(root)"],
    ),
    "user by number": (
        "USER 7\nRUN env; id",
        ["HOME=/home/bob", f"PATH={PATH}", "PWD=/", "SHLVL=1", "uid=7(bob) gid=8(bob) groups=8(bob),9(grp),10(sup)"],
    ),
    "a number that passwd does not know": (
        "USER 99\nRUN env; id",
        ["HOME=/", f"PATH={PATH}", "PWD=/", "SHLVL=1", "uid=99 gid=0(root) groups=0(root)"],
    ),
    "two numbers": ("USER 99:98\nRUN id", ["uid=99 gid=98 groups=98"]),
    "shell form expands in the shell": (
        "ENV A=1\nARG B=2\nRUN echo $A $B ${C-unset}",
        ["1 2 unset"],
    ),
    "exec form has no shell": ('ENV X=1\nRUN ["echo", "$X"]', ["$X"]),
    "working directory is made": ("WORKDIR /a/b\nRUN pwd; stat -c '%a %u:%g' /a /a/b", ["/a/b", "755 0:0", "755 0:0"]),
    "process limits of a default container": (
        "RUN umask; while read -r k v; do case $k in Cap*|NoNewPrivs:) echo $k $v;; esac; done < /proc/self/status",
        [
            "0022",
            "CapInh: 0000000000000000",
            "CapPrm: 00000000a80425fb",
            "CapEff: 00000000a80425fb",
            "CapBnd: 00000000a80425fb",
            "CapAmb: 0000000000000000",
            "NoNewPrivs: 0",
        ],
    ),
    "a root's leftovers": (
        "RUN echo x > /dev/shm/x; echo y > /tmp-made\nRUN ls /dev/shm; ls /tmp-made",
        ["/tmp-made"],
    ),
    "resolv.conf and hosts": (
        (
            "RUN while read -r a b; do case $b in *ip6-localhost*) echo $a $b;; esac; done < /etc/hosts; "
            "test -s /etc/resolv.conf && echo nameserver"
        ),
        ["::1 localhost ip6-localhost ip6-loopback", "nameserver"],
    ),
    "devices": (
        "RUN cd dev; echo *; for l in fd ptmx std*; do readlink $l; done; stat -c '%A %t:%T' full null ran* tty *zero",
        [
            "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
            "/proc/self/fd",
            "pts/ptmx",
            "/proc/self/fd/2",
            "/proc/self/fd/0",
            "/proc/self/fd/1",
            "crw-rw-rw- 1:7",
            "crw-rw-rw- 1:3",
            "crw-rw-rw- 1:8",
            "crw-rw-rw- 5:0",
            "crw-rw-rw- 1:5",
        ],
    ),
    "kernel file systems": (
        (
            "RUN while read -r dev on type opt rest; do case $on in /proc|/dev|/dev/pts|/dev/shm|/dev/mqueue|/sys|"
            "/proc/bus|/proc/fs|/proc/irq|/proc/sys|/proc/acpi|/sys/firmware) echo $on $type ${opt%%,*};; esac; "
            "done < /proc/mounts"
        ),
        [
            "/proc proc rw",
            "/proc/bus proc ro",
            "/proc/fs proc ro",
            "/proc/irq proc ro",
            "/proc/sys proc ro",
            "/proc/acpi tmpfs ro",
            "/dev tmpfs rw",
            "/dev/pts devpts rw",
            "/dev/shm tmpfs rw",
            "/dev/mqueue mqueue rw",
            "/sys sysfs ro",
            "/sys/firmware tmpfs ro",
        ],
    ),
    "keys and timers are hidden": (
        "RUN cat /proc/keys /proc/timer_list; echo none",
        ["none"],
    ),
    "cache keeps from step to step": (
        (
            "RUN --mount=type=cache,target=/c,id=a mkdir -p /c/d && echo 12 > /c/d/x && echo 1\n"
            "RUN --mount=type=cache,target=/c,id=a stat -c '%A %u:%g' /c /c/d; stat -c '%A %s' /c/d/x"
        ),
        ["1", "drwxr-xr-x 0:0", "drwxr-xr-x 0:0", "-rw-r--r-- 3"],
    ),
    "cache of another owner or mode is another cache": (
        (
            "RUN --mount=type=cache,target=/c,id=o touch /c/roots\n"
            "RUN --mount=type=cache,target=/c,id=o,uid=5,mode=0700 stat -c '%A %u:%g' /c; ls /c\n"
            "RUN --mount=type=cache,target=/c,id=o ls /c"
        ),
        ["drwx------ 5:0", "roots"],
    ),
    "cache is not in the image": (
        "RUN --mount=type=cache,target=/c,id=b echo 1\nRUN ls /c 2>&1 || true",
        ["1", "ls: /c: No such file or directory"],
    ),
    "bind shows the context read-only": (
        "RUN --mount=target=/m ls /m; touch /m/x 2>&1; cat /m/ff\nRUN ls -d /m 2>&1 || true",
        [
            "base",
            "ff",
            "sub",
            "touch: /m/x: Read-only file system",
            "hello",
            "ls: /m: No such file or directory",
        ],
    ),
    "bind for writing is thrown away": (
        "RUN --mount=target=/m,rw touch /m/new && ls /m\nRUN --mount=target=/m,rw ls /m",
        ["base", "ff", "new", "sub", "base", "ff", "sub"],
    ),
    "bind of a part, and of one file": (
        "RUN --mount=target=/m,source=sub ls /m\nRUN --mount=target=/k/f,source=ff cat /k/f\nRUN ls /k 2>&1 || true",
        ["inner", "hello", "ls: /k: No such file or directory"],
    ),
    "bind of another stage": ("RUN --mount=target=/m,from=base ls /m/t", ["exist", "file", "lnd", "lnf", "real"]),
    "secret as a file": (
        "RUN --mount=type=secret,id=a cat /run/secrets/a; stat -c '%A %u:%g %s' /run/secrets/a",
        ["s3cr3t", "-r-------- 0:0 7"],
    ),
    "secret as a variable, for one step": (
        'RUN --mount=type=secret,id=a,env=QQ echo "[$QQ]"; ls /run 2>&1; true\nRUN echo "[$QQ]"; ls /run 2>&1; true',
        ["[s3cr3t", "]", "ls: /run: No such file or directory", "[]", "ls: /run: No such file or directory"],
    ),
    "secret at a place of its own": (
        (
            "RUN --mount=type=secret,id=a,target=/x/y,mode=0444,uid=7,gid=9 stat -c '%A %u:%g' /x/y\n"
            "RUN ls /x 2>&1 || true"
        ),
        ["-r--r--r-- 7:9", "ls: /x: No such file or directory"],
    ),
    "secret that nobody gives": (
        "RUN --mount=type=secret,id=zz ls /run/secrets 2>&1 || true",
        ["ls: /run/secrets: No such file or directory"],
    ),
    "tmpfs": (
        (
            "RUN --mount=type=tmpfs,target=/tt,size=1m while read -r d on t o r; do case $on in /tt) "
            "echo $t; case $o in *nosuid*size=1024k*) echo sized;; esac;; esac; done < /proc/mounts\n"
            "RUN ls -la /tt 2>&1 || true"
        ),
        ["tmpfs", "sized", "ls: /tt: No such file or directory"],
    ),
    "agent of ssh": (
        "RUN --mount=type=ssh echo $SSH_AUTH_SOCK; test -S $SSH_AUTH_SOCK && echo socket\nRUN echo [$SSH_AUTH_SOCK]",
        ["/run/buildkit/ssh_agent.0", "socket", "[]"],
    ),
    "network none": (
        "RUN --network=none while read -r line; do case $line in *:*) echo ${line%%:*};; esac; done < /proc/net/dev",
        ["lo"],
    ),
    "heredoc goes on after a failure": ("RUN <<EOF\nfalse\necho still\nEOF", ["still"]),
    "heredoc is a script of the shell": ('RUN <<EOF\nV=2\necho "$V"\nEOF', ["2"]),
    "heredoc with an interpreter is a file": (
        "RUN <<EOF\n#!/bin/sh\necho $0 $#\nstat -c '%A %u:%g' /dev/pipes/EOF\nEOF\nRUN ls /dev/pipes 2>&1 || true",
        ["/dev/pipes/EOF 0", "-rwxr-xr-x 0:0", "ls: /dev/pipes: No such file or directory"],
    ),
    "heredocs of a command": (
        "RUN cat <<A - 3<<B\none\nA\nthree\nB",
        ["one"],
    ),
    "SHELL takes the place of sh": (
        'SHELL ["/bin/busybox", "sh", "-c", "echo shell; eval \\"$0\\""]\nRUN echo $0',
        ["shell", "echo $0"],
    ),
}


@pytest.fixture(scope="module")
def seen(builds, tmp_path_factory):
    """What every observation's steps wrote, out of one build."""
    agent = socket.socket(socket.AF_UNIX)
    path = tmp_path_factory.mktemp("ssh") / "agent"
    agent.bind(str(path))
    agent.listen()
    stages = [f"FROM base AS s{n}\n{text}\n" for n, (text, _) in enumerate(OBSERVATIONS.values())]
    copies = "".join(f"COPY --from=s{n} /etc/group /{n}\n" for n in range(len(OBSERVATIONS)))
    text = f"{BASE}{''.join(stages)}FROM scratch AS all\n{copies}"
    try:
        builds.build(text, secrets={"a": b"s3cr3t\n"}, ssh={"default": path}, ca_bundle=None)
    finally:
        agent.close()
    outputs = builds.outputs()
    return {name: outputs.get(f"s{n}", "").splitlines() for n, name in enumerate(OBSERVATIONS)}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_a_step_sees_what_buildkits_does(seen, name):
    text, expected = OBSERVATIONS[name]
    found = seen[name]
    if "RUN env" in text:  # in no order
        found, expected = sorted(found), sorted(expected)
    assert found == expected


ERRORS = {
    "USER nosuch\nRUN id": (
        BuildError,
        (
            'process "/bin/sh -c id" did not complete successfully: '
            "unable to find user nosuch: no matching entries in passwd file"
        ),
    ),
    "USER bob:nosuch\nRUN id": (
        BuildError,
        (
            'process "/bin/sh -c id" did not complete successfully: '
            "unable to find group nosuch: no matching entries in group file"
        ),
    ),
    "RUN exit 3": (
        StepFailedError,
        'process "/bin/sh -c exit 3" did not complete successfully: exit code: 3',
    ),
    'SHELL ["/bin/busybox", "sh", "-ec"]\nRUN false; echo no': (
        StepFailedError,
        'process "/bin/busybox sh -ec false; echo no" did not complete successfully: exit code: 1',
    ),
    "RUN <<EOF\nset -e\nfalse\necho never\nEOF": (
        StepFailedError,
        'process "/bin/sh -c set -e\\nfalse\\necho never\\n" did not complete successfully: exit code: 1',
    ),
    "RUN --mount=type=secret,id=zz,required true": (BuildError, "secret zz: not found"),
    "RUN --security=insecure true": (BuildError, "security.insecure is not allowed"),
    "RUN --network=host true": (BuildError, "network.host is not allowed"),
    "RUN --mount=type=ssh,required true": (BuildError, "ssh"),
    "RUN --device=vendor.com/class=x true": (FirekilnError, "--device"),
}


@pytest.mark.parametrize("text", ERRORS)
def test_a_step_fails_in_buildkits_words_and_names_its_line(builds, text):
    kind, message = ERRORS[text]
    with pytest.raises(kind) as caught:
        builds.build(f"{BASE}FROM base\n{text}\n")
    assert message in caught.value.message
    assert caught.value.location.start >= 4
    assert caught.value.source.startswith(BASE)


def test_a_failed_step_ends_the_build_and_tells_its_status_and_last_words(builds):
    with pytest.raises(StepFailedError) as caught:
        builds.build(f"{BASE}FROM base\nRUN echo last words; exit 3\nRUN echo never\n")
    assert (caught.value.status, caught.value.output) == (3, b"last words\n")
    assert "never" not in str(builds.outputs())


# --- the cache ------------------------------------------------------------------------------------------------------

# A stage for each change: COPY or RUN, then a step after it that tells whether the cache was missed.
CHANGES = """
FROM base AS {name}
COPY changing/{name} /ff
RUN echo after {name}
"""


def touch(file):
    os.utime(file, (1, 1))


def make_executable(file):
    file.chmod(0o755)


def give_away(file):
    if os.geteuid() == 0:  # else nothing is changed, and nothing runs again
        os.chown(file, 1, 2)


def mark(file):
    os.setxattr(file, "user.mark", b"x")


def rewrite(file):
    file.write_text("other\n")


def leave(file):
    del file


FILE_CHANGES = {
    "same": (leave, "CACHED"),
    "mtime": (touch, "CACHED"),
    "mode": (make_executable, "RUN"),
    "owner": (give_away, "CACHED"),
    "xattr": (mark, "CACHED"),
    "content": (rewrite, "RUN"),
}

OTHER_CHANGES = {
    "arg-unused": ("ARG DECLARED\nRUN echo arg unused", "RUN"),
    "arg-undeclared": ("RUN echo arg undeclared", "CACHED"),
    "arg-after": ("RUN echo a\nARG DECLARED\nRUN echo platform arg after", "RUN"),
    "secret": ("RUN --mount=type=secret,id=a cat /run/secrets/a", "CACHED"),
    "comment": ("# {comment}\nRUN echo workdir/env comment", "CACHED"),
}


@pytest.fixture(scope="module")
def rebuilt(builds):
    """How each stage's steps ended in a second build, after all changes together."""
    folder = builds.context / "changing"
    folder.mkdir()
    for name in FILE_CHANGES:
        (folder / name).write_text("first\n")
    text = BASE
    text += "".join(CHANGES.format(name=name) for name in FILE_CHANGES)
    text += "".join(f"FROM base AS {name}\n{body}\n" for name, (body, _) in OTHER_CHANGES.items())
    text += "FROM scratch\n" + "".join(
        f"COPY --from={name} /etc/group /{name}\n" for name in (*FILE_CHANGES, *OTHER_CHANGES)
    )

    def build(turn):
        arguments = {"DECLARED": turn, "UNDECLARED": turn, "http_proxy": f"http://127.0.0.1/{turn}"}
        builds.build(
            text.replace("{comment}", turn), build_args=arguments, secrets={"a": turn.encode()}, ca_bundle=None
        )
        return builds.ends()

    first = build("one")
    assert {first[name] for name in first if " RUN " in name} == {"RUN"}
    for name, (change, _) in FILE_CHANGES.items():
        change(folder / name)
    return build("two")


@pytest.mark.parametrize("name", FILE_CHANGES)
def test_what_is_copied_misses_the_cache_by_content_and_mode_alone(rebuilt, name):
    expected = FILE_CHANGES[name][1]
    assert rebuilt[f"[{name} 1/2] COPY changing/{name} /ff"] == expected
    assert rebuilt[f"[{name} 2/2] RUN echo after {name}"] == expected


def test_what_does_not_change_a_step_does_not_run_it_again(rebuilt):
    steps = {name: end for name, end in rebuilt.items() if " RUN " in name}
    ends = {stage: [end for name, end in steps.items() if name.startswith(f"[{stage} ")][-1] for stage in OTHER_CHANGES}
    assert ends == {stage: expected for stage, (_, expected) in OTHER_CHANGES.items()}
    assert rebuilt["[arg-after 1/2] RUN echo a"] == "CACHED"


def test_a_proxy_reaches_the_step_but_neither_the_key_nor_the_image(builds):
    text = f"{BASE}FROM base AS last\nRUN echo $http_proxy $HTTP_PROXY\n"
    first = builds.build(text, build_args={"HTTP_PROXY": "http://one"}).image
    assert builds.outputs()["last"] == "http://one http://one\n"
    second = builds.build(text, build_args={"HTTP_PROXY": "http://two"}).image
    assert builds.ends()["[last 1/1] RUN echo $http_proxy $HTTP_PROXY"] == "CACHED"
    assert second.digest == first.digest
    assert not any("one" in line.created_by for line in first.image.history)


def test_a_secret_is_in_no_layer_and_in_no_line_of_the_history(builds):
    image = builds.build(
        f"{BASE}FROM base\nRUN --mount=type=secret,id=a,env=S echo $S > /dev/null\n", secrets={"a": b"s3cr3t"}
    ).image
    assert all(b"s3cr3t" not in path.read_bytes() for path in builds.root.rglob("*") if path.is_file())
    assert "s3cr3t" not in str(image.image)


def test_a_locked_cache_is_used_by_one_step_at_a_time(builds):
    steps = "".join(
        f"FROM base AS c{n}\nRUN --mount=type=cache,target=/c,id=lock,sharing=locked test ! -e /c/held && "
        "touch /c/held && for i in 1 2 3 4 5 6 7 8 9; do true; done && rm /c/held\n"
        for n in range(3)
    )
    copies = "".join(f"COPY --from=c{n} /etc/group /{n}\n" for n in range(3))
    builds.build(f"{BASE}{steps}FROM scratch\n{copies}")
