"""Builds of an ordinary user: the same layers as root's, nothing left behind, and errors that say what to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import isolation
from building import BUSYBOX
from firekiln.rootfs import lookup
from firekiln.rootfs.tree import Device, Directory, File, Meta, Tree
from firekiln.store import Store
from isolation import BIN, as_user
from machines import put_image
from trees import file, folder

EPOCH = "1700000000"

pytestmark = [
    pytest.mark.root,
    isolation.needs_root,
    pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static"),
    pytest.mark.skipif(not shutil.which("newuidmap"), reason="needs uidmap"),
]

BASE = """
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY <<E /etc/passwd
root:x:0:0:root:/root:/bin/sh
bob:x:1000:1000:bob:/home/bob:/bin/sh
E
RUN mkdir -p /d/sub /keep && touch /d/1 /d/sub/2 /gone && mkdir -m 700 /bobs && chown 1000:1000 /bobs
FROM base
"""

STEPS = {
    "owners": "RUN touch /a /b && chown 1000:33 /a && chown 65534:65535 /b && chown -h 7:8 /bin/ls && chgrp 5 /etc",
    "modes": "RUN touch /s /z && chown 7 /s && chmod 6755 /s && chmod 0 /z && mkdir -m 1777 /t && mkdir -m 2750 /g",
    "closed to us": "RUN mkdir -p -m 0 /c/d && echo x >/c/d/f && chown -R 9:9 /c && chmod -R 000 /c",
    "another user": "USER bob\nRUN cd /bobs && touch f && umask 077 && mkdir p && echo s >p/q && ln p/q p/r",
    "hard links": "RUN echo x >/l1 && chown 3:4 /l1 && chmod 600 /l1 && ln /l1 /l2 && ln /l2 /d/l3 && rm /l1",
    "whiteouts": "RUN rm /gone && rm -r /keep",
    "opaque": "RUN rm -r /d && mkdir /d && touch /d/new",
    "renamed directory": "RUN mv /d /e",
    "copied up": "RUN chmod 4711 /bin/busybox && touch -d @7 /etc/passwd",
    "special": "RUN mkfifo -m 620 /f && chown 2:3 /f && ln -s nowhere /n",
    "sparse": "RUN truncate -s 10M /sparse && echo x >> /sparse && truncate -s 1M /hole",
    "cache": "RUN --mount=type=cache,target=/c,uid=1000,gid=1000,mode=0750 stat -c '%a %u %g' /c >/o && touch /c/x"
    " && chown 5 /c/x\nRUN --mount=type=cache,target=/c,uid=1000,gid=1000,mode=0750 stat -c %u /c/x >/p",
    "cache begun": "RUN --mount=type=cache,target=/c,from=base,source=/bobs stat -c '%a %u' /c >/o",
    "secret": "RUN --mount=type=secret,id=s,uid=1000,mode=0440 stat -c '%a %u' /run/secrets/s >/o",
    "bind": "RUN --mount=type=bind,target=/m,rw --mount=type=bind,from=base,source=/etc,target=/e,rw "
    "ls -ln /m | grep -v total | cut -c1-20 >/o && touch /m/x /e/y && cat /e/passwd >>/o",
    "tmpfs": "RUN --mount=type=tmpfs,target=/t,size=1m touch /t/x && stat -c %a /t >/o",
    "heredoc": "RUN <<E\n#!/bin/sh\nid -u >/o\nE",
    "no network": "RUN --network=none ls /sys/class/net >/o",
    "copy": "COPY --chown=1000:7 --chmod=4755 busybox /x\nRUN stat -c '%a %u %g' /x >/o",
}
CAPABILITY = b"\x01\x00\x00\x02\x00\x04" + bytes(14)
"""cap_net_bind_service+ep, revision 2."""


@pytest.fixture(scope="module")
def home():
    with isolation.home() as made:
        made.chmod(0o755)
        yield made


@pytest.fixture(scope="module")
def context(home):
    path = home / "context"
    path.mkdir(mode=0o755)
    shutil.copy(BUSYBOX, path / "busybox")
    (home / "secret").write_text("secret")
    return path


def dockerfile(context, text):
    path = context.parent / "Dockerfile"
    path.write_text(text)
    path.chmod(0o644)
    return path


def options(context, text):
    more = [f"--secret=id=s,src={context.parent / 'secret'}"]
    return ["build", "-q", *more, "-f", dockerfile(context, text), "-t", "made", context]


def env():
    return {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}


BUILD_EACH = """
import json, sys, firekiln
from pathlib import Path
store, context, file, count = sys.argv[1:]
made = [
    firekiln.build(context, dockerfile=Path(file), target=f"step{n}", store=store, secrets={"s": b"secret"})
    for n in range(int(count))
]
print(json.dumps([[layer.digest for layer in one.image.layers] for one in made]))
"""


@pytest.fixture(scope="module")
def both(context, tmp_path_factory):
    """The layers of all STEPS as root and as the user, and the user's store."""
    ours, theirs = tmp_path_factory.mktemp("root") / "store", context.parent / "store"
    stages = [f"FROM base AS step{number}\n{step}\n" for number, step in enumerate(STEPS.values())]
    path = dockerfile(context, BASE.replace("FROM base\n", "") + "".join(stages))
    script = [BIN / "python", "-c", BUILD_EACH]
    arguments = [context, path, str(len(STEPS))]
    by_root = subprocess.run([*script, ours, *arguments], env=env(), check=True, capture_output=True, timeout=120)
    by_user = as_user(context.parent, *script, theirs, *arguments, env=env())
    assert by_user.returncode == 0, by_user.stderr
    return json.loads(by_root.stdout), json.loads(by_user.stdout), theirs


@pytest.mark.parametrize("name", STEPS)
def test_the_layers_of_a_user_are_those_of_root(both, name):
    ours, theirs, _ = both
    number = list(STEPS).index(name)
    assert theirs[number] == ours[number]


def test_a_users_builds_leave_no_file_of_work(both):
    _, _, root = both
    assert list((root / "tmp").iterdir()) == []
    boots = list((root / "snapshots").iterdir())
    assert [boot.name for boot in boots] == [Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
    assert all((root / "blobs/sha256" / one.name).exists() for one in boots[0].iterdir())


def put(root, home, name, *trees: Tree):
    """An image in a store that is the user's afterwards."""
    with Store.open(root) as store:
        made = put_image(store, name, *trees, cmd=("/bin/sh",))
    subprocess.run(["chown", "-R", f"{home.stat().st_uid}:{home.stat().st_gid}", root], check=True)
    return made


def with_busybox(**children) -> Directory:
    program = file(Path(BUSYBOX).read_bytes(), mode=0o755)
    return folder(
        {b"bin": folder({b"busybox": program, b"sh": program}), **{k.encode(): v for k, v in children.items()}}
    )


def build(home, context, root, text, *more):
    context.parent.chmod(0o755)
    return as_user(home, BIN / "firekiln", "--root", root, *options(context, text), *more, env=env())


def test_capabilities_and_attributes_of_files_pass_through_a_step(home, context, tmp_path):
    xattrs = ((b"security.capability", CAPABILITY), (b"user.note", b"x"))
    capable = File.of(b"hi", Meta(mode=0o755, xattrs=xattrs))
    root = home / "capable"
    put(root, home, "base", with_busybox(ping=capable))
    done = build(home, context, root, "FROM base\nRUN busybox chmod 750 /ping && busybox touch /other\n")
    assert done.returncode == 0, done.stderr
    with Store.open(root) as store:
        top = store.layers.tree(store.images.get("made").layers[-1])
        meta = lookup.resolve(top, b"ping").node.meta
    assert (meta.mode, meta.xattrs) == (0o750, xattrs)


REFUSED = {
    "device": (
        with_busybox(srv=folder({b"null": Device(meta=Meta(mode=0o666), block=False, major=1, minor=3)})),
        "/srv/null of the image is a device node",
        "only root makes those",
    ),
    "owner": (
        with_busybox(far=file(b"", uid=70_000)),
        "/far of the image belongs to 70000:0",
        "there are ids up to 65536 here; /etc/subuid and /etc/subgid lend more",
    ),
    "trusted": (
        with_busybox(marked=File.of(b"", Meta(mode=0o644, xattrs=((b"trusted.note", b"x"),)))),
        "/marked of the image has attributes (trusted.note)",
        "only root sets those",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_user_cannot_have_is_one_clear_error(home, context, what):
    tree, message, hint = REFUSED[what]
    root = home / f"refused-{what}"
    put(root, home, "base", tree)
    done = build(home, context, root, "FROM base\nRUN true\n")
    assert done.returncode == 1
    assert f"{message}, which a build without root can't give to a step" in done.stderr
    assert f"hint: {hint}" in done.stderr
    copied = build(home, context, root, "FROM base\nCOPY busybox /x\n")
    assert copied.returncode == 0, copied.stderr


def test_devices_in_dev_of_an_image_are_no_hindrance(home, context):
    root = home / "devices"
    device = Device(meta=Meta(mode=0o600), block=False, major=5, minor=1)
    put(root, home, "base", with_busybox(dev=folder({b"console": device})))
    done = build(home, context, root, "FROM base\nRUN busybox echo hi > /dev/null\n")
    assert done.returncode == 0, done.stderr


def test_a_killed_build_leaves_nothing_that_the_next_one_keeps(home, context):
    root = home / "killed"
    text = BASE + "RUN touch /x && chown 1000 /x && echo ready && sleep 1000\n"
    argv = [isolation.AS_USER, "--home", home, BIN / "firekiln", "--root", root, *options(context, text)]
    argv.remove("-q")
    with subprocess.Popen([str(word) for word in argv], stderr=subprocess.PIPE, text=True, env=env()) as process:
        assert any("ready" in line for line in process.stderr)
        pids = processes_of(str(root))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        process.wait(10)
    ended(home)
    done = build(home, context, root, BASE + "RUN touch /y\n")
    assert done.returncode == 0, done.stderr
    assert list((root / "tmp").iterdir()) == []
    assert len(list((root / "snapshots").iterdir())) == 1


def processes_of(word):
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        try:
            command = (one / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if word in command and "build" in command and "python" in command[0]:
            found.append(int(one.name))
    return found


def ended(home, seconds=5.0):
    """Wait until the user has no process but dead ones. The kernel ends those that watched the build."""
    deadline = time.monotonic() + seconds
    while left := [line for one in Path("/proc").glob("[0-9]*") if (line := of_user(one, home.stat().st_uid))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def of_user(process, uid):
    """A process's command line, if it is the user's and alive."""
    try:
        return (process / "cmdline").read_bytes() if process.stat().st_uid == uid else b""
    except OSError:
        return b""


def test_a_snapshot_that_was_begun_is_made_anew(home, context):
    root = home / "partial"
    put(root, home, "base", with_busybox())
    text = "FROM base\nRUN busybox touch /x\n"
    assert build(home, context, root, text).returncode == 0
    boot = next((root / "snapshots").iterdir())
    made = max(boot.iterdir(), key=lambda path: sum(1 for _ in path.rglob("*")))
    shutil.rmtree(made / "root/bin")
    made.rename(made.with_name(made.name + ".partial"))
    done = build(home, context, root, text, "--no-cache")
    assert done.returncode == 0, done.stderr
    assert (made / "root/bin/busybox").exists()
    assert list(boot.glob("*.partial")) == []


def test_snapshots_go_with_their_layers_and_with_the_boot(home, context):
    root = home / "swept"
    put(root, home, "base", with_busybox(), folder({b"mine": file(b"", uid=5, gid=5)}))
    assert build(home, context, root, "FROM base\nRUN busybox touch /x\n").returncode == 0
    boot = next((root / "snapshots").iterdir())
    gone = boot / ("f" * 64)
    next(boot.iterdir()).rename(gone)
    old = root / "snapshots/00000000-0000-0000-0000-000000000000"
    shutil.copytree(boot, old)
    subprocess.run(["chown", "-R", f"{home.stat().st_uid}:{home.stat().st_gid}", old], check=True)
    assert build(home, context, root, "FROM base\nRUN busybox touch /y\n").returncode == 0
    assert not gone.exists()
    assert not old.exists()


def test_pruning_removes_what_belongs_to_others_too(home, context):
    root = home / "pruned"
    text = BASE + "RUN --mount=type=cache,target=/c,uid=9,mode=700 touch /c/x && chown 5 /c/x\n"
    assert build(home, context, root, text).returncode == 0
    done = as_user(home, BIN / "firekiln", "--root", root, "system", "prune", "-a", "-f")
    assert done.returncode == 0, done.stderr
    left = [*(root / "cache").iterdir(), *(root / "tmp").iterdir(), *(root / "snapshots").glob("*/*")]
    assert left == []


def test_root_of_a_container_builds_in_a_namespace_within(home, context):
    inside = ["unshare", "--user", "--map-root-user", "--map-auto"]
    if as_user(home, *inside, "true").returncode:
        pytest.skip("unshare knows no --map-auto")
    text = BASE + STEPS["another user"] + "\nUSER root\n" + STEPS["owners"].replace("65535", "9") + "\n"
    made = []
    for name, within in (("direct", []), ("nested", inside)):
        argv = [BIN / "firekiln", "--root", home / name, *options(context, text)]
        done = as_user(home, *within, *argv, env=env())
        assert done.returncode == 0, done.stderr
        made.append(done.stdout)
    assert made[0] == made[1]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(600)
@pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="needs mmdebstrap")
def test_a_users_debian_is_roots(home, tmp_path):
    command = [BIN / "firekiln", "--root"]
    create = ["base", "create", "debian:bookworm-slim"]
    subprocess.run([*command, tmp_path / "store", *create], check=True, capture_output=True, timeout=250)
    done = as_user(home, *command, home / "debian", *create, timeout=250)
    assert done.returncode == 0, done.stderr
    theirs, ours = home / "debian", tmp_path / "store"
    assert names(theirs / "blobs/sha256") == names(ours / "blobs/sha256")
    assert names(theirs / "tmp") == []


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_host_that_allows_no_namespace_is_told_which_setting_does(home, context):
    inside = ["unshare", "--user", "--map-root-user", "--map-auto"]
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces"  # in this namespace alone
    if as_user(home, *inside, "sh", "-c", forbid).returncode:
        pytest.skip("unshare knows no --map-auto")
    argv = [BIN / "firekiln", "--root", home / "forbidden", *options(context, "FROM scratch\nRUN true\n")]
    done = as_user(home, *inside, "sh", "-c", f"{forbid}; exec {' '.join(map(str, argv))}")
    assert done.returncode == 1
    assert "building without root needs user namespaces, which user.max_user_namespaces=0 forbids" in done.stderr
    assert "hint: as root: sysctl -w user.max_user_namespaces=15000" in done.stderr
