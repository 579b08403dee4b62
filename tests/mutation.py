"""Damage for tests of readers: mutated images and archives, and bounds on what reading one may cost."""

from __future__ import annotations

import random
import resource
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_WORDS = (0, 1, 2, 3, 11, 12, 0x7F, 0xFF, 0x1000, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_PIECES = (4, 8, 12, 16, 32, 64, 128, 256, 512, 4096)


def places_of(data: bytes) -> list[int]:
    """Offsets that are worth a change: those near anything but zeros."""
    return [at for at in range(0, len(data), 2) if any(data[at & ~15 : (at & ~15) + 16])]


def mutated(data: bytes, places: Sequence[int], choice: random.Random) -> bytes:
    """A copy with a few changes: bytes, numbers that matter to readers, pieces from elsewhere, a missing end."""
    image = bytearray(data)
    for _ in range(choice.choice((1, 1, 2, 4, 8))):
        at = choice.choice(places)
        match choice.randrange(10):
            case 0 | 1:
                image[at] = choice.randrange(256)
            case 2:
                image[at] ^= 1 << choice.randrange(8)
            case 3 | 4:
                _put(image, at & ~3, struct.pack("<I", choice.choice(_WORDS)))
            case 5:
                _put(image, at, struct.pack("<H", choice.choice(_WORDS) & 0xFFFF))
            case 6 | 7:
                _put(image, at & ~3, bytes(image[(other := choice.choice(places) & ~3) : other + 4]))
            case 8:
                size = choice.choice(_PIECES)
                other = choice.choice(places) // size * size
                _put(image, at // size * size, bytes(image[other : other + size]))
            case _ if choice.random() < 0.1:
                del image[at:]
                break
    return bytes(image)


def _put(image: bytearray, at: int, data: bytes) -> None:
    image[at : at + len(data)] = data[: len(image) - at]


@contextmanager
def bounded(*, memory: int = 1 << 30, seconds: float = 20) -> Iterator[None]:
    """Fails where the block takes `memory` bytes more than there are now, or more seconds of the processor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, hard))
    start = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert time.process_time() - start < seconds


def survive(path: Path, data: bytes, read: Callable[[Path], None], *, rounds: int, seed: int) -> int:
    """How many of so many mutated copies `read` refuses by an error of ours; any other error is the test's failure.

    A failure names the round: `mutated` makes the same copy of it again.
    """
    from firekiln.errors import FirekilnError

    places, refused = places_of(data), 0
    with bounded(seconds=float("inf")):
        for number in range(rounds):
            path.write_bytes(mutated(data, places, random.Random(f"{seed} {number}")))
            start = time.process_time()
            try:
                read(path)
            except FirekilnError:
                refused += 1
            except BaseException as error:
                error.add_note(f"in round {number} of seed {seed}")
                raise
            assert time.process_time() - start < 10, f"round {number} of seed {seed} takes too long"
    return refused
