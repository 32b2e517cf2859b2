"""Shared fixtures: a tiny configuration and drawn faces, so that whole pipelines run in seconds."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from support.drivers import ROOT, copy_project, dvc

from lhcnet import config, steps
from lhcnet.config import Config, Data
from lhcnet.data.drawn_faces import draw, write_csv
from lhcnet.data.store import write_stores
from lhcnet.profiles import profile, to_yaml

# one thread: the same bytes whatever machine and load; tests must not inherit somebody's tracking server
os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "LHCNET_EXECUTION",
    "LHCNET_JOURNAL",
    "LHCNET_TRACKING_WAIT",
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
    """The demo profile shrunk until all of its 20 tasks take seconds."""
    return profile("demo", TINY)


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


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without experiments of ours: to make one takes seconds."""
    import mlflow

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def tracking(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh MLflow store, and journals beside it; returns its URI. A step waits for it as long as it takes."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "300")
    return uri


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and checkpoints that Keras wrote, with what it computes from them."""
    folder = tmp_path_factory.mktemp("published")
    with zipfile.ZipFile(Path(__file__).parent / "golden" / "published.zip") as file:
        file.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def small(tiny: Config, faces_csv: Path) -> Config:
    seeds = tiny.seeds.model_copy(update={"a": (0,), "c": (1,)})
    return tiny.model_copy(update={"seeds": seeds, "data": Data(source=str(faces_csv))})


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One MLflow store for the module, which `register` writes to; the tools of this environment first on the path."""
    folder = tmp_path_factory.mktemp("tracking")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return os.environ | {
        "PATH": path,
        "MLFLOW_TRACKING_URI": uri,
        "LHCNET_TRACKING_WAIT": "0",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
    }


@pytest.fixture(scope="module")
def direct(small: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flow written out as calls; returns the folder of artifacts."""
    at = tmp_path_factory.mktemp("direct")
    trainval, test, compute = at / "trainval", at / "test", small.compute
    steps.prepare(trainval, test, at / "data_report.json", data=small.data)
    common = {"seed": small.seeds.backbone, "compute": compute}
    steps.train(trainval, at / "1", number=1, stage=small.stage1, network=small.network, **common)
    steps.train(trainval, at / "2", number=2, stage=small.stage2, start=at / "1", **common)
    start = steps.train(trainval, at / "3", number=3, stage=small.stage3, start=at / "2", **common).path

    def stage4(begin: Path, out: Path, seed: int) -> Path:
        return steps.train(trainval, out, number=4, stage=small.stage4, start=begin, seed=seed, compute=compute).path

    factor = small.selection.loss_factor
    a = [stage4(start, at / f"a{seed}", seed) for seed in small.seeds.a]
    b = []
    for name in small.variants:
        inserted = steps.insert_lhc(start, at / f"ib{name}", variant=small.variant(name), set_="B", seed=small.seeds.b)
        b.append(stage4(inserted.path, at / f"b{name}", small.seeds.b))
    best = steps.select(b, [start], at / "best.json", loss_factor=factor).chosen_variant
    c = []
    for seed in small.seeds.c:
        inserted = steps.insert_lhc(start, at / f"ic{seed}", variant=small.variant(best), set_="C", seed=seed)
        c.append(stage4(inserted.path, at / f"c{seed}", seed))
    models = [*a, *b, *c]
    steps.select(models, [at / "1", at / "2", start], at / "selection.json", loss_factor=factor, chosen=at / "chosen")
    selection, settings = at / "selection.json", {"evaluation": small.evaluation, "compute": compute}
    steps.control([*b, *c], selection, trainval, at / "control", control=small.control, compute=compute)
    steps.evaluate(models, selection, trainval, test, at / "ev", control=at / "control", **settings)
    steps.analyse(at / "chosen", trainval, at / "analysis", analysis=small.analysis, **settings)
    steps.compare(selection, at / "ev", at / "report", data_report=at / "data_report.json", analysis=at / "analysis")
    return at


@pytest.fixture(scope="module")
def project(small: Config, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC project after `dvc repro`."""
    folder = tmp_path_factory.mktemp("dvc")
    copy_project(folder)
    (folder / "params.yaml").write_text(to_yaml(small))
    dvc(folder, environment, "init", "--no-scm", "-q")
    dvc(folder, environment, "repro")
    return folder
