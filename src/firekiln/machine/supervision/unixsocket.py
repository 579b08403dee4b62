"""Names for Unix sockets in folders of any depth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def socket_address(folder: str | os.PathLike[str], name: str) -> Iterator[str]:
    """What to bind or connect to for the socket `name` in `folder`, however long that path is.

    An address holds 107 bytes (unix(7): `sun_path`), so the folder is named through a descriptor of it. OSError where
    it is absent. A link in place of the folder itself is not followed.
    """
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
