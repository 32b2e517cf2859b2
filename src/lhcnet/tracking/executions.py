"""Finished executions as they stand in MLflow: their training runs as a data frame, read in few calls."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lhcnet.errors import LhcnetError
from lhcnet.tracking.mlflow_runs import KEY, PARENT_TAG
from lhcnet.tracking.store import mlflow_errors
from lhcnet.tracking.target import LastingError, TrackingTarget, lasting_problem, sqlite_file, without_secrets
from lhcnet.tracking.view import BACKBONE, STANDALONE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run
    from pandas import DataFrame

PAGE = 1000  # runs in one answer of MLflow
NAMED = 10  # executions in a message
OLDEST, NEWEST = (
    ["attributes.start_time ASC", "attributes.run_id ASC"],
    ["attributes.start_time DESC", "attributes.run_id ASC"],
)
SCORES = {
    "val": "val/accuracy",
    "test": "test/accuracy",
    "test_distinct": "test/accuracy_distinct",
    "val_tta": "val/accuracy_tta",
    "test_tta": "test/accuracy_tta",
}
CURVE = "epoch/val_accuracy"


@dataclass(frozen=True)
class Executions:
    """Executions that were read.

    Attributes:
        names: keys of the executions.
        models: one row a training run, without the backbone's: `execution`, `set`, `model` (name of the run), `kept`,
            the accuracies (0..1) of `SCORES`, `variant`, `seed`, and a column for each setting of a module.
        curves: validation accuracy of each epoch of the best model (on validation) of each set and execution:
            `execution`, `set`, `model`, `epoch`, `accuracy`.
    """

    names: tuple[str, ...]
    models: DataFrame
    curves: DataFrame


@contextmanager
def open_experiment() -> Iterator[tuple[MlflowClient, Experiment]]:
    """The experiment of the environment, for reading: nothing is made that does not exist.

    Raises:
        LhcnetError: there is none, or MLflow does not answer in the block.
    """
    target = TrackingTarget.from_environment()
    if problem := lasting_problem(target.uri):
        raise LastingError(f"MLflow at {problem}")
    shown, file = without_secrets(target.uri), sqlite_file(target.uri)
    if file is not None and not file.exists():
        raise LhcnetError(f"{file}: does not exist; expected MLflow's store, or another in MLFLOW_TRACKING_URI")
    with mlflow_errors(target.uri):
        from mlflow import MlflowClient

        client = MlflowClient(target.uri)
        by_id = target.experiment_id
        found = client.get_experiment(by_id) if by_id else client.get_experiment_by_name(target.experiment)
        if found is None:
            raise LhcnetError(f"MLflow at {shown}: has no experiment {target.experiment!r}: nothing was recorded yet")
        yield client, found


def read(names: Sequence[str]) -> Executions:
    """Read executions with two searches each, and a curve for the best model of each of their sets.

    Args:
        names: of the executions, or the beginning of a name that fits one execution. None: the newest execution.

    Raises:
        LhcnetError: there is no such execution, or MLflow does not answer.
    """
    from pandas import DataFrame

    from lhcnet.report.formatting import frame

    rows: list[dict[str, object]] = []
    curves: list[dict[str, object]] = []
    with open_experiment() as (client, experiment):
        parents = {run.data.tags[KEY]: run for run in _parents(client, experiment, names)}
        for key, parent in parents.items():
            found = _pages(client, experiment, f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'")
            models = [run for run in found if run.data.params.get("set", BACKBONE) != BACKBONE]
            rows += [_row(key, run) for run in models]
            for name, best in _best(models).items():
                curve = {"execution": key, "set": name, "model": best.info.run_name}
                points = client.get_metric_history(best.info.run_id, CURVE)
                curves += [curve | {"epoch": point.step, "accuracy": point.value} for point in points]
    if not rows:
        raise LhcnetError(f"{', '.join(parents)}: MLflow has no trained models of it yet")
    return Executions(tuple(parents), frame(rows), DataFrame(curves))


def _pages(client: MlflowClient, experiment: Experiment, condition: str) -> Iterator[Run]:
    """All runs of a search, the oldest first."""
    token = None
    while True:
        page = client.search_runs(
            [experiment.experiment_id], condition, max_results=PAGE, order_by=OLDEST, page_token=token
        )
        yield from page
        if not (token := page.token):
            return


def _parents(client: MlflowClient, experiment: Experiment, names: Sequence[str]) -> Iterator[Run]:
    """The runs of the executions."""
    id_, newest = (
        [experiment.experiment_id],
        client.search_runs([experiment.experiment_id], f"tags.`{KEY}` LIKE '%'", max_results=PAGE, order_by=NEWEST),
    )
    recent = list(dict.fromkeys(run.data.tags[KEY].partition("/")[0] for run in newest))
    if not recent:
        raise LhcnetError(f"the experiment {experiment.name!r} in MLflow has no executions yet")
    for name in names or recent[:1]:
        if "'" in name or "%" in name:
            raise LhcnetError(f"{name}: expected the name of an execution")
        found = list(client.search_runs(id_, f"tags.`{KEY}` = '{name}'", max_results=1))
        if not found:
            begun = client.search_runs(id_, f"attributes.run_name LIKE '{name}%'", max_results=PAGE, order_by=NEWEST)
            found = [run for run in begun if "/" not in run.data.tags.get(KEY, "/")]
        if len(found) != 1:
            known = [run.data.tags[KEY] for run in found] or recent
            listed = ", ".join(known[:NAMED]) + (" ..." if len(known) > NAMED else "")
            problem = "several executions begin like this" if found else "no execution of this name"
            raise LhcnetError(
                f"{name}: {problem} in MLflow's experiment {experiment.name!r}; expected one of: {listed}"
            )
        yield found[0]


def _best(models: Sequence[Run]) -> dict[str, Run]:
    """The run of each set with the best validation accuracy; rejected models do not count."""
    best: dict[str, Run] = {}
    for run in models:
        name, value = _set(run), run.data.metrics.get(SCORES["val"])
        if value is None or run.data.tags.get("kept") == "no":
            continue
        if name not in best or value > best[name].data.metrics[SCORES["val"]]:
            best[name] = run
    return best


def _set(run: Run) -> str:
    """The set of a model; of the stand-alone pipeline the network and its stage."""
    params = run.data.params
    if params["set"] != STANDALONE:
        return str(params["set"])
    network = "ResNet34v2" if params.get("variant", "none") == "none" else "LHC-Net"
    return f"{network} stage {params.get('stage', '-')}"


def _row(key: str, run: Run) -> dict[str, object]:
    params, kept = run.data.params, run.data.tags.get("kept")
    return {
        "execution": key,
        "set": _set(run),
        "model": run.info.run_name,
        "kept": None if kept is None else kept == "yes",
        **{name: run.data.metrics.get(metric) for name, metric in SCORES.items()},
        "variant": params.get("variant"),
        "seed": params.get("seed"),
        **{name: value for name, value in params.items() if re.fullmatch(r"lhc[1-5]\..*", name)},
    }
