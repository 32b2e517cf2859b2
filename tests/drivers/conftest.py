"""A DVC project that has run once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.drivers import copy_project, dvc

from lhcnet.config import Config
from lhcnet.profiles import to_yaml


@pytest.fixture(scope="module")
def dvc_project(one_seed: Config, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC project after `dvc repro`."""
    folder = tmp_path_factory.mktemp("dvc")
    copy_project(folder)
    (folder / "params.yaml").write_text(to_yaml(one_seed))
    dvc(folder, environment, "init", "--no-scm", "-q")
    dvc(folder, environment, "repro")
    return folder
