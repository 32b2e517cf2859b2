"""Close the record of a Kubeflow run with the run's true status; no pod of the run is needed for it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lhcnet.tracking.kubeflow import RUN_TAG, settings_of
from lhcnet.tracking.mlflow_runs import (
    ADDED,
    CONTINUED,
    JOURNAL,
    KEY,
    NAME_TAG,
    PARENT_TAG,
    SETTINGS,
    end_execution,
    link_to,
    log_params,
)
from lhcnet.tracking.names import run_name
from lhcnet.tracking.source import NOTE
from lhcnet.tracking.store import mlflow_errors, open_client
from lhcnet.tracking.target import default_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

UNKNOWN = "UNKNOWN"
ENDED_EARLY = ("crashed", "out of memory", "time limit")  # tag `status` of a training
_KILLED = ("CANCELED", "CANCELLED", "CANCELING", "KILLED", "TERMINATED")  # of Kubeflow's API, MLflow, people
FAILED_TASK, ERROR = "failed_task", "error"
_LONGEST = 4000  # characters of a tag
_MOST = 10_000  # runs of one execution


@dataclass(frozen=True)
class Closed:
    """What was closed.

    Attributes:
        executions: names of the executions of the Kubeflow run in MLflow; none: MLflow has no record of the run.
        status: that they have now, a word of MLflow.
        killed: steps that were still open, and are closed as KILLED.
        cached: steps that came from Kubeflow's cache, and are entered as such.
    """

    executions: tuple[str, ...]
    status: str
    killed: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()


def mlflow_status(status: str) -> str:
    """MLflow's word for a status of Kubeflow: FINISHED, KILLED or FAILED; UNKNOWN stays."""
    word = status.strip().upper()
    if word == UNKNOWN:
        return UNKNOWN
    if word in ("SUCCEEDED", "FINISHED"):
        return "FINISHED"
    return "KILLED" if word in _KILLED else "FAILED"


def close_execution(
    kubeflow_run: str,
    status: str,
    *,
    failed_task: str = "",
    error: str = "",
    links: Mapping[str, str] | None = None,
    execution: str = "",
) -> Closed:
    """Give the record of a Kubeflow run its true status, and close the steps in it that no pod can close any more.

    Doing it twice changes nothing. A record that was closed as KILLED stays so when the run is said to have failed:
    Kubeflow reports a run that was terminated as failed.

    Args:
        kubeflow_run: id of the run.
        status: of the run, as Kubeflow says it (SUCCEEDED, FAILED, CANCELED) or MLflow. UNKNOWN: the run has succeeded
            if its last step has ended the record, and else failed.
        failed_task: name of the task that failed; "": the steps that failed, as far as the record knows them.
        error: what it failed with.
        links: tag -> URL.
        execution: name of the execution. With it, a run all of whose recorded steps came from the cache gets a record.

    Returns:
        What was closed.

    Raises:
        LhcnetError: MLflow does not answer.
    """
    status, now = mlflow_status(status), int(time.time() * 1000)
    with mlflow_errors(default_uri()):
        client, experiment = open_client()
        runs = search_all(client, experiment, f"tags.`{RUN_TAG}` = '{kubeflow_run}'")
        parents = [run for run in runs if PARENT_TAG not in run.data.tags]
        if not parents and status == "FINISHED" and execution:
            parents = _all_from_cache(client, experiment, execution, kubeflow_run, now)
        closed, killed, cached = status, list[str](), list[str]()  # names of steps
        for parent in parents:
            closed = _true_status(parent, status)
            failed = failed_task or (_failed_steps(client, experiment, parent) if closed == "FAILED" else "")
            killed += _kill_open_steps(client, experiment, parent, now)
            if closed == "FINISHED":
                cached += _enter_cached_steps(client, experiment, parent, now)
            _describe(client, parent, closed, failed, error, links or {})
            if parent.info.status != closed:
                end_execution(client, parent.info.run_id, closed, now)
    names = tuple(run.data.tags.get(KEY, run.info.run_id) for run in parents)
    return Closed(names, closed, tuple(killed), tuple(cached))


def _true_status(parent: Run, status: str) -> str:
    """The status of an execution whose run has the status `status`."""
    if status == UNKNOWN:
        return "FAILED" if parent.info.status == "RUNNING" else str(parent.info.status)
    return "KILLED" if (parent.info.status, status) == ("KILLED", "FAILED") else status


def _failed_steps(client: MlflowClient, experiment: str, parent: Run) -> str:
    """Names of the steps that failed or never ended, apart from trainings that ended early and stopped nothing."""
    runs = [run for run in _steps(client, experiment, parent) if run.data.tags.get("status") not in ENDED_EARLY]
    return ", ".join(sorted(_name(run) for run in runs if run.info.status in ("FAILED", "KILLED", "RUNNING")))


def _kill_open_steps(client: MlflowClient, experiment: str, parent: Run, now: int) -> list[str]:
    """Close the steps of an execution that are still RUNNING; returns their names."""
    steps = search_all(
        client, experiment, f"tags.`{PARENT_TAG}` = '{parent.info.run_id}' and attributes.status = 'RUNNING'"
    )
    for run in steps:
        client.set_terminated(run.info.run_id, "KILLED", now)
    return [_name(run) for run in steps]


def _enter_cached_steps(client: MlflowClient, experiment: str, parent: Run, now: int) -> list[str]:
    """Enter the steps that a run took from Kubeflow's cache, with the metrics of the original; returns their names.

    The run has succeeded, so each step of its graph has; those without a run here came from the cache. They are those
    of the last finished execution with the same settings, code and data. Which trainings belong to the run is said by
    `select` when it runs, which enters them; they are taken from the other execution only if `select` was cached too.
    """
    settings = parent.data.tags.get(SETTINGS)
    former = settings and _last_finished(client, experiment, f"tags.`{SETTINGS}` = '{settings}'", parent.info.run_id)
    if not former:
        return []
    own = {_step(run) for run in _steps(client, experiment, parent)}
    missing = {_step(run): run for run in _steps(client, experiment, former) if run.info.status == "FINISHED"}
    missing = {step: run for step, run in missing.items() if step not in own}
    if not any(step.startswith("select") for step in missing) and any(step.startswith("select") for step in own):
        missing = {step: run for step, run in missing.items() if not step.startswith("train/")}
    for step, original in missing.items():
        _copy(client, experiment, original, step, parent, now)
    if missing:
        _take_over(client, parent, former, now, compared=any(step.startswith("compare") for step in missing))
    return sorted(missing)


def _take_over(client: MlflowClient, parent: Run, former: Run, now: int, *, compared: bool) -> None:
    """Give an execution what its cached steps gave to the former one: parameters, figures and what came out.

    Args:
        client: of the store.
        parent: the run of the execution.
        former: that of the execution with the same settings, code and data.
        now: milliseconds.
        compared: whether `compare` came from the cache, which writes the figures and the note.
    """
    from mlflow.entities import Metric

    run_id = parent.info.run_id
    log_params(client, run_id, former.data.params)
    if not compared:
        return
    figures = {name: v for name, v in former.data.metrics.items() if name.startswith(("summary/", "chosen/"))}
    client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in figures.items()])
    for name in ("chosen", "metrics_digest", NOTE):
        if text := former.data.tags.get(name):
            parent.data.tags[name] = text if name != NOTE else _results(text)
            client.set_tag(run_id, name, parent.data.tags[name])


def _results(note: str) -> str:
    """The part of a note that says what came out, which `compare` wrote."""
    return "\n\n".join(part for part in note.split("\n\n") if part.startswith("- "))


def _copy(client: MlflowClient, experiment: str, original: Run, step: str, parent: Run, now: int) -> None:
    """Make the run of a step that came from the cache: parameters and last metrics of the original, and a link."""
    from mlflow.entities import Metric

    key = f"{parent.data.tags[KEY]}/{step}"
    kept = {name: value for name, value in original.data.tags.items() if not name.startswith(("mlflow.", "lhcnet."))}
    tags = {
        **kept,
        KEY: key,
        NAME_TAG: run_name(step),
        PARENT_TAG: parent.info.run_id,
        ADDED: "yes",
        **link_to(original),
    }
    for name in (RUN_TAG, "pod", "attempt", "continues", CONTINUED):
        tags.pop(name, None)
    run_id = client.create_run(experiment, start_time=now, tags=tags).info.run_id
    log_params(client, run_id, original.data.params)
    client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in original.data.metrics.items()])
    client.set_terminated(run_id, "FINISHED", now)


def _all_from_cache(client: MlflowClient, experiment: str, execution: str, kubeflow_run: str, now: int) -> list[Run]:
    """The record of a run none of whose steps ran: made if there was an execution with the same settings before."""
    settings = settings_of(execution, kubeflow_run)
    former = _last_finished(client, experiment, f"tags.`{SETTINGS}` LIKE '{settings}-%'", "")
    if former is None:
        return []
    data = former.data.tags[SETTINGS].removeprefix(f"{settings}-")
    key = f"{execution}-{data}"
    tags = {KEY: key, NAME_TAG: key, JOURNAL: "", RUN_TAG: kubeflow_run, SETTINGS: former.data.tags[SETTINGS]}
    return [client.create_run(experiment, start_time=now, tags=tags)]


def _describe(
    client: MlflowClient, parent: Run, status: str, failed_task: str, error: str, links: Mapping[str, str]
) -> None:
    """Write tags and the note of an execution; what an earlier failure left is removed when it has succeeded."""
    run_id, tags = parent.info.run_id, dict(links)
    if status != "FAILED":  # the exit handler of a terminated run is told that it failed
        for name in (FAILED_TASK, ERROR):
            if name in parent.data.tags:
                client.delete_tag(run_id, name)
    if status != "FINISHED":
        tags |= {name: text for name, text in ((FAILED_TASK, failed_task), (ERROR, error)) if text}
    lines = [f"The task `{failed_task}` failed: {error or 'see its log'}"] if FAILED_TASK in tags else []
    lines += [f"[{name}]({url})" if "://" in url else f"{name}: {url}" for name, url in links.items()]
    if not lines and status == "FINISHED" and FAILED_TASK in parent.data.tags:
        lines = ["The run succeeded after it was repeated."]
    if lines:  # behind the list of `compare`
        result = _results(parent.data.tags.get(NOTE, ""))
        tags[NOTE] = "\n\n".join([result, *lines] if result else lines)
    for name, text in tags.items():
        client.set_tag(run_id, name, text[:_LONGEST])


def _last_finished(client: MlflowClient, experiment: str, condition: str, other_than: str) -> Run | None:
    """The execution that finished last, apart from one."""
    found = search_all(client, experiment, f"{condition} and attributes.status = 'FINISHED'")
    return next((run for run in reversed(found) if run.info.run_id != other_than), None)


def _steps(client: MlflowClient, experiment: str, parent: Run) -> Iterable[Run]:
    """The runs of an execution's steps, without attempts that were continued."""
    found = search_all(client, experiment, f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'")
    return [run for run in found if CONTINUED not in run.data.tags]


def _step(run: Run) -> str:
    return str(run.data.tags.get(KEY, "")).partition("/")[2]


def _name(run: Run) -> str:
    return str(run.data.tags.get(NAME_TAG, run.info.run_id))


def search_all(client: MlflowClient, experiment: str, condition: str) -> list[Run]:
    """All runs that meet a condition, the oldest first."""
    order, token = ["attributes.start_time ASC"], None
    found: list[Run] = []
    while len(found) < _MOST:
        page = client.search_runs([experiment], condition, max_results=1000, order_by=order, page_token=token)
        found += page
        if not (token := page.token):
            break
    return found
