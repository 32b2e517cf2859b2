"""Predictors with tiny networks: the modules of the paper, and a network of timm."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.host import BACKBONE, LAYERS
from support.hostile.models import model_files

from lhcnet.saved import Architecture, Metrics, ModelInfo, Provenance, save


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a tiny LHC-Net."""
    folder = tmp_path_factory.mktemp("predicting") / "model"
    folder.mkdir()
    for name, content in model_files("modules").items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a tiny network of timm."""
    folder = tmp_path_factory.mktemp("predicting") / "host"
    architecture = Architecture(backbone=BACKBONE, layers=LAYERS, input_size=32, dropout=0.2, bn_momentum=0.1)
    provenance = Provenance(id="A/seed-1", set="A", stage=4, seed=1, variant=None, data="d" * 64, start="none")
    info = ModelInfo(architecture=architecture, provenance=provenance)
    save(folder, architecture.build(seed=1), info, Metrics(status="trained"), [])
    return folder
