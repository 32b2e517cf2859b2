"""The training record in MLflow: which values of a model are logged, and how the record is completed from files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lhcnet.saved import Epoch, Metrics, SavedModel
from lhcnet.tracking.journal import Execution, StepRun, journaled
from lhcnet.tracking.mlflow_runs import CACHED, WEIGHTS_TAG
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
    with journaled(Execution(execution, data), step, tags=tags or {}) as run, timed(execution, step):
        yield run


def restore(models: Sequence[SavedModel], by: StepRun) -> None:
    """Log the trainings of models that a cache supplied, so that their training did not run in this execution.

    Args:
        models: the models; those whose training has a run in this execution are left as they are.
        by: the run of the step that uses them.
    """
    for saved in models:
        p = saved.info.provenance
        tags: dict[str, object] = {"set": p.set, "stage": p.stage, "seed": p.seed, "variant": p.variant or "-"}
        tags |= {"status": saved.metrics.status, "restored": "from files", CACHED: "true"}
        if saved.info.weights:
            tags[WEIGHTS_TAG] = saved.info.weights  # by it the original training is found, and linked
        run = by.other(f"train/{saved.id}", tags, "restore")
        run.params({"network": saved.info.architecture.to_dict(), "seed": p.seed})
        for row in saved.history:
            run.metrics(curve(row), step=row.epoch)
        run.metrics(final(saved.metrics))


def curve(row: Epoch) -> dict[str, Any]:
    """The points of one epoch on the training curves, by metric name."""
    return {name: value for name, value in row.to_dict().items() if name != "epoch" and value is not None}


def final(metrics: Metrics) -> dict[str, Any]:
    """The metrics of the final weights; their names begin with "final_", to keep them apart from the curves."""
    values = metrics.to_dict()
    return {f"final_{name}": value for name, value in values.items() if isinstance(value, float)} | {
        "best_epoch": metrics.best_epoch,
        "epochs": metrics.epochs,
        **{f"attention_entropy_{slot}": value for slot, value in metrics.attention_entropy.items()},
    }
