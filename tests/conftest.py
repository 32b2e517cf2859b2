"""Shared fixtures: a tiny configuration and drawn faces, so that whole pipelines run in seconds."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from lhcnet import config
from lhcnet.data.faces import draw, write_csv
from lhcnet.data.store import write_stores

# one thread: the same bytes whatever machine and load; tests must not inherit somebody's tracking server
os.environ["OMP_NUM_THREADS"] = "1"
for name in (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "LHCNET_EXECUTION",
):
    os.environ.pop(name, None)

MODULE = {"heads": 1, "d": 3, "pool": 3, "g": 1.0, "kernel": 3}
TINY = {
    "network.input_size": 32,
    "network.depths": [1, 1, 1, 1],
    "network.widths": [4, 4, 8, 8],
    "network.head": [8],
    "compute.threads": 1,
    "stage1.epochs": 2,
    "stage2.epochs": 1,
    "stage3.epochs": 1,
    "stage4.epochs": 1,
    "seeds.a": [0, 1],
    "seeds.c": [1, 2],
    "variants": {"wide": [MODULE | {"heads": 4}] * 4 + [MODULE], "narrow": [MODULE] * 5},
    "selection.loss_factor": 2.0,  # two epochs of a tiny network are too rough for 1.10
    "control.training.epochs": 1,
    "evaluation.tta": "best",
    "analysis.images": 20,
    "standalone.variant": "wide",
    "standalone.seeds": [0],
}


@pytest.fixture(scope="session")
def tiny() -> config.Config:
    """The demo profile shrunk until all of its 20 tasks take seconds."""
    return config.profile("demo", TINY)


@pytest.fixture(scope="session")
def faces_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "faces.csv"
    write_csv(draw(400, seed=1), path)
    return path


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(trainval, test) of 400 drawn faces."""
    folder = tmp_path_factory.mktemp("stores")
    write_stores(draw(400, seed=1), folder / "trainval", folder / "test")
    return folder / "trainval", folder / "test"


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh MLflow store; returns its URI."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and checkpoints that Keras wrote, with what it computes from them."""
    folder = tmp_path_factory.mktemp("published")
    with zipfile.ZipFile(Path(__file__).parent / "golden" / "published.zip") as file:
        file.extractall(folder)
    return folder
