"""Model directories with tiny networks of both kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.untrained import untrained


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("predicting") / "model", "lhcnet")


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("predicting") / "host", "host")
