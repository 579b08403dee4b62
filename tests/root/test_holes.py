"""The ways out that other builders had: each is tried here by a whole build, and the host's canary has to stay as is.

docs/reference/isolation.md lists them with the tests that try them, here and elsewhere.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from building import BUSYBOX, Builds, write_base
from firekiln.errors import BuildError, DockerfileError, FirekilnError, StepFailedError
from firekiln.sandbox import cgroup
from systems import may_isolate, spawners_of

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not may_isolate(), reason="needs root or subordinate ids"),
    pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static"),
]

BASE = "FROM scratch AS base\nCOPY base /\n"
SECRET = b"the canary of the host"


@pytest.fixture
def canary(tmp_path) -> Iterator[Path]:
    """A folder of the host that nothing may read, change or remove."""
    folder = tmp_path / "canary"
    (folder / "empty").mkdir(parents=True)
    (folder / "file").write_bytes(SECRET)
    (folder / "unmistakable").touch()
    before = state(folder)
    yield folder
    assert state(folder) == before


def state(folder: Path) -> dict[str, tuple[int, ...]]:
    places = [folder, *sorted(folder.rglob("*"))]
    return {
        str(path): (made.st_mode, made.st_uid, made.st_ino, made.st_size, made.st_mtime_ns, made.st_ctime_ns)
        for path in places
        for made in [path.lstat()]
    }


@pytest.fixture
def groups(monkeypatch) -> list[Path]:
    """The control groups that this test's builds make."""
    made = []
    original = cgroup._made

    @contextlib.contextmanager
    def noted(place: Path) -> Iterator[Path]:
        with original(place) as folder:
            made.append(folder)
            yield folder

    monkeypatch.setattr(cgroup, "_made", noted)
    return made


@pytest.fixture
def builds(tmp_path, groups) -> Iterator[Builds]:
    made = Builds(tmp_path)
    write_base(made.context / "base")
    for program in "ln mv find head sleep seq yes grep".split():
        (made.context / "base/bin" / program).symlink_to("busybox")
    before = mounts_of(tmp_path)
    yield made
    assert mounts_of(tmp_path) == before
    assert spawners_of(os.getpid()) == []
    assert not any(group.exists() for group in groups)
    assert list((made.root / "tmp").glob("*/*")) == []


def mounts_of(folder: Path) -> list[str]:
    """The host's mounts in the folder, or made by a step. Others may come and go."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line for line in lines if str(folder) in line or line.startswith("of-a-step ")]


def said(builds: Builds) -> str:
    return "".join(builds.outputs().values())


def holds(folder: Path, data: bytes) -> list[Path]:
    """Files below a folder with these bytes in them."""
    return [
        path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and data in path.read_bytes()
    ]


# --- working directories ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", [*(f"fd/{number}" for number in (3, 4, 5, 6, 7, 8, 9, 10)), "cwd", "root", "task/1/cwd"]
)
def test_a_working_directory_in_proc_leads_nowhere(builds, canary, place):
    """CVE-2024-21626."""
    away = "/..".join([""] * 12) + str(canary)
    try:
        builds.build(f"{BASE}WORKDIR /proc/self/{place}\nRUN cat .{away}/file; touch .{away}/x; readlink -f . ; ls /\n")
    except BuildError:
        assert SECRET.decode() not in said(builds)
        return
    assert SECRET.decode() not in said(builds)
    assert "base" not in said(builds).split(), "the context's"
    assert "boot" not in said(builds).split(), "the host's"


def test_a_linked_working_directory_stays_in_the_image(builds, canary):
    """CVE-2026-55686."""
    (builds.context / "base/w").symlink_to(f"../../../../../..{canary}")
    (builds.context / "base/absolute").symlink_to(canary)
    image = builds.build(f"{BASE}WORKDIR /w\nRUN touch here; pwd -P\nWORKDIR /absolute/sub\nRUN touch there\n").image
    assert said(builds) == f"{canary}\n"
    tree = builds.tree(image)
    for part in str(canary).strip("/").split("/"):
        tree = tree.children[part.encode()]
    assert set(tree.children) == {b"here", b"sub"}


# --- the text --------------------------------------------------------------------------------------------------------

ENDLESS = {
    "a file of 100 MiB": "FROM scratch\n" + "#" * (100 << 20),
    "a line of 64 KiB": f"FROM scratch\nLABEL x={'y' * (64 << 10)}\n",
    "nested triggers": f"FROM scratch\n{'ONBUILD ' * 10_000}RUN x\n",
    "a cycle of stages": "FROM scratch AS a\nCOPY --from=b / /\nFROM scratch AS b\nCOPY --from=a / /\n",
    "doubling arguments": "FROM scratch\nARG A=xxxxxxxx\n" + "ARG A=$A$A\n" * 64 + "LABEL x=$A\n",
    "doubling environment": "FROM scratch\nENV A=xxxxxxxx\n" + "ENV A=$A$A\n" * 64,
}


@pytest.mark.parametrize("text", ENDLESS.values(), ids=ENDLESS)
def test_a_text_that_grows_or_turns_in_circles_is_an_error_at_once(builds, canary, text):
    data = text.encode()
    began = time.process_time()
    with pytest.raises(FirekilnError):
        builds.build("", dockerfile=data)
    assert time.process_time() - began < 1


# --- what is mounted into a step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "etc/resolv.conf", "etc/hosts", "run"])
@pytest.mark.parametrize(
    "way", ["{canary}", "../../../../../../..{canary}", "/proc/self/root{canary}", "{canary}/empty/x"]
)
def test_a_link_where_something_is_mounted_leads_nowhere(builds, canary, name, way):
    """CVE-2026-41579."""
    (builds.context / "base" / name).symlink_to(way.format(canary=canary))
    with contextlib.suppress(BuildError):
        builds.build(f"{BASE}RUN --mount=type=secret,id=s echo x >/etc/hosts; ls {canary}\n", secrets={"s": b"x"})
    assert "unmistakable" not in said(builds)


def test_a_cache_s_id_leads_nowhere(builds, canary):
    """CVE-2024-9675."""
    for number, name in enumerate(["../../../canary", str(canary), "../../canary/empty", "..", "/"]):
        builds.build(f"{BASE}RUN --mount=type=cache,id={name},target=/c ls -A /c; touch /c/escaped; echo {number}\n")
        assert said(builds) == f"{number}\n"
    places = {path.relative_to(builds.root).parts[0] for path in builds.root.parent.rglob("escaped")}
    assert places == {"cache"}


@pytest.mark.parametrize("options", ["", ",rw", ",from=base", ",from=base,rw"])
def test_a_bind_mount_of_a_link_shows_the_image_s_own_files(builds, canary, options):
    """CVE-2024-1753."""
    for folder in (builds.context, builds.context / "base"):
        (folder / "root").symlink_to("/")
        (folder / "up").symlink_to("../../../../../../..")
        (folder / "canary").symlink_to(canary)
    for source in ("root", "up", "canary", "root/canary", f"up{canary}"):
        with contextlib.suppress(BuildError):
            builds.build(
                f"{BASE}FROM base\nRUN --mount=type=bind,source={source},target=/m{options} "
                f"ls /m /m{canary}; cat /m/file; touch /m/x /m{canary}/x\n"
            )
        assert SECRET.decode() not in said(builds)
        assert not {"boot", "srv", "opt"} & set(said(builds).split()), "the host's"


@pytest.mark.parametrize("option", ["bind-propagation=shared", "propagation=rshared", "shared", "z"])
def test_a_mount_has_no_propagation_to_choose(builds, canary, option):
    """CVE-2024-9407."""
    with pytest.raises(DockerfileError):
        builds.build(f"{BASE}RUN --mount=type=bind,target=/m,{option} true\n")


def test_not_even_an_insecure_step_s_mounts_reach_the_host(builds, canary):
    text = (
        f"{BASE}RUN --security=insecure --mount=type=cache,target=/c,id=c "
        "mount --make-rshared / ; mkdir -p /c/m /m && mount -t tmpfs of-a-step /c/m && "
        "mount -t tmpfs of-a-step /m && touch /c/m/x\n"
    )
    with pytest.raises(BuildError, match=r"security\.insecure is not allowed"):
        builds.build(text)
    builds.build(text, allow=["security.insecure"])
    assert [path.name for path in builds.root.rglob("x")] == []


def test_what_replaces_a_mount_s_place_is_not_cleaned_up(builds, canary):
    """CVE-2024-23652: the places of mounts are removed again, and a step can put a link above them."""
    moves = f"mv /x /z && mkdir /x && ln -s {canary} /x/y; mv /v /w; ln -s {canary} /v; ls /x/y/ /v/; true"
    builds.build(
        f"{BASE}RUN --mount=type=tmpfs,target=/x/y/empty --mount=type=secret,id=s,target=/v/file {moves}\n",
        secrets={"s": b"value"},
    )
    assert SECRET.decode() not in said(builds)


def test_a_cache_that_another_step_swaps_under_a_mount_shows_no_host_file(builds, canary):
    """CVE-2024-23651."""
    away = f"../../../../../../../../../../../..{canary}"
    swap = (
        f"mkdir -p /c/real; ln -s {away} /c/link; i=0; while [ $i -lt 300 ]; do mv /c/real /c/sub; mv /c/sub /c/real; "
    )
    swap += "mv /c/link /c/sub; mv /c/sub /c/link; i=$((i+1)); done"
    look = "cat /m/file; touch /m/x; true"
    looks = "".join(
        f"RUN --mount=type=cache,id=raced,source=sub,target=/m --mount=type=cache,id=raced,target=/c {look} {number}\n"
        for number in range(8)
    )
    text = (
        f"{BASE}FROM base AS swapping\nRUN --mount=type=cache,id=raced,target=/c {swap}; touch /done\n"
        f"FROM base AS looking\n{looks}RUN touch /done\n"
        "FROM base\nCOPY --from=swapping /done /1\nCOPY --from=looking /done /2\n"
    )
    with contextlib.suppress(BuildError):  # where the part is not there at that moment
        builds.build(text)
    assert SECRET.decode() not in said(builds)


@pytest.mark.parametrize("above", ["", "/", "../../../../../../../../../../../.."])
def test_a_part_of_a_cache_that_is_a_link_leads_nowhere_else(builds, canary, above):
    """CVE-2024-23651, without the race: the link stays."""
    target = f"{above}{canary}" if above else "inside"
    builds.build(f"{BASE}RUN --mount=type=cache,id=linked,target=/c mkdir /c/inside && ln -s {target} /c/sub\n")
    look = f"{BASE}RUN --mount=type=cache,id=linked,source=sub,target=/m ls -l /m; cat /m/file; touch /m/x; true\n"
    if above:
        with pytest.raises(BuildError, match='the source of a mount: "/sub": not found'):
            builds.build(look)
    else:
        builds.build(look)
    assert SECRET.decode() not in said(builds)
    assert not (canary / "x").exists()


# --- the context -----------------------------------------------------------------------------------------------------


def test_links_out_of_the_context_are_not_followed(builds, canary):
    (builds.context / "out").symlink_to(canary)
    (builds.context / "file").symlink_to(canary / "file")
    (builds.context / "sub").mkdir()
    (builds.context / "sub/up").symlink_to("../../canary")
    for source in ("out/file", "file", "out/", "sub/up/file", "../canary/file", "out", "sub/up/"):
        with contextlib.suppress(BuildError):
            builds.build(f"FROM scratch\nCOPY {source} /x/\n")
        with contextlib.suppress(BuildError):
            builds.build(f"FROM scratch\nADD {source} /x/\n")
    builds.build("FROM scratch\nCOPY sub /x/\n")
    assert holds(builds.root, SECRET) == []


def test_links_that_come_and_go_while_a_context_is_copied_are_not_followed(builds, canary):
    """CVE-2018-15664."""
    place = builds.context / "swapped"
    folder, link = builds.context.parent / "folder", builds.context.parent / "link"
    folder.mkdir()
    (folder / "file").write_text("of the context")
    link.symlink_to(canary)
    end = threading.Event()

    def swap() -> None:
        while not end.is_set():
            for one in (folder, link):
                one.rename(place)
                place.rename(one)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for number in range(25):
            with contextlib.suppress(FirekilnError):
                builds.build(f"FROM scratch\nLABEL n={number}\nCOPY swapped /x/\nCOPY swapped/file /y\n", no_cache=True)
    finally:
        end.set()
        thread.join()
    assert holds(builds.root, SECRET) == []


# --- what a step leaves running, and how much it says -----------------------------------------------------------------


def test_a_fork_bomb_and_daemons_end_with_their_step(builds, canary):
    if cgroup.find("pids") is None:
        pytest.skip("no pids cgroup here")
    bomb = "RUN b() { b | b & }; b; (setsid sleep 7654 &); sleep 0.2; exit 3\n"
    with pytest.raises(StepFailedError, match="exit code: 3"):
        builds.build(BASE + bomb.replace("setsid ", ""), pids_limit=200)
    deadline = time.monotonic() + 3
    while any(b"sleep\0007654" in line for line in command_lines()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(b"sleep\0007654" in line for line in command_lines())


def command_lines() -> Iterator[bytes]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield file.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_endless_step_that_is_interrupted_leaves_no_process_mount_or_control_group(builds, canary, number):
    (builds.context / "Dockerfile").write_text(f"{BASE}RUN (while :; do :; done) & echo begun; yes > /dev/null\n")
    argv = [sys.executable, "-m", "firekiln", "--root", builds.root, "build", "--progress=plain", builds.context]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as build:
        for line in build.stderr:
            if line.endswith(" begun\n"):
                break
        (spawner,) = spawners_of(build.pid)
        group = Path(f"/proc/{spawner}/cgroup").read_text()
        began = time.monotonic()
        build.send_signal(number)
        build.stderr.read()
    assert build.returncode == 128 + number
    assert time.monotonic() - began < 3
    assert not Path(f"/proc/{spawner}").exists()
    place = cgroup.find("pids")
    if place is not None:
        (own,) = [Path(line.split(":")[2]).parent.name for line in group.splitlines() if line.endswith("/spawner")]
        assert not (place.folder / own).exists()


@pytest.mark.parametrize("size", ["64", pytest.param("1024", marks=pytest.mark.slow)])
def test_a_step_s_output_is_clipped_and_memory_bounded(builds, canary, size):
    (builds.context / "Dockerfile").write_text(f"{BASE}RUN yes $(seq 40) | head -c {size}m; echo the end; false\n")
    argv = [sys.executable, "-c", PEAK, "--root", builds.root, "build", "--progress=plain", builds.context]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert done.returncode == 1
    assert 16 << 20 < len(done.stderr) < 128 << 20
    assert b"output clipped" in done.stderr
    assert b"the end" in done.stderr[-4096:], "what failed is still told"
    assert int(done.stdout) < 150 << 10, "KiB"


PEAK = """
import atexit
from pathlib import Path
from firekiln.cli.main import main
status = Path("/proc/self/status")
atexit.register(lambda: print(*(line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line)))
main()
"""
# getrusage's figure would be the greater of this process's and of that which forked it


# --- sources from elsewhere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "https://127.0.0.1:1/x.git#--upload-pack=touch${IFS}CANARY/x",
        "https://127.0.0.1:1/x.git#main:../..",
        "https://127.0.0.1:1/x.git#..:/",
        "git@-oProxyCommand=touch${IFS}CANARY/x:x.git",
        "ssh://-oProxyCommand=touch${IFS}CANARY/x/x.git",
        "git://-oProxyCommand=x/--upload-pack=x.git",
        "git@127.0.0.1:-x/../../y.git#-b",
    ],
)
def test_a_git_url_is_never_an_option_or_a_way_out(builds, canary, source):
    url = source.replace("CANARY", str(canary)).replace("$", r"\$")
    with pytest.raises((BuildError, DockerfileError)):
        builds.build(f"FROM scratch\nADD {url} /x\n")


@contextlib.contextmanager
def redirecting(locations: dict[str, str]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            location = locations.get(self.path)
            self.send_response(302 if location else 200)
            self.send_header("Location", location) if location else None
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"body")

        def log_message(self, *args) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_url_that_leads_elsewhere_or_holds_something_else_is_refused(builds, canary):
    places = {
        "/file": f"file://{canary}/file",
        "/metadata": "http://169.254.169.254/latest/meta-data/",
        "/v6": "http://[fd00:ec2::254]/latest/meta-data/",
        "/mapped": "http://[::ffff:169.254.169.254]/",
        "/ftp": "ftp://127.0.0.1/x",
        "/loop": "/loop",
    }
    with redirecting(places) as server:
        for path in places:
            began = time.monotonic()
            with pytest.raises(BuildError, match=r"refused a redirect|redirect|status 302"):
                builds.build(f"FROM scratch\nADD {server}{path} /x\n")
            assert time.monotonic() - began < 5
        with pytest.raises(BuildError, match="digest mismatch"):
            builds.build(f"FROM scratch\nADD --checksum=sha256:{'0' * 64} {server}/good /x\n")
        builds.build(f"FROM scratch\nADD {server}/good /x\n")
    assert holds(builds.root, SECRET) == []


# --- the cache -------------------------------------------------------------------------------------------------------


def test_a_base_of_the_same_name_and_config_with_other_content_is_another_base(builds, canary):
    """CVE-2024-24557."""
    base = f'{BASE}COPY content /content\nCMD ["same"]\n'
    child = "FROM forged\nRUN cat /content\n"
    (builds.context / "content").write_text("one\n")
    builds.build(base, tags=["forged"])
    builds.build(child)
    assert said(builds) == "one\n"
    (builds.context / "content").write_text("two\n")
    builds.build(base, tags=["forged"])
    builds.build(child)
    assert said(builds) == "two\n"
    builds.build(child)
    assert set(builds.ends().values()) >= {"CACHED"}
    assert said(builds) == ""


def test_a_base_with_another_health_check_or_trigger_gives_another_image(builds, canary):
    """CVE-2024-24557."""
    builds.build(f'{BASE}HEALTHCHECK CMD ["good"]\nONBUILD RUN echo first\n', tags=["changing"])
    child = "FROM changing\nRUN echo child\n"
    first = builds.build(child, tags=["child"])
    assert said(builds) == "first\nchild\n"
    builds.build(f'{BASE}HEALTHCHECK CMD ["evil"]\nONBUILD RUN echo second\n', tags=["changing"])
    second = builds.build(child, tags=["child"])
    assert "second\n" in said(builds)
    assert first.config_digest != second.config_digest
    healthy = [result.image.image.config.healthcheck for result in (first, second)]
    assert "good" in repr(healthy[0])
    assert "evil" in repr(healthy[1])


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_secrets_are_nowhere_in_store_logs_keys_and_index(builds, canary, tmp_path):
    secret = b"correct horse 7c1f"
    (tmp_path / "s").write_bytes(secret)
    use = 'test "$(cat /run/secrets/s)" = "$V"; cp /etc/passwd /kept; ls /run/secrets'
    (builds.context / "Dockerfile").write_text(
        f"{BASE}RUN --mount=type=secret,id=s --mount=type=secret,id=s,env=V {use}\n"
        "FROM base AS fails\nRUN --mount=type=secret,id=s,env=V false\n"
    )
    for progress in ("plain", "rawjson", "quiet"):
        for target, status in (("base", 0), ("fails", 1)):
            argv = [sys.executable, "-m", "firekiln", "--root", builds.root, "build", f"--progress={progress}"]
            proxy = "--build-arg=HTTPS_PROXY=http://user:correct%20horse%207c1f@127.0.0.1:1"
            options = [f"--target={target}", f"--secret=id=s,src={tmp_path}/s", proxy, "--no-cache", "-t", "kept"]
            done = subprocess.run([*argv, *options, builds.context], capture_output=True, check=False)
            assert done.returncode == status, done.stderr
            for word in (secret, b"correct%20horse"):
                assert word not in done.stdout + done.stderr
                assert holds(builds.root, word) == []
    image = builds.build((builds.context / "Dockerfile").read_text(), target="base", secrets={"s": secret}).image
    assert b"kept" in builds.tree(image).children
    assert secret not in repr(builds.events).encode()
