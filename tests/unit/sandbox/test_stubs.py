from firekiln.rootfs.tree import walk
from firekiln.sandbox.request import Stub
from firekiln.sandbox.stubs import prune
from trees import file, folder

ABOVE = (("", 0o755, 0, 0, 0), ("etc", 0o755, 0, 0, 0))
HOSTS = Stub(made=("etc/hosts",), above=ABOVE)
SECRETS = Stub(made=("run", "run/secrets", "run/secrets/a"), above=ABOVE[:1])


def left(tree, *stubs):
    prune(tree, stubs)
    return [path for path, _ in walk(tree)]


def test_an_empty_stub_goes_and_the_directory_copied_up_for_it():
    assert left(folder({b"etc": folder({b"hosts": file()})}), HOSTS) == []


def test_a_directory_that_the_step_changed_stays():
    assert left(folder({b"etc": folder({b"hosts": file()}, mode=0o700)}), HOSTS) == [b"etc"]
    assert left(folder({b"etc": folder({b"hosts": file(), b"x": file()})}), HOSTS) == [b"etc", b"etc/x"]
    assert left(folder({b"etc": folder({b"hosts": file()}, opaque=True)}), HOSTS) == [b"etc"]


def test_directories_made_for_a_stub_go_from_the_deepest_up():
    assert left(folder({b"run": folder({b"secrets": folder({b"a": file()})})}), SECRETS) == []
    tree = folder({b"run": folder({b"y": file(), b"secrets": folder({b"a": file()})})})
    assert left(tree, SECRETS) == [b"run", b"run/y"]


def test_a_stub_that_was_written_to_stays():
    assert left(folder({b"etc": folder({b"hosts": file(b"x")})}), HOSTS) == [b"etc", b"etc/hosts"]


def test_what_is_not_in_the_layer_is_no_trouble():
    assert left(folder(), HOSTS, SECRETS) == []
    assert left(folder({b"etc": file(b"no directory any more")}), HOSTS) == [b"etc"]
