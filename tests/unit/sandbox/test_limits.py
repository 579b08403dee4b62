import resource

import pytest

from firekiln.sandbox.limits import Ulimit


@pytest.mark.parametrize(
    ("text", "soft", "hard"),
    [("nofile=1024", 1024, 1024), ("nofile=1024:2048", 1024, 2048), ("core=0:-1", 0, -1), ("memlock=-1", -1, -1)],
)
def test_ulimits_are_read_as_docker_does(text, soft, hard):
    made = Ulimit.parse(text)
    assert (made.name, made.soft, made.hard) == (text.partition("=")[0], soft, hard)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nofile", "invalid ulimit argument: nofile"),
        ("files=1", "invalid ulimit type: files"),
        ("as=1", "invalid ulimit type: as"),
        ("nofile=x", "invalid ulimit value: x"),
        ("nofile=-2", "invalid ulimit value: -2"),
        ("nofile=1:2:3", "invalid ulimit value: 2:3"),
        ("nofile=5:4", "ulimit soft limit must be less than or equal to hard limit: 5 > 4"),
        ("nofile=-1:4", "ulimit soft limit must be less than or equal to hard limit: -1 > 4"),
    ],
)
def test_what_is_no_ulimit_is_refused_in_docker_s_words(text, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Ulimit.parse(text)


def test_resources_have_the_kernel_s_numbers():
    for name in "core cpu data fsize memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split():
        assert Ulimit(name=name, soft=0, hard=0).resource == getattr(resource, f"RLIMIT_{name.upper()}", 15), name
