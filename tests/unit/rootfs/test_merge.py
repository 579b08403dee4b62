from hypothesis import HealthCheck, given, settings

from firekiln.rootfs.compare import describe, differences
from firekiln.rootfs.merge import merge, squash, stack
from firekiln.rootfs.tree import Directory, Meta, Whiteout, walk
from trees import file, folder, link, trees

few = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


def paths(tree):
    return [path for path, _ in walk(tree)]


def test_the_upper_file_wins():
    upper = file(b"new")
    assert merge([folder({b"a": file(b"old")}), folder({b"a": upper})]).children == {b"a": upper}


def test_a_whiteout_removes_a_file_and_a_whole_directory():
    lower = folder({b"etc": folder({b"a": file(), b"b": file()}), b"usr": folder({b"x": file()})})
    upper = folder({b"etc": folder({b"a": Whiteout()}), b"usr": Whiteout()})
    assert paths(merge([lower, upper])) == [b"etc", b"etc/b"]


def test_a_name_may_come_back_after_its_whiteout():
    layers = [
        folder({b"d": folder({b"old": file()})}),
        folder({b"d": Whiteout()}),
        folder({b"d": folder({b"new": file()})}),
    ]
    assert paths(merge(layers)) == [b"d", b"d/new"]


def test_an_opaque_directory_hides_what_lies_below_it_but_not_what_lies_above():
    layers = [
        folder({b"d": folder({b"low": file()})}),
        folder({b"d": folder({b"mid": file()}, opaque=True)}),
        folder({b"d": folder({b"top": file()})}),
    ]
    merged = merge(layers)
    assert paths(merged) == [b"d", b"d/mid", b"d/top"]
    assert not merged.children[b"d"].opaque


def test_an_opaque_root_hides_all_layers_below():
    assert paths(merge([folder({b"a": file()}), folder({b"b": file()}, opaque=True)])) == [b"b"]


def test_a_directory_over_a_file_shows_only_itself():
    layers = [folder({b"x": folder({b"deep": file()})}), folder({b"x": file()}), folder({b"x": folder({b"n": file()})})]
    assert paths(merge(layers)) == [b"x", b"x/n"]


def test_a_link_over_a_directory_hides_it():
    assert paths(merge([folder({b"lib": folder({b"a": file()})}), folder({b"lib": link(b"usr/lib")})])) == [b"lib"]


def test_metadata_are_those_of_the_uppermost_directory():
    merged = merge([folder({b"d": folder(mode=0o700)}), folder({b"d": folder(mode=0o1777)}, mode=0o711)])
    assert (merged.meta.mode, merged.children[b"d"].meta.mode) == (0o711, 0o1777)


def test_hard_links_stay_one_node():
    shared = file(b"x")
    merged = merge([folder({b"a": shared, b"d": folder({b"b": shared})}), folder({b"c": file()})])
    assert merged.children[b"a"] is merged.children[b"d"].children[b"b"]


def test_nothing_merges_to_an_empty_root():
    assert merge([]).children == {}


def test_a_merged_directory_is_read_only_when_it_is_asked_for():
    def never():
        raise AssertionError("was read")

    lazy = Directory(meta=Meta(mode=0o755), load=never)
    merged = merge([folder({b"big": lazy, b"a": file()}), folder({b"big": folder(), b"b": file()})])
    assert sorted(merged.children) == [b"a", b"b", b"big"]


def test_a_stack_keeps_whiteouts_for_the_layers_below():
    result = stack(folder({b"a": file(), b"gone": Whiteout()}), folder({b"a": Whiteout()}))
    assert isinstance(result.children[b"a"], Whiteout)
    assert isinstance(result.children[b"gone"], Whiteout)


def test_a_directory_stacked_on_a_whiteout_or_file_becomes_opaque():
    result = stack(folder({b"a": Whiteout(), b"b": file()}), folder({b"a": folder(), b"b": folder(), b"c": folder()}))
    assert {name: node.opaque for name, node in result.children.items()} == {b"a": True, b"b": True, b"c": False}


def test_whiteouts_that_hide_nothing_are_not_kept():
    layer = folder({b"d": folder({b"w": Whiteout(), b"f": file(), b"e": folder({b"w": Whiteout()})}, opaque=True)})
    squashed = squash([layer])
    assert paths(squashed) == [b"d", b"d/e", b"d/f"]
    assert squashed.children[b"d"].opaque


@few
@given(trees(), trees(), trees())
def test_squashing_neighbours_first_changes_nothing(one, two, three):
    whole = describe(merge([one, two, three]))
    assert describe(merge([one, stack(two, three)])) == whole
    assert describe(merge([squash([one, two]), three])) == whole
    assert not any(isinstance(node, Whiteout) for _, node in walk(merge([one, two, three])))


@few
@given(trees(whiteouts=False))
def test_a_tree_without_whiteouts_merges_to_itself(tree):
    assert list(differences(tree, merge([tree]))) == []
    assert list(differences(tree, merge([folder(), tree]))) == []
