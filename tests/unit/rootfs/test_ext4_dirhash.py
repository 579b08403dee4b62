import itertools
import random
import struct

from firekiln.rootfs.ext4 import directory
from firekiln.rootfs.ext4.dirhash import half_md4

SEED = bytes.fromhex("425b3f0296c241bda616c7e147c7d5bb")


def test_hashes_are_those_of_e2fsprogs():
    # debugfs -R "dx_hash -h half_md4 [-s 425b3f02-96c2-41bd-a616-c7e147c7d5bb] NAME"
    assert half_md4([b"hello"], bytes(16)) == [(0x1746DA32, 0x420013B5)]
    known = {
        b"a": (0x79D0D684, 0x326B7455),
        b"lib": (0x919C5C22, 0x1EB5A099),
        b"file": (0xECD9A0FA, 0x84276B35),
        b"x" * 31: (0xF8596FA8, 0x6DF9C371),
        b"x" * 32: (0x63E9FC98, 0x4D66EFBA),
        b"x" * 33: (0x34B16DDA, 0x72F1D04B),
        b"name-of-some-length-that-has-two-chunks": (0xE85AAE7C, 0x3374BD67),
        b"y" * 255: (0x6FBEB626, 0xB837FBEA),
    }
    assert half_md4(list(known), SEED) == list(known.values())


def test_a_name_hashes_alike_alone_and_among_others():
    letters = random.Random(1)
    names = [letters.randbytes(letters.randrange(1, 256)) for _ in range(5000)]
    assert half_md4(names, SEED) == [half_md4([name], SEED)[0] for name in names[:50]] + half_md4(names[50:], SEED)


def test_no_names_have_no_hashes():
    assert half_md4([], SEED) == []


def colliding(names):
    """Pairs of names with one major hash."""
    known = {}
    pairs = []
    for name, (major, _) in zip(names, half_md4(names, SEED), strict=True):
        if major in known:
            pairs.append((known[major], name))
        known[major] = name
    return pairs


def leaves_of(entries):
    """Each leaf's first hash, and its names."""
    data = directory.build(entries, 12, 2, inode_seed=0, hash_seed=SEED).data
    count = struct.unpack_from("<H", data, 34)[0]
    pointers = [(0, struct.unpack_from("<I", data, 36)[0])]
    pointers += [struct.unpack_from("<II", data, 40 + 8 * index) for index in range(count - 1)]
    return [(first, {name for name, _, _ in directory.entries_of(data[at * 4096 :][:4096])}) for first, at in pointers]


def test_names_of_one_hash_in_two_leaves_are_marked_in_the_index():
    """The kernel's look-up goes on to the next leaf where its hash has the lowest bit set."""
    names = [b"%06d" % number for number in range(100_000)]
    one, other = colliding(names)[0]
    major = half_md4([one], SEED)[0][0]
    lower = [name for name, (value, _) in zip(names, half_md4(names, SEED), strict=True) if value < major]
    split = 0
    for count in range(450, 950):
        entries = [(name, 20 + index, 1) for index, name in enumerate([*lower[:count], one, other])]
        leaves = leaves_of(entries)
        for (_, before), (first, after) in itertools.pairwise(leaves):
            if len({one, other} & before) == 1 and {one, other} & after:
                assert first == major | 1
                split += 1
        assert set().union(*(names for _, names in leaves)) == {name for name, _, _ in entries}
        if split:
            return
    raise AssertionError("no number of entries parted the two")


def test_two_levels_hold_three_million_names_of_full_length():
    """So that no directory that fits into memory needs a third (feature large_dir)."""
    leaf = directory._LEAF_FILL // (8 + 255 + 1)
    assert directory._ROOT_LIMIT * directory._NODE_LIMIT * leaf > 3_000_000
