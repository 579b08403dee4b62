"""Named points between a temporary file and its entry in an index, at which tests kill this very process.

`FIREKILN_FAILPOINT=NAME` in the environment means that point; nothing else about the program changes.
"""

from __future__ import annotations

import os
import signal
from typing import Final

VARIABLE: Final = "FIREKILN_FAILPOINT"
POINTS: Final = (
    "layer-written",  # a layer of a running build lies in the temporary folder
    "layer-synced",  # … and is on the disk
    "layer-linked",  # … and has its final name
    "layer-kept",  # … which is on the disk too
    "results-recorded",  # … and the index names it
    "blob-written",  # another blob lies in the temporary folder
    "blob-synced",
    "blob-linked",
    "blob-kept",
    "file-written",  # index.json, its copy or a lease lies in the temporary folder, on the disk
    "file-replaced",  # … and has its final name
    "image-named",  # the image has its names
    "cache-made",  # a new folder of a cache mount lies in the temporary folder
    "cache-named",
)
_WANTED: Final = os.environ.get(VARIABLE)


def reached(point: str) -> None:
    """Say that the program is at one of POINTS; it ends here, as if by a power cut, if that is the one wanted."""
    if point == _WANTED:
        os.kill(os.getpid(), signal.SIGKILL)
