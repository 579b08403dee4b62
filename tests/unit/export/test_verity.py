"""Trees of hashes, checked by veritysetup and by the definition."""

import hashlib
import os
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firekiln.machine.export import verity
from firekiln.machine.export.verity import BLOCK

VERITYSETUP = shutil.which("veritysetup") or shutil.which("veritysetup", path="/usr/sbin")


def root_hash(data, salt):
    """By the definition, in the plainest way."""
    while True:
        digests = [hashlib.sha256(salt + data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]
        if len(digests) == 1:
            return digests[0]
        data = b"".join(digests)
        data += bytes(-len(data) % BLOCK)


@settings(max_examples=30, deadline=None)
@given(
    blocks=st.one_of(st.integers(2, 5), st.sampled_from([127, 128, 129, 300])),
    written=st.dictionaries(st.integers(0, 299), st.binary(min_size=1, max_size=BLOCK), max_size=6),
    rest=st.integers(1, BLOCK),
)
def test_the_root_hash_is_that_of_the_definition_holes_or_not(tmp_path_factory, blocks, written, rest):
    path = tmp_path_factory.mktemp("verity") / "x"
    size = (blocks - 1) * BLOCK + rest
    with path.open("wb") as file:
        file.truncate(size)
        for block, data in written.items():
            os.pwrite(file.fileno(), data[: max(0, size - block * BLOCK)], block * BLOCK)
    plain = path.read_bytes() + bytes(-size % BLOCK)
    made = verity.append_to(path, seed=b"seed")
    assert made.blocks == blocks
    assert made.root == root_hash(plain, made.salt)
    assert path.read_bytes()[: len(plain)] == plain


@pytest.mark.skipif(VERITYSETUP is None, reason="needs cryptsetup-bin")
@pytest.mark.parametrize("blocks", [2, 128, 129, 128 * 128 + 1])
@pytest.mark.parametrize("damage", [None, "data", "tree"])
def test_veritysetup_agrees_and_finds_every_changed_bit(tmp_path, blocks, damage):
    path = tmp_path / "x"
    path.write_bytes(b"".join(number.to_bytes(8, "big") * (BLOCK // 8) for number in range(blocks)))
    made = verity.append_to(path, seed=b"seed")
    if damage:
        with path.open("r+b") as file:
            file.seek(0 if damage == "data" else (blocks + 1) * BLOCK)
            file.write(b"\x01")
    argv = [VERITYSETUP, "verify", path, path, made.root.hex(), f"--hash-offset={blocks * BLOCK}"]
    assert (subprocess.run(argv, capture_output=True, check=False).returncode == 0) == (damage is None)


def test_another_image_has_another_salt_and_the_same_one_the_same(tmp_path):
    words = []
    for name, seed in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(b"x" * 3 * BLOCK)
        words.append(verity.append_to(tmp_path / name, seed=seed).word)
    assert words[0] == words[1] != words[2]
    assert words[0].startswith("firekiln.verity=3:")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
