"""End of a pipeline's run in Kubeflow, whatever its status: the record is closed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

from lhcnet.errors import LhcnetError
from lhcnet.tracking.bounded import deliver
from lhcnet.tracking.folder import first_entry, pending_journals, running
from lhcnet.tracking.journal import journal_root
from lhcnet.tracking.kubeflow import execution_name_of_task, kubeflow_run, sweep_tags
from lhcnet.tracking.reconcile import close_execution
from lhcnet.tracking.target import LastingError
from lhcnet.tracking.timings import remove_times
from lhcnet.tracking.writer_process import wait_limit

log = logging.getLogger("lhcnet")
_PAUSE = 1.0  # seconds between two attempts


def finish(status: str, *, failed_task: str = "", error: str = "", links: Mapping[str, str] | None = None) -> None:
    """Close the record of this Kubeflow run: what the steps could not write, the true status, the failed task, links.

    Doing it twice changes nothing. An MLflow that does not answer within LHCNET_TRACKING_WAIT seconds is a warning:
    the exit handler's status must not change that of the run.

    Args:
        status: of the run, as Kubeflow says it: SUCCEEDED, FAILED, CANCELLED, or UNKNOWN (the record decides).
        failed_task: name of the task that failed; "": the record decides.
        error: what it failed with.
        links: tag -> URL, written to the execution's run.
    """
    run = kubeflow_run()
    if not run:
        log.info("no Kubeflow run to close: each step has closed its own record")
        return
    try:
        execution = execution_name_of_task()
        _deliver_journals(run)
        if os.environ.get("MLFLOW_RUN_ID"):
            log.info("the record of the run %s is closed by the back end, which made it", run)
            return
        _close(run, status, failed_task, error, {**(links or {}), **sweep_tags()}, execution)
    except LhcnetError as problem:
        log.warning("the record of the run %s is not closed: %s; `lhcnet pipeline reconcile` closes it", run, problem)
        return
    remove_times(execution)


def _deliver_journals(run: str) -> None:
    """Write to MLflow what ended or killed steps of the run left on the volume."""
    root = journal_root()
    for folder in pending_journals(root):
        try:
            if first_entry(folder).kubeflow_run == run and not running(folder):
                deliver(folder)
        except FileNotFoundError:  # just written by another process
            continue
        except LhcnetError as problem:
            log.warning("%s: is kept, `lhcnet tracking replay %s` writes it: %s", folder.name, root, problem)


def _close(run: str, status: str, failed_task: str, error: str, links: Mapping[str, str], execution: str) -> None:
    """Close the record, again and again while MLflow fails."""
    deadline = time.monotonic() + wait_limit()
    while True:
        try:
            closed = close_execution(
                run, status, failed_task=failed_task, error=error, links=links, execution=execution
            )
        except LhcnetError as problem:
            if isinstance(problem, LastingError) or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            log.info("%s: %s; open steps closed: %d", ", ".join(closed.executions), closed.status, len(closed.killed))
            return
