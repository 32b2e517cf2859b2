"""What a task of Kubeflow knows of its run: the environment that the pipeline gives it, and the tags in the record."""

from __future__ import annotations

import os

from lhcnet.errors import LhcnetError
from lhcnet.tracking.target import URI_VARIABLE

EXECUTION_VARIABLE = "LHCNET_EXECUTION"
RUN_VARIABLE = "LHCNET_KUBEFLOW_RUN"
RUN_TAG, POD_TAG, ATTEMPT_TAG = "kubeflow_run", "pod", "attempt"
SWEEP_TAGS = {"sweep": "LHCNET_SWEEP", "sweep_values": "LHCNET_SWEEP_VALUES"}  # tag -> variable of the task
_SHORT = 8  # characters of a run's id in the name of its execution


def kubeflow_run() -> str:
    """Id of the Kubeflow run that this process belongs to, or ""."""
    return os.environ.get(RUN_VARIABLE, "")


def execution_name_of_task() -> str:
    """Name of the execution that a pipeline's task is recorded under.

    It is LHCNET_EXECUTION, with the first characters of the Kubeflow run's id behind it, so that two runs of the same
    settings have two records.

    Raises:
        LhcnetError: the task runs in a pod, and nothing says where MLflow is.
    """
    name, run = os.environ[EXECUTION_VARIABLE], kubeflow_run()
    if run and not os.environ.get(URI_VARIABLE) and not os.environ.get("MLFLOW_RUN_ID"):
        raise LhcnetError(
            f"{URI_VARIABLE} is not set in this pod: the record would end with it; expected the address of an MLflow "
            "server in `env` of the cluster's settings, or in its secret"
        )
    return f"{name}-{run[:_SHORT]}" if run else name


def settings_of(execution: str, run: str) -> str:
    """The key of an execution without its run: equal for all runs of the same settings, code and data."""
    return execution.replace(f"-{run[:_SHORT]}", "", 1) if run else execution


def pod_name() -> str:
    """Name of the pod, or of this machine."""
    return os.environ.get("KFP_POD_NAME") or os.uname().nodename


def task_tags() -> dict[str, str]:
    """Tags of a step's run that say where in Kubeflow it ran, and in which sweep; none outside."""
    return {RUN_TAG: kubeflow_run(), POD_TAG: pod_name()} | sweep_tags() if kubeflow_run() else {}


def sweep_tags() -> dict[str, str]:
    """Tags that the runs of a sweep share, and the settings in which they differ; none outside of a sweep."""
    return {tag: os.environ[name] for tag, name in SWEEP_TAGS.items() if os.environ.get(name)}
