from pathlib import Path

import pytest

from firekiln.errors import UsageError
from firekiln.machine.volumes.mountspec import MountSpec, combine, parse_mount, parse_size, parse_tmpfs, parse_volume

SHARED = ("/a:/b:shared", "/a:/b:nocopy", "a/b:/c", "name:/..")
FLAGS = ("noexec", "nosuid", "nodev")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("/data", MountSpec(kind="volume", target="/data")),
        ("/data/", MountSpec(kind="volume", target="/data")),
        ("pg:/var/lib/pg", MountSpec(kind="volume", source="pg", target="/var/lib/pg")),
        ("pg:/var/lib/pg:ro", MountSpec(kind="volume", source="pg", target="/var/lib/pg", read_only=True)),
        ("pg:/d:ro,nocopy", MountSpec(kind="volume", source="pg", target="/d", read_only=True, copy=False)),
        ("pg:/d:rw,Z", MountSpec(kind="volume", source="pg", target="/d")),
        ("/host/:/d", MountSpec(kind="bind", source="/host", target="/d", create_source=True)),
        ("/a/../b:/d//e:ro", MountSpec(kind="bind", source="/b", target="/d/e", create_source=True, read_only=True)),
        ("/h:/d:cached", MountSpec(kind="bind", source="/h", target="/d", create_source=True)),
    ],
)
def test_v_means_what_it_means_to_docker(text, spec):
    assert parse_volume(text) == spec


def test_v_takes_a_source_that_begins_with_a_dot_from_here():
    assert parse_volume("./site:/d").source == str(Path.cwd() / "site")
    assert parse_volume("..:/d").source == str(Path.cwd().parent)
    assert parse_volume(".:/d").source == str(Path.cwd())


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        ":/a",
        "a:b:c:d",
        "data",
        "/:",
        "/",
        "xx:/",
        "name:rel",
        "/a:ro",
        "aa:/b:bogus",
        "-a:/b",
        "x:/b",
        *SHARED,
    ],
)
def test_v_refuses_what_docker_refuses(text):
    with pytest.raises(UsageError):
        parse_volume(text)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("source=pg,target=/d", MountSpec(kind="volume", source="pg", target="/d")),
        ("type=volume,src=pg,dst=/d,readonly", MountSpec(kind="volume", source="pg", target="/d", read_only=True)),
        ("destination=/d,ro=0,src=pg", MountSpec(kind="volume", source="pg", target="/d")),
        ("type=volume,dst=/d,volume-nocopy", MountSpec(kind="volume", target="/d", copy=False)),
        ("dst=/d,src=pg,volume-subpath=a/b", MountSpec(kind="volume", source="pg", target="/d", subpath="a/b")),
        (
            "dst=/d,volume-label=a=b,volume-label=c,volume-opt=size=2g,volume-driver=local",
            MountSpec(kind="volume", target="/d", labels={"a": "b", "c": ""}, volume_options={"size": "2g"}),
        ),
        ("type=bind,source=/h,target=/d", MountSpec(kind="bind", source="/h", target="/d")),
        ('type=bind,"source=/h,1",target=/d', MountSpec(kind="bind", source="/h,1", target="/d")),
        (
            "target=/d,source=/h,type=bind,bind-create-src",
            MountSpec(kind="bind", source="/h", target="/d", create_source=True),
        ),
        ("type=tmpfs,target=/d", MountSpec(kind="tmpfs", target="/d", options=FLAGS)),
        (
            "type=tmpfs,target=/d,tmpfs-size=64m,tmpfs-mode=0700",
            MountSpec(kind="tmpfs", target="/d", size=64 << 20, mode=0o700, options=FLAGS),
        ),
    ],
)
def test_mount_means_what_it_means_to_docker(text, spec):
    assert parse_mount(text) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("type=npipe,target=/d", "mount type unknown"),
        ("type=bind,target=/d", "Source must not be empty"),
        ("type=bind,source=rel,target=/d", "must be absolute"),
        ("type=volume,source=x y,target=/d", "no name"),
        ("source=pg", "Target must not be empty"),
        ("source=pg,target=d", "must be absolute"),
        ("nonsense", "must be a key=value pair"),
        ("target=/d,bogus=1", "unexpected key 'bogus'"),
        ("type=bind,source=/a,target=/d,volume-nocopy", "cannot mix 'volume-*' options with mount type 'bind'"),
        ("type=tmpfs,source=/a,target=/d", "Source must not be specified"),
        ("type=tmpfs,target=/d,tmpfs-size=lots", "invalid size"),
        ("type=tmpfs,target=/d,tmpfs-mode=999", "invalid mode"),
        ("type=bind,source=/a,target=/d,bind-propagation=rshared", "can't propagate"),
        ("src=pg,target=/d,readonly=maybe", "maybe"),
        ("src=pg,target=/d,volume-driver=nfs", "nfs"),
        ("src=pg,target=/d,volume-subpath=../x", "volume-subpath"),
        ('"src=pg,target=/d', "not a list"),
    ],
)
def test_mount_says_what_is_wrong(text, said):
    with pytest.raises(UsageError) as caught:
        parse_mount(text)
    assert said in str(caught.value)


def test_tmpfs_adds_docker_s_flags_before_the_user_s():
    assert parse_tmpfs("/run") == MountSpec(kind="tmpfs", target="/run", options=FLAGS)
    spec = parse_tmpfs("/run:rw,exec,size=65536k,mode=700,uid=5")
    assert (spec.size, spec.mode) == (64 << 20, 0o700)
    assert spec.options == (*FLAGS, "rw", "exec", "uid=5")
    assert parse_tmpfs("/run:size=50%").options == (*FLAGS, "size=50%")
    with pytest.raises(UsageError):
        parse_tmpfs("run")


def test_mounts_come_after_those_that_they_lie_in_and_volumes_of_the_image_where_nothing_else_is():
    specs = [parse_volume("bb:/x/y"), parse_tmpfs("/x"), parse_volume("/h:/a")]
    made = combine(specs, ["/x/y/", "/var/lib/pg", "rel/ative", "/"])
    assert [spec.target for spec in made] == ["/a", "/x", "/rel/ative", "/x/y", "/var/lib/pg"]
    assert [spec.source for spec in made] == ["/h", "", "", "bb", ""]


def test_two_mounts_at_one_place_are_refused():
    with pytest.raises(UsageError, match="Duplicate mount point: /x"):
        combine([parse_volume("bb:/x"), parse_tmpfs("/x/")], [])


@pytest.mark.parametrize(
    ("text", "size"), [("10g", 10 << 30), ("1.5m", 3 << 19), ("7", 7), ("2KiB", 2048), ("x", None)]
)
def test_sizes_are_docker_s(text, size):
    assert parse_size(text) == size
