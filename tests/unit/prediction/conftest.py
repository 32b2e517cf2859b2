"""Model directories with tiny networks of both kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.random_model import KINDS, write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("predicting") / "model", KINDS["lhcnet"]).path


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("predicting") / "host", KINDS["host"]).path
