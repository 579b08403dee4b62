"""Whole builds of small images on busybox, as root: what the engine makes of them, and what it leaves behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import firekiln
import isolation
from firekiln.build.events import Cached, Completed, Output, Started
from firekiln.errors import BuildError, DockerfileError, ImageNotFoundError, StepFailedError, StoreError
from firekiln.rootfs import lookup
from firekiln.rootfs.tree import walk
from firekiln.store import Store

EPOCH = 1_700_000_000
BUSYBOX = shutil.which("busybox")

pytestmark = [
    pytest.mark.root,
    pytest.mark.rootless,
    isolation.needed,
    pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static"),
]

BASE = """
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY <<EOF /etc/passwd
root:x:0:0:root:/root:/bin/sh
bob:x:7:8:bob:/home/bob:/bin/sh
EOF
COPY <<EOF /etc/group
root:x:0:
bob:x:8:
EOF
"""


class Builder:
    """Builds in a store and a context of its own, and remembers what the last build said."""

    def __init__(self, folder: Path) -> None:
        self.context = folder / "context"
        self.context.mkdir()
        self.root = folder / "store"
        self.events = []
        shutil.copy(BUSYBOX, self.context / "busybox")

    def build(self, text, **options):
        self.events = []
        options = {"dockerfile": text.encode(), "store": self.root, "on_event": self.events.append, **options}
        return firekiln.build(self.context, **options)

    def names(self, kind):
        return [event.task.name for event in self.events if isinstance(event, kind)]

    def ran(self):
        return [name for name in self.names(Started) if "internal" not in name and "exporting" not in name]

    @property
    def output(self):
        return b"".join(event.data for event in self.events if isinstance(event, Output)).decode()

    def file(self, name, path):
        with Store.open(self.root) as store:
            tree = store.layers.merged(store.images.get(name).layers)
            return lookup.resolve(tree, path.encode()).node

    def files(self, name):
        with Store.open(self.root) as store:
            return dict(walk(store.layers.merged(store.images.get(name).layers)))


@pytest.fixture
def builder(tmp_path):
    made = Builder(tmp_path)
    made.build(BASE, tags=["base"])
    yield made
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert list((made.root / "tmp").iterdir()) == []


def test_a_step_sees_the_files_below_it_and_leaves_its_own(builder):
    result = builder.build(
        """
        FROM base
        RUN echo hello > /greeting && rm /etc/group
        RUN cat /greeting; ls /etc/passwd /etc/group 2>&1 || true
        CMD ["cat", "/greeting"]
        """,
        tags=["web"],
    )
    assert builder.output.splitlines() == ["hello", "ls: /etc/group: No such file or directory", "/etc/passwd"]
    assert builder.file("web", "/greeting").read() == b"hello\n"
    assert builder.file("web", "/etc/group") is None
    assert result.image.image.config.cmd == ("cat", "/greeting")
    assert result.references == ("docker.io/library/web:latest",)


def test_a_second_build_runs_nothing_and_makes_the_same_image(builder):
    text = "FROM base\nRUN date > /when\nWORKDIR /w\nENV A=1\nCOPY . /context\n"
    first = builder.build(text)
    second = builder.build(text)
    assert builder.ran() == []
    assert second.digest == first.digest


def test_a_step_that_changes_nothing_has_no_layer(builder):
    base = builder.build("FROM base\n").image
    image = builder.build("FROM base\nRUN true\nWORKDIR /bin\nRUN true\n").image
    assert image.layers == base.layers
    assert builder.ran() == ["[2/4] RUN true", "[3/4] WORKDIR /bin", "[4/4] RUN true"]
    lines = image.image.history[-3:]
    assert [line.empty_layer for line in lines] == [True, True, True]
    assert builder.build("FROM base\nRUN chmod 700 /\n").image.layers != base.layers


def test_layers_and_history_agree(builder):
    image = builder.build("FROM base\nENV A=1\nRUN touch /a\nCMD a\nCOPY busybox /b\nUSER bob\n").image
    kept = [line for line in image.image.history if not line.empty_layer]
    assert len(kept) == len(image.layers) == len(image.image.diff_ids)
    assert image.image.history[-1].created_by == "USER bob"
    assert all(line.created for line in image.image.history)


def change_mtime(builder):
    os.utime(builder.context / "file", (1, 1))


def change_mode(builder):
    (builder.context / "file").chmod(0o600)


def change_owner(builder):
    if os.geteuid() == 0:  # else nothing is changed, and nothing runs again
        os.chown(builder.context / "file", 1, 1)


def change_content(builder):
    (builder.context / "file").write_text("other")


def change_a_file_that_nobody_copies(builder):
    (builder.context / "unused").write_text("other")


FILE = "FROM base\nCOPY file /file\nRUN echo after\n"
COPY_AND_RUN = ["[2/3] COPY file /file", "[3/3] RUN echo after"]


@pytest.mark.parametrize(
    ("change", "reruns"),
    [
        (change_mtime, []),
        (change_owner, []),
        (change_a_file_that_nobody_copies, []),
        (change_mode, COPY_AND_RUN),
        (change_content, COPY_AND_RUN),
    ],
)
def test_copied_files_count_by_content_and_mode(builder, change, reruns):
    (builder.context / "file").write_text("one")
    builder.build(FILE)
    change(builder)
    builder.build(FILE)
    assert builder.ran() == reruns


@pytest.mark.parametrize(
    ("text", "first", "second", "reruns"),
    [
        ("FROM base\nARG A\nRUN echo unused\n", {"build_args": {"A": "1"}}, {"build_args": {"A": "2"}}, True),
        ("FROM base\nRUN echo undeclared\n", {"build_args": {"A": "1"}}, {"build_args": {"A": "2"}}, False),
        ("FROM base\nRUN echo proxy\n", {}, {"build_args": {"http_proxy": "http://proxy"}}, False),
        (
            "FROM base\nRUN --mount=type=secret,id=s cat /run/secrets/s >/dev/null; echo secret\n",
            {"secrets": {"s": b"1"}},
            {"secrets": {"s": b"2"}},
            False,
        ),
        ("FROM base\nRUN echo network\n", {}, {"network": "none"}, True),
        ("FROM base\nRUN echo hosts\n", {}, {"add_hosts": {"db": "10.0.0.1"}}, True),
        ("FROM base\nRUN echo bundle\n", {"ca_bundle": None}, {"ca_bundle": "host"}, False),
        ("FROM base\nRUN echo label\nLABEL a=1\n", {}, {"labels": {"b": "2"}}, False),
        ("FROM base\nRUN echo again\n", {}, {"no_cache": True}, True),
    ],
)
def test_what_counts_for_a_step_besides_files(builder, text, first, second, reruns):
    builder.build(text, **first)
    builder.build(text, **second)
    assert bool([name for name in builder.ran() if "RUN" in name]) is reruns


def test_a_comment_or_another_line_changes_nothing(builder):
    builder.build("FROM base\nWORKDIR /w\nENV A=1\nRUN echo a\n")
    builder.build("# hello\nFROM base\n\nWORKDIR /w\n# there\nENV A=1\nRUN \\\n  echo a\n")
    assert builder.ran() == []


def test_no_cache_filter_runs_one_stage_and_what_stands_on_it(builder):
    text = (
        "FROM base AS a\nRUN date +%s%N > /a\nFROM base AS b\nRUN echo b\nFROM a\nCOPY --from=b /etc /c\nRUN echo c\n"
    )
    builder.build(text)
    builder.build(text, no_cache=["A"])
    assert [name.split("] ")[1] for name in builder.ran()] == [
        "RUN date +%s%N > /a",
        "COPY --from=b /etc /c",
        "RUN echo c",
    ]


def test_a_stage_built_again_to_the_same_files_costs_its_users_nothing(builder):
    text = "FROM base AS tool\nRUN {} echo made > /tool\nFROM base\nCOPY --from=tool /tool /tool\nRUN cat /tool\n"
    builder.build(text.format(""))
    builder.build(text.format("true;"))
    assert builder.ran() == ["[tool 2/2] RUN true; echo made > /tool"]
    assert "[stage-1 2/3] COPY --from=tool /tool /tool" in builder.names(Cached)


def test_a_stage_that_nobody_needs_is_not_built(builder):
    builder.build("FROM base AS unused\nRUN false\nFROM base\nRUN echo used\n")
    assert builder.ran() == ["[stage-1 2/2] RUN echo used"]


MEET = """RUN --mount=type=cache,id=meet,target=/m touch /m/{own} && \\
    for i in $(seq 100); do [ -e /m/{other} ] && exit 0; sleep 0.05; done; exit 1
"""


def test_independent_stages_run_at_the_same_time(builder):
    builder.build(
        f"FROM base AS a\n{MEET.format(own='a', other='b')}FROM base AS b\n{MEET.format(own='b', other='a')}"
        "FROM base\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n"
    )


def test_output_is_heard_while_the_step_runs(builder):
    """The step waits for a file that appears once its first word was heard."""
    heard = []

    def listen(event):
        heard.append(event)
        if isinstance(event, Output) and b"ready" in event.data:
            next(builder.root.glob("cache/**/waiting")).with_name("go").touch()

    text = "FROM base\nRUN --mount=type=cache,target=/c touch /c/waiting; echo ready; until [ -e /c/go ]; do :; done\n"
    builder.build(text, on_event=listen)
    kinds = [type(event) for event in heard if getattr(event, "task", None) and "ready" in event.task.name]
    assert kinds == [Started, Output, Completed]
    assert next(event.size for event in heard if isinstance(event, Completed) and "ready" in event.task.name) == 0


def test_two_builds_at_once_run_a_step_once(builder):
    text = "FROM base\nRUN sleep 0.3; date +%s%N > /when\n"
    digests, ran = [], []

    def build():
        other = Builder.__new__(Builder)
        other.context, other.root = builder.context, builder.root
        digests.append(other.build(text).digest)
        ran.extend(other.ran())

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ran == ["[2/2] RUN sleep 0.3; date +%s%N > /when"]
    assert len(set(digests)) == 1


def test_two_processes_at_once_run_a_step_once(builder):
    (builder.context / "Dockerfile").write_text("FROM base\nRUN sleep 0.3; date +%s%N > /when\n")
    command = [sys.executable, "-m", "firekiln", "--root", builder.root, "build", "--progress=plain", builder.context]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sorted("CACHED" in text.split("RUN sleep")[1].split("\n\n")[0] for text in said) == [False, True]


def test_a_failing_step_says_where_and_how_and_keeps_what_came_before(builder):
    text = "FROM base\nRUN echo before\nRUN echo last words >&2; exit 3\nRUN echo never\n"
    with pytest.raises(StepFailedError) as caught:
        builder.build(text)
    error = caught.value
    assert error.message == (
        'process "/bin/sh -c echo last words >&2; exit 3" did not complete successfully: exit code: 3'
    )
    assert (error.status, error.output, error.location.start) == (3, b"last words\n", 3)
    assert error.source == text
    with pytest.raises(StepFailedError):
        builder.build(text)
    assert builder.ran() == ["[3/4] RUN echo last words >&2; exit 3"]


def test_a_failure_ends_what_runs_beside_it(builder):
    text = "FROM base AS a\nRUN sleep 60\nFROM base AS b\nRUN sleep 0.2; exit 4\nFROM a\nCOPY --from=b / /b\n"
    with pytest.raises(StepFailedError, match="exit code: 4"):
        builder.build(text)


def test_a_build_can_be_canceled(builder):
    cancel = threading.Event()
    timer = threading.Timer(0.3, cancel.set)
    timer.start()
    with pytest.raises(BuildError, match="canceled"):
        builder.build("FROM base\nRUN sleep 60\n", cancel=cancel)
    timer.join()


def test_a_killed_build_leaves_nothing_that_the_next_one_minds(builder):
    (builder.context / "Dockerfile").write_text("FROM base\nRUN touch /a\nRUN sleep 60\n")
    command = [sys.executable, "-m", "firekiln", "--root", builder.root, "build", "--progress=plain", builder.context]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "RUN sleep" in line:
                break
        process.kill()
    builder.build("FROM base\nRUN touch /a\nRUN echo on\n")
    assert [name for name in builder.ran() if "sleep" in name] == []
    assert builder.file("base", "/etc/passwd") is not None
    for folder in (builder.root / "tmp").iterdir():  # swept by a later build, when it is no longer young
        shutil.rmtree(folder)


def test_a_secret_is_in_no_layer_and_no_blob(builder):
    text = (
        'FROM base\nRUN --mount=type=secret,id=s,env=S --mount=type=secret,id=s test "$S" = "$(cat /run/secrets/s)"\n'
    )
    builder.build(text, secrets={"s": b"hunter2hunter2"})
    assert builder.ran()
    assert not [path for path in builder.root.rglob("*") if path.is_file() and b"hunter2hunter2" in path.read_bytes()]


def test_a_secret_that_is_required_and_absent_is_said_before_anything_runs(builder):
    with pytest.raises(BuildError, match=r"Dockerfile:3: secret s: not found"):
        builder.build("FROM base\nRUN echo no\nRUN --mount=type=secret,id=s,required=true true\n")
    assert builder.ran() == []


def test_a_cache_mount_lasts_and_is_in_no_layer(builder):
    builder.build("FROM base\nRUN --mount=type=cache,target=/c echo x >> /c/x; echo first\n")
    builder.build("FROM base\nRUN --mount=type=cache,target=/c cat /c/x; echo second\n", tags=["web"])
    assert builder.output.splitlines() == ["x", "second"]
    assert builder.file("web", "/c/x") is None


def test_a_new_cache_begins_with_what_from_holds_and_another_base_begins_another(builder):
    first = "FROM base AS seed\nRUN mkdir /s && echo {seed} > /s/x && ln -s x /s/l && chmod 1770 /s\nFROM base\n"
    mount = "RUN --mount=type=cache,id=c,from=seed,source=/s,target=/c "
    builder.build(
        first.format(seed="one") + mount + 'test "$(cat /c/l)" = one && ls -ld /c | grep rwxrwx--T && echo two > /c/x'
    )
    builder.build(first.format(seed="one") + mount + 'test "$(cat /c/x)" = two')
    builder.build(first.format(seed="other") + mount + 'test "$(cat /c/x)" = other')
    with pytest.raises(BuildError, match=r"Dockerfile:4: .*/nope.*not found"):
        builder.build(first.format(seed="one") + mount.replace("/s,", "/nope,") + "true")


def test_a_source_is_a_part_of_the_cache_itself_where_nothing_begins_it(builder):
    whole, part = (f"RUN --mount=type=cache,id=c,target=/c{more} " for more in ("", ",source=/sub/x"))
    builder.build(
        f"FROM base\n{whole}mkdir -p /c/sub/x && echo one > /c/sub/x/file\n{part}cat /c/file && echo two > /c/new\n"
    )
    again = part.replace("id=c", "id=c,readonly") + "cat /c/new; touch /c/other || echo read-only"
    builder.build(f"FROM base\n{again}\n")
    assert {"two", "read-only"} <= set(builder.output.splitlines())
    with pytest.raises(BuildError, match=r'the source of a mount: "/sub/y": not found'):
        builder.build(f"FROM base\n{part.replace('/sub/x', '/sub/y')}true\n")


def test_a_step_sees_parts_of_several_beginnings_of_one_cache(builder):
    seed = "FROM base AS seed\nRUN mkdir /a /b && echo a > /a/x && echo b > /b/x\nFROM base\n"
    mounts = " ".join(f"--mount=type=cache,id=c,from=seed,source=/{name},target=/m{name}" for name in "ab")
    builder.build(f"{seed}RUN {mounts} cat /ma/x /mb/x\n")
    assert builder.output.splitlines() == ["a", "b"]


def test_cache_mounts_locked_by_two_steps_in_any_order_do_not_block_each_other(builder):
    both = "--mount=type=cache,id={},target=/1,sharing=locked --mount=type=cache,id={},target=/2,sharing=locked"
    again = " --mount=type=cache,id=a,target=/3,sharing=locked"
    builder.build(
        f"FROM base AS a\nRUN {both.format('a', 'b')}{again} sleep 0.2; echo x > /x\n"
        f"FROM base AS b\nRUN {both.format('b', 'a')} sleep 0.2; echo x > /x\n"
        "FROM base\nCOPY --from=a /x /a\nCOPY --from=b /x /b\n"
    )


@pytest.mark.parametrize("cache_id", ["../..", "/etc", "..", "."])
def test_a_cache_mounts_id_leads_nowhere(builder, cache_id):
    builder.build(f"FROM base\nRUN --mount=type=cache,id={cache_id},target=/c echo x > /c/escaped\n")
    found = [path.relative_to(builder.root) for path in builder.root.parent.rglob("escaped")]
    assert [path.parts[0] for path in found] == ["cache"]


def test_a_bind_mount_shows_a_stage_and_the_context(builder):
    (builder.context / "file").write_text("of the context\n")
    text = (
        "FROM base AS tool\nRUN echo of the stage > /made\nFROM base\n"
        "RUN --mount=from=tool,target=/t --mount=target=/c cat /t/made /c/file\n"
    )
    builder.build(text)
    assert builder.output.splitlines() == ["of the stage", "of the context"]
    builder.build(text)
    assert builder.ran() == []
    (builder.context / "file").write_text("changed\n")
    builder.build(text)
    assert builder.output.splitlines() == ["of the stage", "changed"]


def test_a_linked_copy_is_made_once_for_two_bases(builder):
    (builder.context / "file").write_text("x")
    builder.build("FROM base\nCOPY --link file /f\n", tags=["one"])
    builder.build("FROM base\nRUN touch /other\nCOPY --link file /f\n", tags=["two"])
    assert builder.ran() == ["[2/3] RUN touch /other", "[3/3] LINK COPY --link file /f"]
    assert builder.file("one", "/f").read() == builder.file("two", "/f").read() == b"x"


def test_source_date_epoch_makes_equal_layers_in_two_stores(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
    digests = []
    for name in "ab":
        (tmp_path / name).mkdir()
        made = Builder(tmp_path / name)
        result = made.build(BASE + "RUN mkdir /d && echo x > /d/f && ln /d/f /d/g\nWORKDIR /w\n", tags=["web"])
        digests.append(result.digest)
        files = made.files("web")
        assert {node.meta.mtime_ns for path, node in files.items() if path != b"bin/busybox"} == {EPOCH * 10**9}
        assert files[b"d/f"] is files[b"d/g"]
        assert result.image.image.created == "2023-11-14T22:13:20Z"
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM base\nRUN --network=host true\n", "Dockerfile:2: network.host is not allowed"),
        ("FROM base\nRUN --security=insecure true\n", "Dockerfile:2: security.insecure is not allowed"),
        ("FROM base\nCOPY absent /x\n", "Dockerfile:2: .*absent.*not found"),
        ("FROM base\nUSER nosuch\nRUN true\n", "Dockerfile:3: process .*unable to find user nosuch"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_with_its_place(builder, text, message):
    with pytest.raises(BuildError, match=message):
        builder.build(text)


def test_a_step_for_another_architecture_is_refused(builder):
    with pytest.raises(BuildError, match="Dockerfile:3: RUN can't execute programs for linux/s390x"):
        builder.build('FROM scratch\nCOPY busybox /b\nRUN ["/b"]\n', platform="linux/s390x")


def test_a_missing_base_is_said_in_dockers_words(builder):
    with pytest.raises(ImageNotFoundError, match=r"^Dockerfile:1: nosuch:latest: failed to resolve source metadata"):
        builder.build("FROM nosuch\n")


def test_a_base_that_is_nearly_a_stage_is_said_to_be(builder):
    with pytest.raises(ImageNotFoundError) as caught:
        builder.build("FROM base AS builder\nFROM biulder\nRUN true\n")
    assert "builder" in caught.value.hint
    assert (caught.value.location.start, caught.value.source is not None) == (2, True)


def test_bad_text_is_refused_with_its_place(builder):
    with pytest.raises(DockerfileError, match="Dockerfile:2: unknown instruction: RUNN"):
        builder.build("FROM base\nRUNN true\n")


def test_an_index_that_is_garbage_costs_work_and_nothing_else(builder):
    builder.build("FROM base\nRUN touch /a\n", tags=["web"])
    for path in builder.root.glob("index.db*"):
        path.write_bytes(b"garbage" * 600)
    builder.build("FROM base\nRUN touch /a\n", tags=["web"])
    assert builder.ran() == ["[2/2] RUN touch /a"]
    assert builder.file("web", "/a") is not None


def test_layers_that_were_lost_are_made_again(builder):
    first = builder.build("FROM base\nRUN touch /a\nRUN touch /b\n").image
    first.layers[-1].path.unlink()
    builder.build("FROM base\nRUN touch /a\nRUN touch /b\n")
    assert builder.ran() == ["[3/3] RUN touch /b"]


FSCK = shutil.which("fsck.erofs")


@pytest.mark.skipif(FSCK is None, reason="needs erofs-utils")
def test_every_layer_passes_fsck(builder):
    text = "FROM base\nRUN mkdir -p /a/b && echo x > /a/b/c && rm /bin/ls && mkfifo /p && ln -s b /a/l\n"
    image = builder.build(text + "RUN chmod 4755 /a/b/c\nCOPY . /context\nWORKDIR /w\n").image
    for layer in image.layers:
        subprocess.run([FSCK, layer.path], check=True, stdout=subprocess.DEVNULL)


@isolation.needs_root
def test_a_full_disk_is_one_clear_error_and_room_made_later_is_used(tmp_path):
    made = Builder(tmp_path)
    made.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", made.root], check=True)
    try:
        filler = made.root / "filler"
        made.build(BASE, tags=["base"])
        filler.write_bytes(bytes(3 << 20))
        with pytest.raises(StoreError, match="no space left on device"):
            made.build("FROM base\nCOPY busybox /more\n")
        with pytest.raises(StoreError, match="no space left on device"):
            made.build("FROM base\nRUN cat /bin/busybox > /more\n")
        filler.unlink()
        made.build("FROM base\nRUN cat /bin/busybox > /more\n", tags=["web"])
        assert made.file("web", "/more").size == Path(BUSYBOX).stat().st_size
    finally:
        subprocess.run(["umount", made.root], check=True)
