import pytest

from firekiln.sandbox.user import Identity, resolve

PASSWD = (
    b"root:x:0:0:root:/root:/bin/sh\n\nbob:x:7:8:Bob:/home/bob:/bin/sh\ntwin:x:7:9::/twin:\nshort:x:5\n 12:x:6:6::/n:\n"
)
GROUP = b"root:x:0:\nbob:x:8:\ngrp:x:9:bob,other\nsup:x:10:bob\nnobody\n"


def named(word: str) -> Identity:
    return resolve(word, passwd=PASSWD, group=GROUP)


def test_nothing_is_root_without_supplementary_groups():
    assert named("") == Identity(uid=0, gid=0, groups=(), home="/root")


def test_a_name_brings_its_groups():
    assert named("bob") == Identity(uid=7, gid=8, groups=(9, 10), home="/home/bob")


def test_a_number_with_an_entry_is_that_user_the_first_one_counting():
    assert named("7") == named("bob")


def test_a_number_without_an_entry_has_group_0():
    assert named("99") == Identity(uid=99, gid=0, groups=(), home="/")


def test_a_group_drops_the_supplementary_ones():
    assert named("bob:grp") == Identity(uid=7, gid=9, groups=(), home="/home/bob")
    assert named("bob:77") == Identity(uid=7, gid=77, groups=(), home="/home/bob")


def test_two_numbers_need_no_files():
    assert resolve("7:8", passwd=None, group=None) == Identity(uid=7, gid=8, groups=(), home="/")


def test_a_group_alone_is_root_s():
    assert named(":grp") == Identity(uid=0, gid=9, groups=(), home="/root")


def test_a_digit_name_is_taken_for_a_number():
    assert named("12").uid == 12


def test_lines_that_lack_fields_count_as_far_as_they_go():
    assert named("short") == Identity(uid=5, gid=0, groups=(), home="/")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nosuch", "unable to find user nosuch: no matching entries in passwd file"),
        ("bob:nosuch", "unable to find group nosuch: no matching entries in group file"),
        ("4294967296", "uids and gids must be in range 0-2147483647"),
        ("-1", "uids and gids must be in range 0-2147483647"),
    ],
)
def test_what_is_in_no_file_is_refused(word, message):
    with pytest.raises(LookupError, match=message):
        named(word)
