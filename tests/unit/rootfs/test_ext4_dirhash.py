import random

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
