"""Kubeflow's local runner gives the metrics of direct calls, byte for byte, and one record in MLflow."""

from __future__ import annotations

from pathlib import Path

import mlflow
from drivers import assert_same_analysis, digest, kubeflow

from lhcnet.analysis.figures import figures
from lhcnet.config import Config, to_yaml


def test_kubeflow_gives_the_metrics_of_direct_calls(
    direct: Path, small: Config, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text(to_yaml(small))
    printed = kubeflow(tmp_path, environment)
    (report,) = tmp_path.glob("runs/*/*/compare/report")
    assert digest(report) == digest(direct / "report")
    assert "Table 7" in printed
    assert "alias champion" in " ".join(printed.split())
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
    assert "confusion_matrix.png" in [f.path for f in client.list_artifacts(parents[0].info.run_id)]
    (compared,) = (run.info.run_id for run in runs if run.data.tags.get("step") == "compare")
    drawn = [f.path for f in client.list_artifacts(compared, "analyses")]
    assert len(drawn) == len(figures(analysis)) > 0
