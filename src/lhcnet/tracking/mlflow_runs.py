"""MLflow runs: one parent run per pipeline execution, one child run per step.

Runs are found again by a key, which is a tag: a step that runs again replaces its own finished run, and a later step
that adds to a run finds it. A run also has the name of the journal that made it as a tag: a run that was written
partly is found and completed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lhcnet.tracking.store import file_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY = "lhcnet.key"
JOURNAL = "lhcnet.journal"
PARENT_TAG, NAME_TAG = "mlflow.parentRunId", "mlflow.runName"
ADDED = "lhcnet.added"  # tag of a run that an addition or a cache made, before its own step wrote its journal


def write_entry(client: MlflowClient, run_id: str, entry: Mapping[str, Any], journal: Path) -> None:
    """Write one entry of a journal to a run, with the time of the entry; writing it twice changes nothing.

    Args:
        client: of the store.
        run_id: the run.
        entry: an entry whose `do` is params, tags, metrics, dataset, file or end.
        journal: the journal's folder, which has the artifacts.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    match entry["do"]:
        case "params":
            client.log_batch(run_id, params=[Param(name, value) for name, value in entry["values"].items()])
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
        case "end":
            client.set_terminated(run_id, entry["status"], entry["at"])


def made_by(run: Run) -> str:
    """Name of the journal that made a run, or ""."""
    return str(run.data.tags.get(JOURNAL, ""))


class ExecutionRuns:
    """The runs of one execution in MLflow, as they are found and made for one journal.

    Args:
        client: of the store.
        experiment: id of the experiment.
        execution: key of the execution.
        journal: name of the journal.
        lock: a file that all journals of the execution on this machine share: with it they make one parent run.
    """

    def __init__(self, client: MlflowClient, experiment: str, execution: str, journal: str, lock: Path) -> None:
        self.client = client
        self._experiment, self._execution, self._journal, self._lock = experiment, execution, journal, lock

    def find(self, step: str) -> Run | None:
        """The run of a step ("": of the execution), the first if there are several; None if there is none."""
        return self._first(f"tags.`{KEY}` = '{self._key(step)}'")

    def adopt(self, run_id: str, step: str) -> Run:
        """Use a run that somebody else made (MLFLOW_RUN_ID) as the run of a step."""
        self.client.set_tag(run_id, KEY, self._key(step))
        return self.client.get_run(run_id)

    def replace(self, step: str, at: int, parent: str) -> Run:
        """Make a new run for a step; a former one is moved to MLflow's bin unless it still runs.

        If this journal has made the run already, before an interruption, that run is returned.
        """
        if made := self._first(f"tags.`{KEY}` = '{self._key(step)}' and tags.`{JOURNAL}` = '{self._journal}'"):
            return made
        former = self.find(step)
        if former and former.data.tags.get(ADDED) and made_by(former) > self._journal:
            self.client.set_tag(former.info.run_id, JOURNAL, self._journal)  # of a later step: add to it
            return former
        if former and former.info.status != "RUNNING":
            self.client.delete_run(former.info.run_id)
        return self._create(step, at, {PARENT_TAG: parent})

    def make(self, step: str, at: int, parent: str) -> Run:
        """Make a run for another step, started at `at` (milliseconds), below the run `parent` (id)."""
        return self._create(step, at, {PARENT_TAG: parent, ADDED: "yes"})

    def parent(self, at: int) -> Run:
        """The execution's run, made if there is none. If two machines make one at once, the first is kept."""
        with file_lock(self._lock):
            if found := self.find(""):
                return found
            created = self._create("", at, {})
            first = self.find("")
            if first is None or first.info.run_id == created.info.run_id:
                return created
            self.client.delete_run(created.info.run_id)
            return first

    def made_by_journal(self) -> list[str]:
        """Ids of the runs that this journal made."""
        return [run.info.run_id for run in self._search(f"tags.`{JOURNAL}` = '{self._journal}'", 1000)]

    def _key(self, step: str) -> str:
        return f"{self._execution}/{step}" if step else self._execution

    def _create(self, step: str, at: int, tags: Mapping[str, str]) -> Run:
        tags = {KEY: self._key(step), JOURNAL: self._journal, NAME_TAG: step or self._execution, **tags}
        return self.client.create_run(self._experiment, start_time=at, tags=tags)

    def _first(self, condition: str) -> Run | None:
        found = self._search(condition, 1)
        return found[0] if found else None

    def _search(self, condition: str, limit: int) -> list[Run]:
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        return list(self.client.search_runs([self._experiment], condition, max_results=limit, order_by=order))
