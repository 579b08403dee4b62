import pytest

from firekiln.errors import RootfsError
from firekiln.rootfs.lookup import get, resolve
from firekiln.rootfs.tree import Whiteout
from trees import file, folder, link

PASSWD = file(b"root")
TREE = folder(
    {
        b"etc": folder({b"passwd": PASSWD, b"mtab": link(b"../proc/mounts"), b"self": link(b".")}),
        b"bin": link(b"usr/bin"),
        b"usr": folder({b"bin": folder({b"sh": link(b"/bin/dash"), b"dash": file(b"#!")})}),
        b"up": link(b"../../../../etc/passwd"),
        b"loop": link(b"loop"),
        b"ping": link(b"pong"),
        b"pong": link(b"ping"),
        b"gone": Whiteout(),
    }
)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (b"", b""),
        (b"/", b""),
        (b"etc/passwd", b"etc/passwd"),
        (b"/etc//./passwd/", b"etc/passwd"),
        (b"bin/sh", b"usr/bin/dash"),
        (b"bin/../../etc/passwd", b"etc/passwd"),
        (b"bin/..", b"usr"),
        (b"up", b"etc/passwd"),
        (b"etc/self/self/passwd", b"etc/passwd"),
    ],
)
def test_a_path_leads_where_a_process_in_the_tree_would_get(path, answer):
    resolved = resolve(TREE, path)
    assert resolved.path == answer
    assert resolved.node is get(TREE, answer)
    assert resolved.node is not None


def test_the_parent_is_the_directory_that_holds_the_last_name():
    assert resolve(TREE, b"bin/sh", follow_last=False).parent is get(TREE, b"usr/bin")
    assert resolve(TREE, b"/").parent is None


def test_the_last_link_is_kept_where_it_shall_not_be_followed():
    assert resolve(TREE, b"bin", follow_last=False).node is TREE.children[b"bin"]


@pytest.mark.parametrize(
    ("path", "answer", "has_parent"),
    [
        (b"bin/new", b"usr/bin/new", True),
        (b"etc/mtab", b"proc/mounts", False),
        (b"new/deep/../er", b"new/er", False),
        (b"etc/passwd/x", b"etc/passwd/x", False),
        (b"gone", b"gone", True),
    ],
)
def test_a_missing_path_tells_where_it_would_be_made(path, answer, has_parent):
    resolved = resolve(TREE, path)
    assert (resolved.path, resolved.node, resolved.parent is not None) == (answer, None, has_parent)


@pytest.mark.parametrize("path", [b"loop", b"ping", b"loop/x"])
def test_a_loop_of_links_is_an_error_that_names_the_path(path):
    with pytest.raises(RootfsError, match=f"/{path.decode()}: too many levels of symbolic links"):
        resolve(TREE, path)


def test_get_follows_no_link():
    assert get(TREE, b"bin/sh") is None
    assert get(TREE, b"bin") is TREE.children[b"bin"]
    assert isinstance(get(TREE, b"gone"), Whiteout)
