import re
from pathlib import Path

import pytest

from imagearchives import HOSTILE

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "archives-images.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not here")
def test_every_archive_that_means_harm_is_documented_and_no_other():
    section = PAGE.read_text().partition("## Archives that mean harm")[2].partition("## Docker Engine")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([a-z0-9.-]+)`", row.partition(":")[0])]
    assert sorted(named) == sorted(HOSTILE)
