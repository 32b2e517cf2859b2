"""The process of a pipeline task: what a component does besides calling its step."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from lhcnet.code_version import step_digest
from lhcnet.errors import LhcnetError
from lhcnet.runtime import end_with_parent, exit_on_sigterm, tune_gc
from lhcnet.saved import SavedModel
from lhcnet.tracking.journal import Execution
from lhcnet.tracking.kubeflow import execution_name_of_task
from lhcnet.tracking.names import kept_metrics, score_metrics
from lhcnet.tracking.target import default_uri, without_secrets

__all__ = [
    "execution_name_of_task",
    "final_status",
    "model_metadata",
    "model_metrics",
    "score_metrics",
    "start_task",
]

TASK_FOLDER = "LHCNET_TASK_FOLDER"  # environment variable
LOG_FILE, ERROR_FILE = "steps.log", "errors.txt"


def start_task(*, step: str = "", code: str = "") -> None:
    """Set up the process of one pipeline task, and check that it computes with the code of the pipeline.

    The digest of the code is an argument of every task that computes, so Kubeflow's cache never gives the result of
    other code under the same image name.

    Where LHCNET_TASK_FOLDER names a folder, as in a run on this machine, the log lines of the steps are appended to its
    `steps.log`, and the error that ends a task to its `errors.txt`, one line each. The task then ends with the run.

    Args:
        step: the step, a key of `code_version.STEP_MODULES`.
        code: digest of the code that the pipeline was compiled for; "" checks nothing.

    Raises:
        LhcnetError: the code of this process is another.
    """
    tune_gc()
    exit_on_sigterm()
    sys.excepthook = _end_task
    if folder := os.environ.get(TASK_FOLDER):
        logging.getLogger("lhcnet").addHandler(logging.FileHandler(Path(folder, LOG_FILE), encoding="utf-8"))
        end_with_parent(signal.SIGTERM)
    if code and (found := step_digest(step)) != code:
        raise LhcnetError(
            f"step {step}: the image computes with code {found[:12]}, but the pipeline was compiled for {code[:12]}: "
            "build the image from the commit that you submit from, or submit from the commit of the image"
        )


def final_status(state: str) -> str:
    """The status of an execution, from the state in which Kubeflow hands its body to the exit handler.

    The local runner says SUCCEEDED or FAILED. A back end says COMPLETE, FAILED or CANCELED, or still RUNNING: a back
    end older than 2.17 never sees the end of a loop, and a newer one none whose tasks all came from the cache.

    Returns:
        SUCCEEDED, FAILED, CANCELLED or UNKNOWN; for UNKNOWN the record of the last task decides.
    """
    known = {"COMPLETE": "SUCCEEDED", "CACHED": "SUCCEEDED", "CANCELED": "CANCELLED"}
    state = known.get(state, state)
    return state if state in ("SUCCEEDED", "FAILED", "CANCELLED") else "UNKNOWN"


def _end_task(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of the error that ends a task, and then the error in one sentence.

    What a task prints is its log (of the pod, or log.txt of a run on this machine); the user of the command that runs
    the pipeline here sees only the sentence, from `errors.txt`.
    """
    line = str(error) if isinstance(error, LhcnetError) else str(LhcnetError(f"{kind.__name__}: {error}"))
    if folder := os.environ.get(TASK_FOLDER):
        with Path(folder, ERROR_FILE).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    sys.__excepthook__(kind, error, trace)
    print(f"lhcnet: {line}", file=sys.stderr)


def model_metadata(saved: SavedModel) -> dict[str, Any]:
    """Id, status and metrics of a trained model, as metadata of its artifact. What was not measured is left out.

    Kubeflow shows the artifact under its `display_name`: the id, which has the seed or variant that no name of a task
    in a loop can have.
    """
    metrics = {name: value for name, value in saved.metrics.to_dict().items() if value not in (None, "")}
    return {"display_name": saved.id, "id": saved.id} | metrics | _links(saved)


def _links(saved: SavedModel) -> dict[str, str]:
    """Where an MLflow server has the training: the run's page if the back end made the run, else how to search it."""
    server = without_secrets(default_uri()).rstrip("/")
    if not server.startswith(("http://", "https://")):
        return {}
    run, experiment = os.environ.get("MLFLOW_RUN_ID"), os.environ.get("MLFLOW_EXPERIMENT_ID")
    if run and experiment:
        return {"mlflow": f"{server}/#/experiments/{experiment}/runs/{run}"}
    key = f"{Execution(execution_name_of_task(), saved.info.provenance.data).key}/train/{saved.id}"
    return {"mlflow": server, "mlflow_search": f"tags.`lhcnet.key` = '{key}'"}


def model_metrics(saved: SavedModel) -> dict[str, float]:
    """Losses and accuracies of a trained model, as metadata of a metrics artifact; the names are those of MLflow."""
    return {name: value for name, value in kept_metrics(saved.metrics).items() if isinstance(value, float)}
