"""The record of a step in MLflow, and how it is completed from files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from lhcnet.saved import SavedModel
from lhcnet.tracking.journal import Execution, StepRun, journaled
from lhcnet.tracking.mlflow_runs import CACHED, WEIGHTS_TAG
from lhcnet.tracking.names import curve, kept_metrics, training_params
from lhcnet.tracking.system import system_metrics
from lhcnet.tracking.timings import timed


@contextmanager
def tracked(
    execution: str | None, data: str, step: str, tags: Mapping[str, object] | None = None
) -> Iterator[StepRun | None]:
    """Record a step in MLflow, or do nothing outside an execution.

    Args:
        execution: name of the execution; None: nothing is recorded.
        data: digest of the data set.
        step: the step's name, with its seed or variant.
        tags: tags of its run.

    Yields:
        the step's run, or None.
    """
    if execution is None:
        yield None
        return
    with (
        journaled(Execution(execution, data), step, tags=tags or {}) as run,
        system_metrics(run),
        timed(execution, step),
    ):
        begun = time.monotonic()
        yield run
        run.metrics({"time/step": time.monotonic() - begun})


def restore(models: Sequence[SavedModel], by: StepRun) -> None:
    """Log the trainings of models that a cache supplied, so that their training did not run in this execution.

    Args:
        models: the models; those whose training has a run in this execution are left as they are.
        by: the run of the step that uses them.
    """
    for saved in models:
        tags: dict[str, object] = {"status": saved.metrics.status, "restored": "from files", CACHED: "true"}
        if saved.info.weights:
            tags[WEIGHTS_TAG] = saved.info.weights  # by it the original training is found, and linked
        run = by.other(f"train/{saved.id}", tags, "restore")
        run.params(training_params(saved.info))
        for row in saved.history:
            run.metrics(curve(row), step=row.epoch)
        run.metrics(kept_metrics(saved.metrics))
