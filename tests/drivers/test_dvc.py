"""`dvc repro` gives the bytes of direct calls, and runs again only what changed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import mlflow
import pytest
from support.drivers import assert_same_analysis, assert_same_files, copy_project, digest, dvc

from lhcnet.config import Config, load
from lhcnet.profiles import to_yaml
from lhcnet.tracking.folder import pending_journals


def test_dvc_gives_the_metrics_of_direct_calls(direct: Path, dvc_project: Path) -> None:
    assert digest(dvc_project / "artifacts" / "report") == digest(direct / "report")
    assert_same_analysis(dvc_project / "artifacts" / "analysis", direct / "analysis")
    for name in ("backbone/stage3", "a/seed-0", "b/wide", "c/seed-1", "control/0", "chosen"):
        assert_same_files(dvc_project / "artifacts" / name, direct / name)


def test_dvc_leaves_one_execution_in_the_record(dvc_project: Path, environment: dict[str, str]) -> None:
    """The steps leave their journals (LHCNET_TRACKING_WAIT=0); `register` writes them all."""
    assert pending_journals(dvc_project / ".lhcnet" / "journal") == []
    client = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([client.get_experiment_by_name("lhcnet").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert {"analyse", "compare", "evaluate", "register", "train/A/seed-0"} <= {run.info.run_name for run in runs}


def test_a_no_op_repro_runs_nothing(dvc_project: Path, environment: dict[str, str]) -> None:
    assert "Running stage" not in dvc(dvc_project, environment, "repro")
    assert dvc(dvc_project, environment, "status", "dvc.yaml").strip() == "Data and pipelines are up to date."


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("report/page.py", {"compare"}),
        (
            "data/transforms.py",
            {"stage1", "stage2", "stage3", "set_a", "set_b", "set_c", "control", "evaluate", "analyse"},
        ),
    ],
)
def test_edited_code_runs_what_computes_with_it(
    edited: str, changed: set[str], dvc_project: Path, environment: dict[str, str]
) -> None:
    file = dvc_project / "src" / "lhcnet" / edited
    source = file.read_text()
    try:
        file.write_text(f"{source}# a comment\n")
        status = json.loads(dvc(dvc_project, environment, "status", "dvc.yaml", "--json"))
    finally:
        file.write_text(source)
    assert {name.split("@")[0] for name in status} - {"register"} == changed


def test_a_stage_4_setting_reruns_stage_4_and_what_follows(dvc_project: Path, environment: dict[str, str]) -> None:
    before = (dvc_project / "params.yaml").read_text()
    config = load(dvc_project / "params.yaml")
    values = config.to_dict()
    values["stage4"]["patience"] += 5
    try:
        (dvc_project / "params.yaml").write_text(to_yaml(Config.model_validate_json(json.dumps(values))))
        status = json.loads(dvc(dvc_project, environment, "status", "dvc.yaml", "--json"))
        planned = dvc(dvc_project, environment, "repro", "--dry")
    finally:
        (dvc_project / "params.yaml").write_text(before)
    assert {name.split("@")[0] for name in status} == {"set_a", "set_b", "set_c"}
    for name in ("set_a@0", "set_b@wide", "select", "evaluate", "compare", "register"):
        assert f"'{name}'" in planned, name
    for name in ("prepare", "stage1", "stage2", "stage3"):
        assert f"Running stage '{name}'" not in planned, name


def test_dvc_shows_metrics_and_plots(dvc_project: Path, environment: dict[str, str]) -> None:
    metrics = json.loads(dvc(dvc_project, environment, "metrics", "show", "--json"))[""]["data"]
    shown = metrics["artifacts/report/summary.json"]["data"]
    assert 0 < shown["test_accuracy"] <= 1
    dvc(dvc_project, environment, "plots", "show", "-o", "plots", "-q")
    page = (dvc_project / "plots" / "index.html").read_text()
    for title in ("accuracy by stage", "Confusion on test", "val_loss"):
        assert title in page, title


def test_bad_raw_data_fails_the_repro_with_one_sentence(
    one_seed: Config, environment: dict[str, str], tmp_path: Path
) -> None:
    copy_project(tmp_path)
    (tmp_path / "bad.csv").write_text("emotion,pixels\n0,1 2 3\n")
    values = one_seed.to_dict()
    values["data"]["source"] = "bad.csv"
    (tmp_path / "params.yaml").write_text(to_yaml(Config.model_validate_json(json.dumps(values))))
    dvc(tmp_path, environment, "init", "--no-scm", "-q")
    done = subprocess.run(["dvc", "repro"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 255
    assert "bad.csv" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "artifacts" / "trainval").exists()
