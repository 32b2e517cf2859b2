"""Shared fixtures: a tiny configuration and drawn faces, so that whole pipelines run in seconds."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from support.drivers import ROOT, run_steps

from lhcnet import config, steps
from lhcnet.config import Config, Data
from lhcnet.data.drawn_faces import draw, write_csv
from lhcnet.data.store import write_stores
from lhcnet.profiles import profile
from lhcnet.saved import SavedModel

# one thread: the same bytes on every machine and under every load; tests must not inherit somebody's tracking server
os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "LHCNET_EXECUTION",
    "LHCNET_JOURNAL",
    "LHCNET_TASK_FOLDER",
    "LHCNET_TRACKING_WAIT",
):
    os.environ.pop(name, None)

MARKS_OF_FOLDERS = {"drivers": pytest.mark.drivers, "robustness": pytest.mark.slow}

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of two folders; marked tests start first, so that no worker gets a long file at the end."""
    for item in items:
        if item.path.parent.name == "drivers":
            item.add_marker(pytest.mark.drivers)
        elif item.path.parent.name == "robustness":
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("drivers", "slow")])


@pytest.fixture(scope="session")
def tiny() -> config.Config:
    """The profile demo with a tiny network and one or two epochs a stage."""
    return profile("demo", TINY)


@pytest.fixture(scope="session")
def one_seed(tiny: Config, faces_csv: Path) -> Config:
    """`tiny` on `faces_csv`, with one seed in each of the sets A and C."""
    seeds = tiny.seeds.model_copy(update={"a": (0,), "c": (1,)})
    return tiny.model_copy(update={"seeds": seeds, "data": Data(source=str(faces_csv))})


@pytest.fixture(scope="session")
def context(tiny: Config) -> steps.RunContext:
    """Context of `tiny`, without checkpoints and without a record."""
    return steps.RunContext(compute=tiny.compute)


@pytest.fixture(scope="session")
def faces_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 drawn faces in the shape of FER2013's CSV file."""
    path = tmp_path_factory.mktemp("raw") / "faces.csv"
    write_csv(draw(400, seed=1), path)
    return path


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(trainval, test) of 400 drawn faces."""
    folder = tmp_path_factory.mktemp("stores")
    write_stores(draw(400, seed=1), folder / "trainval", folder / "test")
    return folder / "trainval", folder / "test"


@pytest.fixture(scope="session")
def backbone(
    stores: tuple[Path, Path],
    tiny: Config,
    context: steps.RunContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> SavedModel:
    """A tiny ResNet34v2 after stage 1."""
    out = tmp_path_factory.mktemp("backbone") / "stage1"
    return steps.train_backbone(stores[0], out, network=tiny.network, stage=tiny.stage1, seed=0, context=context)


@pytest.fixture(scope="session")
def direct(one_seed: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the whole flow by direct calls of the steps, in the folders of `dvc.yaml`."""
    folder = tmp_path_factory.mktemp("direct")
    run_steps(one_seed, folder)
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without experiments of ours: creating one takes seconds."""
    import mlflow

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def tracking(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a new MLflow database, with journals in the same folder. A step waits for it as long as it takes."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "300")
    if mlflow := sys.modules.get("mlflow"):
        mlflow.set_tracking_uri(uri)  # an earlier test may have set another one, which comes before the environment
    return uri


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and checkpoints that Keras wrote, with the outputs that it computed from them."""
    folder = tmp_path_factory.mktemp("published")
    with zipfile.ZipFile(Path(__file__).parent / "golden" / "published.zip") as file:
        file.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of commands: this Python's tools first, and one MLflow database for the module.

    Only `register` writes to it; the other steps leave their journals.
    """
    folder = tmp_path_factory.mktemp("tracking")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return os.environ | {
        "PATH": path,
        "MLFLOW_TRACKING_URI": uri,
        "LHCNET_TRACKING_WAIT": "0",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
    }
