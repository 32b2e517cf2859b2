"""Kubeflow's local runner gives the metrics of direct calls, byte for byte, and one parent run in MLflow."""

import threading
import time
from contextlib import suppress
from pathlib import Path

import mlflow
import psutil
import pytest
from kfp import dsl, local
from support.drivers import assert_same_analysis, assert_same_files, digest, kubeflow

from components.start_weights import start_weights
from components.train_backbone import train_backbone
from lhcnet.analysis.results import Analysis, read
from lhcnet.code_version import step_digest
from lhcnet.config import Checkpoints, Config
from lhcnet.profiles import to_yaml
from lhcnet.report.analysis_plots import figures
from lhcnet.steps import task_settings
from pipeline.cluster import Local, configure_task


def test_kubeflow_gives_the_metrics_of_direct_calls(
    direct: Path, one_seed: Config, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text(to_yaml(one_seed))
    printed = kubeflow(tmp_path, environment | {"LHCNET_TRACKING_WAIT": "300"})
    (report,) = tmp_path.glob("runs/*/*/compare/report")
    assert digest(report) == digest(direct / "report")
    assert "Table 7" in printed
    assert "alias champion" in " ".join(printed.split())
    (analysis,) = tmp_path.glob("runs/*/*/analyse/results")
    assert_same_analysis(analysis, direct / "analysis")
    (page,) = tmp_path.glob("runs/*/*/compare/page")
    assert page.read_bytes() == (report / "report.html").read_bytes()
    (chosen,) = tmp_path.glob("runs/*/*/evaluate/chosen")
    assert_same_files(chosen, direct / "chosen")
    (selection,) = tmp_path.glob("runs/*/*/select/selection")
    assert selection.read_bytes() == (direct / "selection.json").read_bytes()
    (log,) = tmp_path.glob("runs/*/steps.log")
    assert log.read_text().splitlines()[-1].startswith("no Kubeflow run to close")

    # the record: one parent, and every model a child of it with parameters, curves, scores and the verdict
    client = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("lhcnet")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    assert parents[0].data.metrics["chosen/test_accuracy"] > 0
    models = [run for run in runs if run.data.params.get("set") in ("A", "B", "C")]
    assert len(models) == 4
    for run in models:
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert {"kept", "reason", "data_digest"} <= set(run.data.tags)
        assert {"seed", "variant", "training.learning_rate"} <= set(run.data.params)
        assert {"epoch/val_accuracy", "val/accuracy", "test/accuracy"} <= set(run.data.metrics)
        assert run.inputs.dataset_inputs[0].dataset.name == "faces, not FER2013"
    assert "confusion_matrix.png" in [f.path for f in client.list_artifacts(parents[0].info.run_id)]
    (compared,) = (run.info.run_id for run in runs if run.data.tags.get("step") == "compare")
    drawn = [f.path for f in client.list_artifacts(compared, "analyses")]
    analysed = read(analysis)
    assert isinstance(analysed, Analysis)
    assert len(drawn) == len(figures(analysed)) > 0


def test_a_killed_task_resumes_when_kubeflow_retries_it(
    direct: Path,
    one_seed: Config,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PATH", "PYTHONPATH", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, environment[name])
    killed = []

    def kill_the_training() -> None:
        checkpoints = tmp_path / ".lhcnet" / "checkpoints"
        while not list(checkpoints.glob("*.safetensors")):
            time.sleep(0.01)
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "train_backbone" in process.cmdline():
                    process.kill()
                    killed.append(process.pid)

    @dsl.pipeline(name="stage1")
    def stage1(store: str):
        trainval = dsl.importer(artifact_uri=store, artifact_class=dsl.Dataset, reimport=False).output
        network = one_seed.network.to_dict()
        task = train_backbone(
            trainval=trainval,
            start_weights=start_weights(network=network, code=step_digest("start-weights")).output,
            network=network,
            stage=one_seed.stage1.to_dict(),
            seed=one_seed.seeds.backbone,
            context=task_settings(one_seed.model_copy(update={"checkpoints": Checkpoints(seconds=0)})),
            code=step_digest("train"),
        )
        configure_task(task, Local(retries=1), "killed", step="train")

    threading.Thread(target=kill_the_training, daemon=True).start()
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "runs"))
    stage1(store=str(direct / "trainval"))
    assert killed
    assert "stage1: resuming at epoch" in "".join(capfd.readouterr())
    (model,) = tmp_path.glob("runs/*/train-backbone/model")
    assert_same_files(model, direct / "backbone" / "stage1")
