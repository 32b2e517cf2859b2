"""One implementation, three drivers: direct calls, `dvc repro` and Kubeflow's local runner give the same metrics."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from lhcnet import steps
from lhcnet.config import Config, Data, load, to_yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def small(tiny: Config, faces_csv: Path) -> Config:
    seeds = tiny.seeds.model_copy(update={"a": (0,), "c": (1,)})
    return tiny.model_copy(update={"seeds": seeds, "data": Data(source=str(faces_csv))})


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One MLflow store for the module; the tools of this environment first on the path."""
    folder = tmp_path_factory.mktemp("tracking")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return os.environ | {"PATH": path, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)}


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


def copy_project(folder: Path) -> None:
    """What `dvc repro` needs: the graph, and the code it depends on."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copytree(ROOT / "standalone", folder / "standalone")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))


def dvc(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    env = environment | {"DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(["dvc", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def digest(report: Path) -> str:
    return str(json.loads((report / "summary.json").read_text())["metrics_digest"])


def assert_same_analysis(one: Path, other: Path) -> None:
    assert (one / "analysis.json").read_bytes() == (other / "analysis.json").read_bytes()


def test_dvc_gives_the_metrics_of_direct_calls(direct: Path, project: Path) -> None:
    assert digest(project / "artifacts" / "report") == digest(direct / "report")
    assert_same_analysis(project / "artifacts" / "analysis", direct / "analysis")
    for file in (direct / "chosen").iterdir():
        assert file.read_bytes() == (project / "artifacts" / "chosen" / file.name).read_bytes(), file.name


def test_kubeflow_gives_the_metrics_of_direct_calls(
    direct: Path, small: Config, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text(to_yaml(small))
    started = time.time() * 1000
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "local", "--root", str(tmp_path / "runs")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    logs = [p.read_text(errors="replace")[-5000:] for p in tmp_path.glob("runs/*/log.txt")]
    assert done.returncode == 0, "\n".join([done.stderr[-3000:], *logs])
    (report,) = tmp_path.glob("runs/*/*/compare/report")
    assert digest(report) == digest(direct / "report")
    assert "Table 7" in done.stdout
    assert "alias champion" in " ".join(done.stdout.split())
    (analysis,) = tmp_path.glob("runs/*/*/analyse/results")
    assert_same_analysis(analysis, direct / "analysis")
    (page,) = tmp_path.glob("runs/*/*/compare/page")
    assert page.read_bytes() == (report / "report.html").read_bytes()
    (chosen,) = tmp_path.glob("runs/*/*/select/chosen")
    for file in (direct / "chosen").iterdir():
        assert file.read_bytes() == (chosen / file.name).read_bytes(), file.name

    # the record: one parent, and every model a child of it with curves, tags and the verdict
    client = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("lhcnet")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    by_dvc = [run for run in runs if run.info.start_time < started]
    runs = [run for run in runs if run.info.start_time >= started]
    assert not by_dvc or len([run for run in by_dvc if "mlflow.parentRunId" not in run.data.tags]) == 1
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    assert parents[0].data.metrics["test_accuracy"] > 0
    models = [run for run in runs if run.data.tags.get("set") in ("A", "B", "C")]
    assert len(models) == 4
    for run in models:
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert {"seed", "variant", "kept", "selection", "data_digest"} <= set(run.data.tags)
        assert "val_accuracy" in run.data.metrics
        assert run.inputs.dataset_inputs[0].dataset.name == "FER2013"
    chosen = next(run for run in models if run.info.run_name.endswith(parents[0].data.tags["chosen"]))
    assert "confusion_matrix.png" in [f.path for f in client.list_artifacts(chosen.info.run_id)]


def test_the_stand_alone_pipeline_is_the_same_by_dvc_and_kubeflow(
    project: Path, small: Config, environment: dict[str, str], tmp_path: Path
) -> None:
    dvc(project, environment, "repro", "standalone/dvc.yaml")
    by_dvc = project / "artifacts" / "standalone-report" / "standalone.json"
    (tmp_path / "params.yaml").write_text(to_yaml(small))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "local", "--standalone", "--root", str(tmp_path / "runs")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    logs = [p.read_text(errors="replace")[-5000:] for p in tmp_path.glob("runs/*/log.txt")]
    assert done.returncode == 0, "\n".join([done.stderr[-3000:], *logs])
    (report,) = tmp_path.glob("runs/*/*/compare-standalone/report")
    assert (report / "standalone.json").read_bytes() == by_dvc.read_bytes()


def test_a_no_op_repro_runs_nothing(project: Path, environment: dict[str, str]) -> None:
    assert "Running stage" not in dvc(project, environment, "repro")
    assert dvc(project, environment, "status").strip() == "Data and pipelines are up to date."


def test_a_stage_4_setting_reruns_stage_4_and_what_follows(project: Path, environment: dict[str, str]) -> None:
    kept = (project / "params.yaml").read_text()
    config = load(project / "params.yaml")
    values = config.to_dict()
    values["stage4"]["patience"] += 5
    try:
        (project / "params.yaml").write_text(to_yaml(Config.model_validate_json(json.dumps(values))))
        status = json.loads(dvc(project, environment, "status", "--json"))
        planned = dvc(project, environment, "repro", "--dry")
    finally:
        (project / "params.yaml").write_text(kept)
    assert {name.split("@")[0] for name in status} == {"set_a", "set_b", "set_c"}
    for name in ("set_a@0", "set_b@wide", "select", "evaluate", "compare", "register"):
        assert f"'{name}'" in planned, name
    for name in ("prepare", "stage1", "stage2", "stage3"):
        assert f"Running stage '{name}'" not in planned, name


def test_dvc_shows_metrics_and_plots(project: Path, environment: dict[str, str]) -> None:
    metrics = json.loads(dvc(project, environment, "metrics", "show", "--json"))[""]["data"]
    shown = metrics["artifacts/report/summary.json"]["data"]
    assert 0 < shown["test_accuracy"] <= 1
    dvc(project, environment, "plots", "show", "-o", "plots", "-q")
    page = (project / "plots" / "index.html").read_text()
    for title in ("accuracy by stage", "Confusion on test", "val_loss"):
        assert title in page, title


def test_bad_raw_data_fails_the_repro_with_one_sentence(
    project: Path, small: Config, environment: dict[str, str], tmp_path: Path
) -> None:
    copy_project(tmp_path)
    (tmp_path / "bad.csv").write_text("emotion,pixels\n0,1 2 3\n")
    values = small.to_dict()
    values["data"]["source"] = "bad.csv"
    (tmp_path / "params.yaml").write_text(to_yaml(Config.model_validate_json(json.dumps(values))))
    dvc(tmp_path, environment, "init", "--no-scm", "-q")
    done = subprocess.run(["dvc", "repro"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 255
    assert "bad.csv" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "artifacts" / "trainval").exists()
