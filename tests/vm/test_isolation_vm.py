"""RUN steps in machines: the same layers as in namespaces, a kernel of their own, and nothing left of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import firekiln
import isolation
from firekiln.errors import BuildError, StepFailedError
from firekiln.rootfs import lookup
from firekiln.store import Store
from isolation import BIN, USER, as_user
from machines import BUSYBOX

pytestmark = [
    isolation.needs_root,
    pytest.mark.skipif(not BUSYBOX.exists() or not shutil.which("gcc"), reason="needs busybox-static and gcc"),
]

EPOCH = "1700000000"
BASE = """\
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY <<E /etc/passwd
root:x:0:0:root:/root:/bin/sh
bob:x:1000:1000:bob:/home/bob:/bin/sh
E
RUN mkdir -p /d/sub /keep /home && touch /d/1 /d/sub/2 /gone && mkdir -m 700 /home/bob && chown 1000:1000 /home/bob
"""

SUITE = {
    "users": "USER bob\nWORKDIR /home/bob\nRUN id >who && umask 077 && mkdir p && env | sort >p/env\n"
    "USER 7:8\nRUN id\nUSER root\nRUN id >/root-was && chown 65534:65535 /root-was",
    "cache mounts": "RUN --mount=type=cache,target=/c,uid=1000,gid=1000,mode=0750 stat -c '%a %u %g' /c >/o && "
    "touch /c/x /c/z && chown 5 /c/x && mkdir /c/s\n"
    "RUN --mount=type=cache,target=/c,uid=1000,gid=1000,mode=0750 stat -c %u /c/x >/p && rm /c/x\n"
    "RUN --mount=type=cache,target=/c,uid=1000,gid=1000,mode=0750 ls /c >/q\n"
    "RUN --mount=type=cache,target=/b,from=base,source=/home/bob stat -c '%a %u' /b >/r",
    "secrets and files of others": "RUN --mount=type=secret,id=s,uid=1000,mode=0440 cat /run/secrets/s | wc -c >/o && "
    "stat -c '%a %u' /run/secrets/s >>/o\n"
    "RUN --mount=type=bind,target=/m,rw --mount=type=bind,from=base,source=/etc,target=/e touch /m/x && "
    "! touch /e/y && cat /e/passwd >/o2\nRUN --mount=type=tmpfs,target=/t,size=1m touch /t/x && stat -c %a /t >/o3",
    "modes, capabilities and attributes": "COPY attributes /bin/attributes\nRUN chmod 4711 /bin/busybox; touch /s /c "
    "&& attributes /c && chown 7 /s && chmod 6755 /s && mkdir -m 2750 /g && mkdir -m 1777 /t && mkfifo -m 620 /f",
    "hard links": "RUN echo x >/l1 && chown 3:4 /l1 && chmod 600 /l1 && ln /l1 /l2 && ln /l2 /d/l3 && rm /l1\n"
    "RUN echo y >>/l2",
    "whiteouts and opaque directories": "RUN rm /gone && rm -r /keep && rm -r /d && mkdir /d && touch /d/new\n"
    "RUN mv /d /e && rm /e/new && ln -s nowhere /gone",
    "sparse files": "RUN truncate -s 10M /sparse && echo x >> /sparse && truncate -s 1M /hole && "
    "dd if=/dev/zero of=/zeros bs=64k count=4",
    "stages": "FROM base AS built\nRUN mkdir -p /out/bin && echo made >/out/bin/it && chown 9:9 /out/bin/it\n"
    "FROM base AS step\nRUN --mount=from=built,source=/out,target=/out cp -a /out/bin/it /it && ls -ln /it >/l\n"
    "COPY --from=built /out /out\nRUN cat /out/bin/it >>/it\nCOPY busybox /x\nRUN stat -c %s /x >/y",
    "heredocs and arguments": "ARG A=1\nENV B=2\nRUN <<E\n#!/bin/sh\necho $0 $A $B \\$HOME >/o\nE\n"
    'RUN ["/bin/echo", "$B"]\nSHELL ["/bin/sh", "-ec"]\nRUN echo $$ >/p; hostname >>/p; cat /etc/hosts >>/p; pwd >>/p',
    "no network": "RUN --network=none ls /sys/class/net >/o; ! wget -T 1 http://203.0.113.1/",
}
"""Ten Dockerfiles, with SOURCE_DATE_EPOCH, so that what is equal is equal to the last byte."""
QUICK = ("whiteouts and opaque directories", "cache mounts")
"""Those that every run of the tests builds: the others take a minute or two."""

FEATURES = {
    "a file system is mounted": "RUN mkdir /m && mount -t tmpfs none /m && echo in >/m/x "
    "&& cat /m/x >/got && umount /m",
    "a loop device is set up, and left": "RUN truncate -s 4M /disk && l=$(losetup -f) && losetup $l /disk && "
    "mke2fs $l >/dev/null && mkdir /m && mount -t ext2 $l /m && echo in >/m/f && cat /m/f >/got\nRUN test ! -e /m/f",
    "rules are loaded": "COPY nft /\nRUN nft add table inet t && nft 'add chain inet t in { type filter hook input "
    "priority 0; }' && nft list ruleset | grep -q 'chain in' && echo in >/got\nRUN test -z \"$(nft list ruleset)\"",
}

ATTRIBUTES = r"""
#include <sys/xattr.h>
int main(int count, char **words)
{
    static const char capability[20] = "\1\0\0\2\0\4"; /* cap_net_bind_service+ep, revision 2 */
    return setxattr(words[1], "security.capability", capability, sizeof capability, 0) ||
           setxattr(words[1], "user.mime", "text/plain", 10, 0) || count != 2;
}
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The folder of a context."""
    folder = tmp_path_factory.mktemp("isolation")
    context = folder / "context"
    context.mkdir()
    shutil.copy(BUSYBOX, context / "busybox")
    argv = ["gcc", "-static", "-o", str(context / "attributes"), "-x", "c", "-"]
    subprocess.run(argv, input=ATTRIBUTES, text=True, check=True)
    return folder


def store_with(kernel_folders, path):
    """A store of these kernels alone."""
    for folder in kernel_folders:
        shutil.copytree(folder, path / "kernels" / folder.name)
    return path


@pytest.fixture(scope="module")
def root(here, kernel_folder):
    return store_with((kernel_folder / "kernels").iterdir(), here / "store")


@pytest.fixture(scope="module")
def own_root(here, own_kernel):
    return store_with([own_kernel.image.parent], here / "own")


@pytest.fixture
def layers(here, monkeypatch):
    """Build a Dockerfile's text on a store: the digests of the layers."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)

    def build(text, root, **options):
        given = {"dockerfile": text.encode(), "store": root, "secrets": {"s": b"secret"}, "ca_bundle": None}
        return [layer.digest for layer in firekiln.build(here / "context", **given, **options).image.layers]

    return build


def stage(name):
    body = SUITE[name]
    return body if body.startswith("FROM") else f"FROM base AS step\n{body}"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SUITE]
)
def test_a_machine_gives_the_layers_that_namespaces_give(layers, root, tmp_path, name):
    text = f"{BASE}{stage(name)}\n"
    in_namespaces = layers(text, tmp_path / "namespaces")
    assert layers(text, store_with((root / "kernels").iterdir(), tmp_path / "vm"), isolation="vm") == in_namespaces


@pytest.mark.slow
def test_an_ordinary_user_s_machines_give_the_layers_that_root_s_namespaces_give(here, root, layers):
    text = BASE + "".join(
        stage(name).replace("step", f"step{n}").replace("built", f"b{n}") + "\n" for n, name in enumerate(SUITE)
    )
    text += "FROM scratch\n" + "".join(f"COPY --from=step{n} / /{n}\n" for n in range(len(SUITE)))
    ours = layers(text, here / "ours")
    with isolation.home() as home:
        shutil.copytree(here / "context", home / "context")
        (home / "context/Dockerfile").write_text(text)
        (home / "secret").write_text("secret")
        store_with((root / "kernels").iterdir(), home / "store")
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(home)], check=True)
        options = ["--isolation=vm", "--ca-bundle=none", "-q", f"--secret=id=s,src={home}/secret"]
        argv = [BIN / "firekiln", "--root", home / "store", "build", *options, "-t", "made", home / "context"]
        done = as_user(home, *argv, timeout=1200, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH})
        assert done.returncode == 0, done.stderr
        with Store.open(home / "store") as store:
            assert [layer.digest for layer in store.images.get("made").layers] == ours


def put_nft(folder):
    """This host's nft, and what it loads."""
    nft = shutil.which("nft")
    if nft is None:
        pytest.skip("needs nftables")
    listed = subprocess.run(["ldd", nft], capture_output=True, text=True, check=True).stdout
    for file in map(Path, [nft, *(word for word in listed.split() if word.startswith("/"))]):
        target = folder / str(file).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/nft").symlink_to(nft)


@pytest.mark.slow
@pytest.mark.parametrize("what", FEATURES)
def test_a_step_that_needs_a_kernel_builds_in_a_machine_only(here, own_root, layers, tmp_path, what):
    if "nft" in FEATURES[what]:
        put_nft(here / "context/nft")
    text = f"{BASE}FROM base\n{FEATURES[what]}\n"
    with pytest.raises(StepFailedError) as refused:
        layers(text, tmp_path / "refused")
    assert "--isolation=vm" in refused.value.hint
    made = layers(text, own_root, isolation="vm")
    with Store.open(own_root) as store:
        tree = store.layers.merged([store.layers.get(digest) for digest in made])
        assert lookup.get(tree, b"got").read() == b"in\n"


def test_a_failed_step_ends_as_in_namespaces_and_leaves_no_machine(root, layers):
    with pytest.raises(StepFailedError) as failed:
        layers(f"{BASE}FROM base\nRUN echo said; exit 7", root, isolation="vm")
    assert (failed.value.status, failed.value.output, failed.value.hint) == (7, b"said\n", None)
    assert list((root / "tmp").iterdir()) == []
    assert machines_below(root / "tmp") == []


@pytest.mark.slow
def test_a_step_that_cannot_start_says_why(root, layers):
    with pytest.raises(StepFailedError) as unknown:
        layers(f'{BASE}FROM base\nRUN ["/nothing"]', root, isolation="vm")
    assert unknown.value.status == 127
    with pytest.raises(BuildError, match="unable to find user nobody-knows"):
        layers(f"{BASE}FROM base\nUSER nobody-knows\nRUN true", root, isolation="vm")
    with pytest.raises(BuildError, match='"/none": not found'):
        layers(f"{BASE}FROM base\nRUN --mount=from=base,source=/none,target=/n true", root, isolation="vm")


@pytest.mark.slow
def test_a_step_s_limits_are_kept_in_its_machine(root, layers):
    body = "RUN dd if=/dev/zero of=/dev/null bs=100M count=1"
    with pytest.raises(StepFailedError, match="cannot allocate memory: it used all that --memory allows, 64 MiB"):
        layers(f"{BASE}FROM base\n{body}", root, isolation="vm", memory=64 << 20)
    body = "RUN (ulimit -n; df -k /dev/shm | tail -1 | cut -c22-31; cd /sys/fs/cgroup; cat cpu.max pids.max) >/n"
    limits = {"ulimits": ["nofile=123:456"], "shm_size": 1 << 20, "cpus": 0.5, "pids_limit": 77}
    made = layers(f"{BASE}FROM base\n{body}", root, isolation="vm", **limits)
    with Store.open(root) as store:
        said = lookup.get(store.layers.merged([store.layers.get(made[-1])]), b"n").read().split()
    assert said == [b"123", b"1024", b"50000", b"100000", b"77"]


def machines_below(folder):
    """The process ids of VMMs whose files lie in that folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if b"qemu-system" in words and os.fsencode(folder) in words:
            found.append(path.parent.name)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_no_machine_outlives_its_build(here, root, tmp_path, number):
    store = store_with((root / "kernels").iterdir(), tmp_path / "store")
    run = '["/bin/busybox", "sh", "-c", "echo begun; sleep 1000"]'
    (tmp_path / "Dockerfile").write_text(f"FROM scratch\nCOPY busybox /bin/busybox\nRUN {run}\n")
    options = ["--isolation=vm", "--progress=plain", "-f", tmp_path / "Dockerfile"]
    argv = [BIN / "firekiln", "--root", store, "build", *options, here / "context"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as build:
        assert any(line.rstrip().endswith(" begun") for line in build.stderr)
        assert machines_below(store / "tmp")
        build.send_signal(number)
        build.stderr.read()
        assert build.wait() != 0
    deadline = time.monotonic() + 60
    while machines_below(store / "tmp") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert machines_below(store / "tmp") == []


@pytest.mark.slow
def test_packages_are_installed_over_the_network(here, root):
    body = "RUN apt-get update -q && apt-get install -qy --no-install-recommends hello\nRUN hello"
    text = f"FROM debian:bookworm-slim\n{body}"
    built = firekiln.build(here / "context", dockerfile=text.encode(), store=root, isolation="vm")
    with Store.open(root) as store:
        assert lookup.get(store.layers.merged(built.image.layers), b"usr/bin/hello") is not None
