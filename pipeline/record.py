"""Closing the record of a Kubeflow run from outside: what no pod of it could do any more."""

from __future__ import annotations

import os
from collections.abc import Callable

from lhcnet.errors import LhcnetError
from lhcnet.tracking.lost import lost_trainings
from lhcnet.tracking.reconcile import close_execution
from lhcnet.tracking.target import URI_VARIABLE
from pipeline.backend import Backend
from pipeline.runs import Run
from pipeline.submit import run_link


def close_record(backend: Backend, run: Run) -> list[str]:
    """Give the record of a run that has ended its true status, and close what is still open in it.

    Returns:
        Lines that say what was closed.

    Raises:
        LhcnetError: the run has not ended, nothing says where MLflow is, or MLflow does not answer.
    """
    if not run.ended:
        raise LhcnetError(
            f"run {run.run_id}: is {run.state}, its record is still written; expected a run that has ended "
            "(`lhcnet pipeline wait`, or `terminate`)"
        )
    if not os.environ.get(URI_VARIABLE):
        raise LhcnetError(
            f"{URI_VARIABLE} is not set: the run's record cannot be found; expected the address of MLflow as this "
            "machine reaches it, and then `lhcnet pipeline reconcile`"
        )
    # the tasks of a terminated run failed because of that
    tasks = backend.tasks(run) if run.state == "FAILED" else []
    failed = next(((task, why) for task, why in backend.explain(tasks) if task.state == "FAILED"), None)
    closed = close_execution(
        run.run_id,
        run.state,
        failed_task=failed[0].name if failed else "",
        error=failed[1] if failed else run.error if run.state == "FAILED" else "",
        links={"kubeflow": run_link(backend, run.run_id)},
    )
    if not closed.executions:
        return [f"MLflow has no record of run {run.run_id}."]
    return [
        *(f"{name}: {closed.status}" for name in closed.executions),
        *(f"  {step}: was still open, closed as KILLED" for step in closed.killed),
        *(f"  {step}: from Kubeflow's cache, entered" for step in closed.cached),
    ]


def lost_in_earlier_runs(execution: str, say: Callable[[str], None]) -> dict[str, int]:
    """Trainings that ended early in earlier runs of an execution, and so are in Kubeflow's cache without weights.

    Args:
        execution: its name, without a run's id.
        say: is called with a line about each, or about why they are not known.

    Returns:
        Id of the model -> number of runs; none if MLflow cannot be asked.
    """
    if not os.environ.get(URI_VARIABLE):
        say(
            f"warning: {URI_VARIABLE} is not set: trainings that ended early in earlier runs come from Kubeflow's "
            "cache as they are; with the address of MLflow as this machine reaches it, they are trained again"
        )
        return {}
    try:
        lost = lost_trainings(execution)
    except LhcnetError as error:
        say(f"warning: trainings that ended early in earlier runs come from Kubeflow's cache as they are: {error}")
        return {}
    for id_, times in lost.items():
        say(f"{id_}: ended early in {times} earlier run{'s' * (times > 1)}: not taken from Kubeflow's cache")
    return lost
