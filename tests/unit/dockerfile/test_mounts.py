"""--mount and --device."""

import pytest

from firekiln.dockerfile.mounts import (
    Device,
    Mount,
    MountType,
    ShareMode,
    check_mount,
    mount_from,
    parse_device,
    parse_mount,
    parse_size,
    split_fields,
)


def mount(text):
    return parse_mount(text, lambda value: value.replace("$x", "X"))


def test_a_bind_is_read_only_unless_it_says_otherwise():
    assert mount("target=/t,from=b,source=/s") == Mount(target="/t", source_stage="b", source="/s", readonly=True)
    assert not mount("target=/t,rw").readonly
    assert not mount("target=/t,readonly=false").readonly
    assert mount("target=/t,readwrite=0").readonly


def test_caches_and_tmpfs_are_writable_unless_they_say_otherwise():
    made = mount("type=cache,id=i,dst=/c,sharing=LOCKED,mode=0755,uid=1,gid=2")
    assert made == Mount(
        type=MountType.CACHE,
        id="i",
        target="/c",
        sharing=ShareMode.LOCKED,
        mode=0o755,
        uid=1,
        gid=2,
        readonly=False,
    )
    assert mount("type=cache,target=/c,ro").readonly
    assert mount("type=tmpfs,target=/t,size=1.5m").size == 1_572_864


def test_a_secret_may_be_a_variable():
    made = mount("type=secret,id=k,env=K,required")
    assert (made.id, made.env, made.required) == ("k", "K", True)


def test_values_are_expanded_and_keys_are_in_any_case():
    assert mount("TYPE=cache,Target=/$x").target == "/X"


def test_a_quoted_field_may_hold_commas():
    assert mount('"target=/a,b","source="') == Mount(target="/a,b")
    assert split_fields('a,"b""c",') == ["a", 'b"c', ""]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "csv"),
        ('a"b', "csv"),
        ('"a', "csv"),
        ('"a"b', "csv"),
        ("z", "invalid field 'z' must be a key=value pair"),
        ("type=cach", 'unsupported mount type "cach" (did you mean cache?)'),
        ("type=cache,sharing=lock", 'unsupported sharing value "lock"'),
        ("targe=/x", "unexpected key 'targe' in 'targe=/x' (did you mean target?)"),
        ("type=bind,required", "unexpected key 'required' for mount type 'bind'"),
        ("type=cache,size=1", "unexpected key 'size' for mount type 'cache'"),
        ("type=cache,env=A", "unexpected key 'env' for mount type 'cache'"),
        ("type=tmpfs,size=many", "invalid value for size: many"),
        ("ro=maybe", "invalid value for ro: maybe"),
        ("type=cache,mode=9", "invalid value 9 for mode"),
        ("type=cache,uid=-1", "invalid value -1 for uid"),
        ("type=cache,gid=4294967296", "invalid value 4294967296 for gid"),
        ("type=bind,mode=7", 'mode not allowed for "bind" type mounts'),
        ("type=tmpfs,uid=7", 'uid not allowed for "tmpfs" type mounts'),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=a,src=b", "both source and id can't be set"),
        ("type=secret,id=a,from=b", "secret mount should not have a from"),
        ("type=secret,id=a,sharing=locked", "secret mount should not define sharing"),
        ("type=bind,sharing=locked", "invalid cache sharing set for bind mount"),
    ],
)
def test_a_malformed_mount_is_a_value_error(text, reason):
    with pytest.raises(ValueError, match=r".") as caught:
        mount(text)
    assert reason in str(caught.value)


def test_only_from_is_looked_at_before_variables_are_known():
    check_mount("type=$kind,target=$y,z")
    check_mount("from=a$")
    with pytest.raises(ValueError, match="doesn't support variable expansion"):
        check_mount("From=$a")
    assert mount_from("type=cache,FROM=b,target=/x") == "b"
    assert mount_from("type=cache,target=/x") == ""


def test_a_device_has_a_name_and_may_be_required():
    assert parse_device("v/c=n") == Device(name="v/c=n")
    assert parse_device("name=v/c=n,required") == Device(name="v/c=n", required=True)
    assert parse_device("required=false,v/c") == Device(name="v/c")
    for text in ("a,b", "name=a,name=b", "a,b=c", "required=x"):
        with pytest.raises(ValueError, match=r"."):
            parse_device(text)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("10", 10), ("10b", 10), ("1k", 1024), ("1 KiB", 1024), ("1.5GB", 1_610_612_736)]
)
def test_sizes_are_powers_of_1024(text, size):
    assert parse_size(text) == size
