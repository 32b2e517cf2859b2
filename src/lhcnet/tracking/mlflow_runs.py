"""MLflow runs: one parent run per pipeline execution, one child run per step.

Runs are found again by a key, which is a tag: a step that runs again replaces its own finished run, and a later step
that adds to a run finds it. A run also has the name of the journal that made it as a tag: a run that was written
partly is found and completed. The default store is `mlflow.db` in the working directory, with the artifacts in
`mlartifacts` in the same folder.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lhcnet.errors import LhcnetError
from lhcnet.tracking.target import TrackingTarget, without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SQLITE = "sqlite:"
KEY = "lhcnet.key"
JOURNAL = "lhcnet.journal"
PARENT_TAG, NAME_TAG = "mlflow.parentRunId", "mlflow.runName"
TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on runs, not on traces


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Turn any failure of MLflow, its database or its server into one sentence, without the secrets of `uri`.

    Raises:
        LhcnetError: the block failed.
    """
    _configure_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        line = " ".join(str(error).split()).replace(uri, without_secrets(uri))
        raise LhcnetError(f"MLflow at {without_secrets(uri)}: {line[:300]}") from error


def _configure_mlflow() -> None:
    """Set before MLflow is imported: by default it retries each call for four minutes, and prints tables and bars."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def open_client(target: TrackingTarget | None = None) -> tuple[MlflowClient, str]:
    """Open a store and its experiment, both made if they do not exist.

    Args:
        target: the store; default: that of the environment.

    Returns:
        client and experiment id.
    """
    _configure_mlflow()
    from mlflow import MlflowClient
    from sqlalchemy import make_url

    target = target or TrackingTarget.from_environment()
    if not target.uri.startswith(SQLITE):
        client = MlflowClient(target.uri)
        return client, target.experiment_id or _experiment(client, target.experiment, None)
    database = Path(make_url(target.uri).database or "")
    with file_lock(Path(f"{database}.lock")):  # two processes that create its tables at once would both fail
        if not database.exists():
            _create_database(target.uri, database)
        client = MlflowClient(target.uri)
        # an experiment's artifact location cannot be changed later: absolute, in the folder of the database
        location = (database.parent / "mlartifacts").as_uri()
        return client, target.experiment_id or _experiment(client, target.experiment, location)


def _create_database(uri: str, database: Path) -> None:
    """Create all of MLflow's tables or none: it takes seconds, and MLflow refuses a database with half of them."""
    from mlflow import MlflowClient
    from sqlalchemy import make_url

    new = Path(f"{database}.new")
    for leftover in database.parent.glob(f"{new.name}*"):  # of a process that was killed, and SQLite's journal of it
        leftover.unlink()
    MlflowClient(make_url(uri).set(database=str(new)).render_as_string(hide_password=False))
    new.rename(database)


def _experiment(client: MlflowClient, name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    if (experiment := client.get_experiment_by_name(name)) is None:
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=TRAINING_VIEW))
        except MlflowException:  # another step created it meanwhile
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    return str(experiment.experiment_id)


@contextmanager
def file_lock(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is made if it does not exist."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


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
        if former and former.info.status != "RUNNING":
            self.client.delete_run(former.info.run_id)
        return self.make(step, at, parent)

    def make(self, step: str, at: int, parent: str) -> Run:
        """Make a run for a step, started at `at` (milliseconds), below the run `parent` (id)."""
        return self._create(step, at, {PARENT_TAG: parent})

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
