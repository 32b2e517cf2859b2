"""MLflow runs: one parent run per pipeline execution, one child run per step.

Runs are found again by a key, which is a tag: a step that runs again replaces its own finished run, and a later step
that adds to a run finds it. A run also has the name of the journal that made it as a tag: a run that was written
partly is found and completed.

In a Kubeflow run, a step that has a run already which did not finish is a new attempt of it: the run of the attempt
before is closed, keeps its points, and gives its key to the new one, which names it in its tag `continues`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lhcnet.tracking.kubeflow import ATTEMPT_TAG, RUN_TAG, settings_of
from lhcnet.tracking.names import run_name
from lhcnet.tracking.store import file_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY = "lhcnet.key"
JOURNAL = "lhcnet.journal"
PARENT_TAG, NAME_TAG = "mlflow.parentRunId", "mlflow.runName"
SETTINGS = "lhcnet.settings"  # tag of a parent run: equal in all Kubeflow runs of the same settings, code and data
ADDED = "lhcnet.added"  # tag of a run that an addition or a cache made, before its own step wrote its journal
CACHED, ORIGINAL_TAG = "cached", "original_run"  # tags of a run whose step did not run in this execution
CONTINUES, CONTINUED = "continues", "continued_by"  # tags of two attempts of the same task
WEIGHTS_TAG = "weights"  # digest of the trained weights
WALL_TIME = "time/wall"  # metric of an execution: seconds from its start to its first end
_PARAMETERS = 100  # that MLflow takes at once
REGISTERED_TAG = "registered"  # tag of the run that a version of a registered model comes from


def write_entry(client: MlflowClient, run_id: str, entry: Mapping[str, Any], journal: Path) -> None:
    """Write one entry of a journal to a run, with the time of the entry; writing it twice changes nothing.

    Args:
        client: of the store.
        run_id: the run.
        entry: an entry whose `do` is params, tags, metrics, dataset, file or end.
        journal: the journal's folder, which has the artifacts.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, RunTag

    match entry["do"]:
        case "params":
            log_params(client, run_id, entry["values"])
        case "tags":
            client.log_batch(run_id, tags=[RunTag(name, value) for name, value in entry["values"].items()])
        case "metrics":
            values, step = entry["values"], entry["step"]
            if step is None:  # a single value is not written again if it is there already
                known = client.get_run(run_id).data.metrics
                values = {name: value for name, value in values.items() if known.get(name) != value}
            points = [Metric(name, value, entry["at"], step or 0) for name, value in values.items()]
            client.log_batch(run_id, metrics=points)
        case "dataset":
            source = json.dumps({"uri": entry["source"]})
            dataset = Dataset(entry["name"], entry["digest"][:36], source_type="local", source=source)
            tag = InputTag("mlflow.data.context", entry["context"])
            client.log_inputs(run_id, datasets=[DatasetInput(dataset, [tag])])
        case "file":
            folder = None if entry["folder"] == "." else entry["folder"]
            client.log_artifact(run_id, str(journal / entry["file"]), folder)
        case "end" if entry["run"]:  # of a training that ended early
            client.set_terminated(run_id, entry["status"], entry["at"])
        case "end":
            end_execution(client, run_id, entry["status"], entry["at"])


def log_params(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """Log the parameters that a run does not have yet: MLflow never changes one, and refuses another value."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    new = [Param(name, value) for name, value in values.items() if name not in known]
    for start in range(0, len(new), _PARAMETERS):
        client.log_batch(run_id, params=new[start : start + _PARAMETERS])


def end_execution(client: MlflowClient, run_id: str, status: str, at: int) -> None:
    """End the run of an execution, with its wall time; the time stays that of the first end."""
    run = client.get_run(run_id)
    if WALL_TIME not in run.data.metrics:
        client.log_metric(run_id, WALL_TIME, (at - run.info.start_time) / 1000, timestamp=at)
    client.set_terminated(run_id, status, at)


def made_by(run: Run) -> str:
    """Name of the journal that made a run, or ""."""
    return str(run.data.tags.get(JOURNAL, ""))


def link_to(original: Run) -> dict[str, str]:
    """Tags of a run whose step came from a cache: the run that computed it, and a note with a link to that."""
    id_ = original.data.tags.get(ORIGINAL_TAG, original.info.run_id)
    execution = original.data.tags.get(KEY, "").partition("/")[0]
    link = f"#/experiments/{original.info.experiment_id}/runs/{id_}"
    return {
        CACHED: "true",
        ORIGINAL_TAG: id_,
        "mlflow.note.content": f"From the cache: computed in [run {id_}]({link}) of {execution}.",
    }


class ExecutionRuns:
    """The runs of one execution in MLflow, as they are found and made for one journal.

    Args:
        client: of the store.
        experiment: id of the experiment.
        execution: key of the execution.
        journal: name of the journal.
        lock: a file that all journals of the execution on this machine share: with it they make one parent run.
        kubeflow_run: id of the Kubeflow run, or "".
        source: tags of the execution's run, if it is made.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment: str,
        execution: str,
        journal: str,
        lock: Path,
        kubeflow_run: str = "",
        source: Mapping[str, str] | None = None,
    ) -> None:
        self.client = client
        self.experiment, self._execution, self._journal, self._lock = experiment, execution, journal, lock
        self._kubeflow_run, self._source = kubeflow_run, dict(source or {})
        self._known_steps: dict[str, set[int]] = {}  # of the metrics of an adopted run

    def find(self, step: str) -> Run | None:
        """The run of a step ("": of the execution), the first if there are several; None if there is none."""
        return self._first(f"tags.`{KEY}` = '{self._key(step)}'")

    def adopt(self, run_id: str, step: str) -> Run:
        """Use a run that somebody else made (MLFLOW_RUN_ID) as the run of a step."""
        self.client.set_tag(run_id, KEY, self._key(step))
        self._known_steps.clear()
        return self.client.get_run(run_id)

    def without_known(self, run_id: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """An entry without what an adopted run has already: it is the same run for each attempt of a task.

        An attempt that resumes logs the earlier epochs again, and MLflow would keep both points of an epoch.
        """
        if entry["do"] == "metrics" and entry["step"] is not None:
            for name in entry["values"].keys() - self._known_steps.keys():
                self._known_steps[name] = {point.step for point in self.client.get_metric_history(run_id, name)}
            new = {name: v for name, v in entry["values"].items() if entry["step"] not in self._known_steps[name]}
            return {**entry, "values": new}
        return entry

    def replace(self, step: str, at: int, parent: str) -> Run:
        """Make a new run for a step; a former one is moved to MLflow's bin unless it still runs.

        If this journal has made the run already, before an interruption, that run is returned. In a Kubeflow run, a
        former one that did not finish stays as an earlier attempt.
        """
        keys = (self._key(step), self._former_key(step, self._journal))
        for made in self._search(f"tags.`{JOURNAL}` = '{self._journal}'", 1000):
            if made.data.tags.get(KEY) in keys:
                self._end_attempt_before(made, step, at)
                return made
        former = self.find(step)
        if former and former.data.tags.get(ADDED) and made_by(former) > self._journal:
            self.client.set_tag(former.info.run_id, JOURNAL, self._journal)  # of a later step: add to it
            return former
        if former and self._kubeflow_run and former.info.status != "FINISHED":
            return self._continue(former, step, at, parent)
        if former and REGISTERED_TAG in former.data.tags:  # a version points to it
            self.client.set_tag(former.info.run_id, KEY, self._former_key(step, made_by(former)))
        elif former and former.info.status != "RUNNING":
            self.client.delete_run(former.info.run_id)
        return self._create(step, at, {PARENT_TAG: parent})

    def _continue(self, former: Run, step: str, at: int, parent: str) -> Run:
        """Make the run of a new attempt of a task, and close that of the attempt before."""
        if made_by(former) > self._journal:  # a journal that was written late: its attempt has been continued
            key = self._former_key(step, self._journal)
            return self._create(step, at, {PARENT_TAG: parent, KEY: key, CONTINUED: former.info.run_id})
        attempt = int(former.data.tags.get(ATTEMPT_TAG, "1")) + 1
        tags = {PARENT_TAG: parent, CONTINUES: former.info.run_id, ATTEMPT_TAG: str(attempt)}
        created = self._create(step, at, tags)
        self._end_attempt_before(created, step, at)
        return created

    def _end_attempt_before(self, run: Run, step: str, at: int) -> None:
        """Close the run that this run continues, and take its key from it."""
        id_ = run.data.tags.get(CONTINUES)
        if id_ is None:
            return
        former = self.client.get_run(id_)
        if former.info.status == "RUNNING":
            self.client.set_terminated(id_, "KILLED", at)
        attempt = former.data.tags.get(ATTEMPT_TAG, "1")
        self.client.set_tag(id_, NAME_TAG, f"{run_name(step)} (attempt {attempt})")
        self.client.set_tag(id_, KEY, self._former_key(step, made_by(former)))
        self.client.set_tag(id_, CONTINUED, run.info.run_id)

    def original(self, weights: str) -> Run | None:
        """The run of the training that made these weights, in whatever execution; None if it has no record."""
        found = self._search(f"tags.`{WEIGHTS_TAG}` = '{weights}'", 100) if weights else []
        return next((run for run in found if not run.data.tags.get(CACHED)), None)

    def make(self, step: str, at: int, parent: str) -> Run:
        """Make a run for another step, started at `at` (milliseconds), below the run `parent` (id)."""
        return self._create(step, at, {PARENT_TAG: parent, ADDED: "yes"})

    def parent(self, at: int) -> Run:
        """The execution's run, made if there is none. If two machines make one at once, the first is kept."""
        with file_lock(self._lock):
            if found := self.find(""):
                return self._reopened(found, at)
            created = self._create("", at, self._source)
            first = self.find("")
            if first is None or first.info.run_id == created.info.run_id:
                return created
            self.client.delete_run(created.info.run_id)
            return first

    def _reopened(self, parent: Run, at: int) -> Run:
        """The run of the execution; it runs again when a Kubeflow run is repeated (`lhcnet pipeline retry`)."""
        if self._kubeflow_run and parent.info.status != "RUNNING" and at > (parent.info.end_time or 0):
            self.client.update_run(parent.info.run_id, status="RUNNING")
        return parent

    def is_finished(self, run_id: str) -> bool:
        """Whether a run has the status FINISHED."""
        return bool(self.client.get_run(run_id).info.status == "FINISHED")

    def made_by_journal(self) -> list[str]:
        """Ids of the runs that this journal made."""
        return [run.info.run_id for run in self._search(f"tags.`{JOURNAL}` = '{self._journal}'", 1000)]

    def _key(self, step: str) -> str:
        return f"{self._execution}/{step}" if step else self._execution

    def _former_key(self, step: str, journal: str) -> str:
        """Key of an attempt that was continued by another."""
        return f"{self._key(step)}#{journal}"

    def _create(self, step: str, at: int, tags: Mapping[str, str]) -> Run:
        tags = {KEY: self._key(step), JOURNAL: self._journal, NAME_TAG: run_name(step) or self._execution, **tags}
        if self._kubeflow_run and not step:
            tags |= {RUN_TAG: self._kubeflow_run, SETTINGS: settings_of(self._execution, self._kubeflow_run)}
        return self.client.create_run(self.experiment, start_time=at, tags=tags)

    def _first(self, condition: str) -> Run | None:
        found = self._search(condition, 1)
        return found[0] if found else None

    def _search(self, condition: str, limit: int) -> list[Run]:
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        return list(self.client.search_runs([self.experiment], condition, max_results=limit, order_by=order))
