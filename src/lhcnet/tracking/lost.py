"""Trainings that ended early in earlier Kubeflow runs: Kubeflow's cache has them, because their tasks succeeded."""

from __future__ import annotations

from collections import Counter

from lhcnet.tracking.mlflow_runs import CONTINUED, KEY
from lhcnet.tracking.reconcile import ENDED_EARLY, search_all
from lhcnet.tracking.store import mlflow_errors, open_client
from lhcnet.tracking.target import default_uri


def lost_trainings(execution: str) -> dict[str, int]:
    """In how many runs with the same settings and code each training ended early.

    Args:
        execution: name of the execution, without a run's id.

    Returns:
        Id of the model -> number of runs; models that were never lost are left out.

    Raises:
        LhcnetError: MLflow does not answer.
    """
    found: Counter[str] = Counter()
    with mlflow_errors(default_uri()):
        client, experiment = open_client()
        for status in ENDED_EARLY:
            condition = f"tags.status = '{status}' and tags.`{KEY}` LIKE '{execution}-%/train/%'"
            for run in search_all(client, experiment, condition):
                if CONTINUED not in run.data.tags:
                    found[run.data.tags[KEY].partition("/train/")[2]] += 1
    return dict(found)
