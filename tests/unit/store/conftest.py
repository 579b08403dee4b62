from __future__ import annotations

import pytest

from firekiln.store import Store


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as opened:
        yield opened
