"""The run context: from a configuration, from a task's arguments, and the process of a task."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lhcnet import steps
from lhcnet.code_version import step_digest
from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from lhcnet.saved import SavedModel
from lhcnet.steps.task import ERROR_FILE, LOG_FILE
from lhcnet.tracking.mlflow_runs import KEY


def test_a_task_gets_the_context_of_its_configuration(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LHCNET_EXECUTION", "demo-1")
    context = steps.RunContext.of_config(tiny)
    assert (context.compute, context.checkpoints, context.execution) == (tiny.compute, tiny.checkpoints, "demo-1")
    assert steps.RunContext.of_task(steps.task_settings(tiny)) == context
    with pytest.raises(LhcnetError, match="context: device: unknown key"):
        steps.RunContext.of_task({"device": "cpu", **steps.task_settings(tiny)})


def test_the_device_can_be_replaced(context: steps.RunContext) -> None:
    assert context.with_device("cuda").compute == context.compute.model_copy(update={"device": "cuda"})
    with pytest.raises(LhcnetError, match="--device: device"):
        context.with_device("tpu")


@pytest.mark.parametrize(
    ("raised", "noted"),
    [("LhcnetError('raw.csv: line 2')", "raw.csv: line 2"), ("ValueError('a\\nb')", "ValueError: a\\nb")],
)
def test_a_task_leaves_its_log_and_its_error(raised: str, noted: str, tmp_path: Path) -> None:
    program = f"""
import logging
from lhcnet import steps
from lhcnet.errors import LhcnetError
logging.basicConfig(level=logging.INFO)
steps.start_task()
logging.getLogger("lhcnet").info("epoch 1")
raise {raised}
"""
    environment = os.environ | {"LHCNET_TASK_FOLDER": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr  # for the log of the task
    assert (tmp_path / LOG_FILE).read_text() == "epoch 1\n"
    assert (tmp_path / ERROR_FILE).read_text() == f"{noted}\n"


def test_a_task_outside_of_a_local_run_writes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    handlers = logging.getLogger("lhcnet").handlers[:]
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back after the test
    monkeypatch.setattr("lhcnet.steps.task.tune_gc", lambda: None)
    monkeypatch.setattr("lhcnet.steps.task.exit_on_sigterm", lambda: None)
    steps.start_task()
    assert logging.getLogger("lhcnet").handlers == handlers
    assert not list(tmp_path.iterdir())


def test_a_task_refuses_other_code_than_the_pipeline_was_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that was rebuilt under the same tag, or one that was not rebuilt."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back after the test
    monkeypatch.setattr("lhcnet.steps.task.tune_gc", lambda: None)
    monkeypatch.setattr("lhcnet.steps.task.exit_on_sigterm", lambda: None)
    steps.start_task(step="select", code=step_digest("select"))
    with pytest.raises(LhcnetError, match=r"step select: the image computes with code .* compiled for 000000000000"):
        steps.start_task(step="select", code="0" * 64)


def test_the_execution_of_a_task_is_that_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LHCNET_EXECUTION", "demo-1a2b3c4d")
    monkeypatch.delenv("LHCNET_KUBEFLOW_RUN", raising=False)
    assert steps.execution_name_of_task() == "demo-1a2b3c4d"
    monkeypatch.setenv("LHCNET_KUBEFLOW_RUN", "0f1e2d3c-aaaa-bbbb-cccc-ddddeeeeffff")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    assert steps.execution_name_of_task() == "demo-1a2b3c4d-0f1e2d3c"


def test_a_trained_model_says_where_mlflow_has_its_training(
    backbone: SavedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LHCNET_EXECUTION", "demo-1a2b3c4d")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert "mlflow" not in steps.model_metadata(backbone)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example/")
    found = steps.model_metadata(backbone)
    key = f"demo-1a2b3c4d-{backbone.info.provenance.data[:8]}/train/{backbone.id}"
    assert found["mlflow"] == "https://mlflow.example"
    assert found["mlflow_search"] == f"tags.`{KEY}` = '{key}'"
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    assert steps.model_metadata(backbone)["mlflow"] == "https://mlflow.example/#/experiments/7/runs/abc"
