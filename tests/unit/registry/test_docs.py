import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "registry.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not here")
def test_every_row_of_the_table_of_faults_names_tests_that_exist():
    here = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", PAGE.read_text())
    assert len(named) > 25
    assert [name for name in named if f"def {name}(" not in here] == []
