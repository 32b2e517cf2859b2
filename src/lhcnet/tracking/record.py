"""What of a model goes into the record, and how a record is completed from files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lhcnet.saved import Epoch, Metrics, SavedModel
from lhcnet.tracking.journal import Execution, Run, journaled
from lhcnet.tracking.timings import timed


@contextmanager
def tracked(
    execution: str | None, data: str, step: str, tags: Mapping[str, object] | None = None
) -> Iterator[Run | None]:
    if execution is None:
        yield None
        return
    with journaled(Execution(execution, data), step, tags=tags or {}) as run, timed(execution, step):
        yield run


def restore(models: Sequence[SavedModel], by: Run) -> None:
    """Complete the execution's record with models whose training ran under another: a cache brought them back."""
    for saved in models:
        p = saved.info.provenance
        tags: dict[str, object] = {"set": p.set, "stage": p.stage, "seed": p.seed, "variant": p.variant or "-"}
        tags |= {"status": saved.metrics.status, "restored": "from files"}
        run = by.other(f"train/{saved.id}", tags, "restore")
        run.params({"network": saved.info.architecture.to_dict(), "seed": p.seed})
        for row in saved.history:
            run.metrics(curve(row), step=row.epoch)
        run.metrics(final(saved.metrics))


def curve(row: Epoch) -> dict[str, Any]:
    return {name: value for name, value in row.to_dict().items() if name != "epoch" and value is not None}


def final(metrics: Metrics) -> dict[str, Any]:
    """The figures of the final weights, under names of their own: curves keep theirs."""
    values = metrics.to_dict()
    return {f"final_{name}": value for name, value in values.items() if isinstance(value, float)} | {
        "best_epoch": metrics.best_epoch,
        "epochs": metrics.epochs,
        **{f"attention_entropy_{place}": value for place, value in metrics.attention_entropy.items()},
    }
