"""MLflow, and the only importer of it: one parent run a pipeline execution, one child a step and seed.

Runs carry a key as a tag. A step that runs again replaces its own finished run (the old one goes to MLflow's bin), a
later step that adds to it finds it again: a record is never double and never orphaned. A run also carries the name of
the journal that made it: what was written half is found and completed. MLFLOW_TRACKING_URI wins; the default is
`mlflow.db` in the working directory with the artifacts beside it, at an absolute path.
"""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lhcnet.errors import LhcnetError
from lhcnet.tracking.journal import Place, default_uri, without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

SQLITE = "sqlite:"
KEY = "lhcnet.key"
JOURNAL = "lhcnet.journal"
PARENT_TAG, NAME_TAG = "mlflow.parentRunId", "mlflow.runName"
TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on runs, not on traces


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Whatever MLflow, its database or its server fail with becomes one sentence.

    Raises `LhcnetError`, without what `uri` holds of secrets.
    """
    _bounded_and_quiet()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        line = " ".join(str(error).split()).replace(uri, without_secrets(uri))
        raise LhcnetError(f"MLflow at {without_secrets(uri)}: {line[:300]}") from error


def _bounded_and_quiet() -> None:
    """Before MLflow is imported: it retries four minutes a call, and tells of its tables and bars of four files."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def open_client(place: Place | None = None) -> tuple[MlflowClient, str]:
    """(client, experiment id), by default those of the environment."""
    _bounded_and_quiet()
    from mlflow import MlflowClient
    from sqlalchemy import make_url

    place = place or Place.of_environment()
    if not place.uri.startswith(SQLITE):
        client = MlflowClient(place.uri)
        return client, place.experiment_id or _experiment(client, place.experiment, None)
    database = Path(make_url(place.uri).database or "")
    with _alone(Path(f"{database}.lock")):  # two processes that create its tables at once would both fail
        if not database.exists():
            _create(place.uri, database)
        client = MlflowClient(place.uri)
        # an experiment's artifact location is fixed for ever at creation: absolute, beside the local store
        location = (database.parent / "mlartifacts").as_uri()
        return client, place.experiment_id or _experiment(client, place.experiment, location)


def _create(uri: str, database: Path) -> None:
    """MLflow's tables, all or none: it takes seconds, and MLflow cannot go on with tables that are half made."""
    from mlflow import MlflowClient
    from sqlalchemy import make_url

    new = Path(f"{database}.new")
    for leftover in database.parent.glob(f"{new.name}*"):  # of one that was killed, and SQLite's journal of it
        leftover.unlink()
    MlflowClient(make_url(uri).set(database=str(new)).render_as_string(hide_password=False))
    new.rename(database)


def _experiment(client: MlflowClient, name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    if (experiment := client.get_experiment_by_name(name)) is None:
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=TRAINING_VIEW))
        except MlflowException:  # another step created it in between
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    return str(experiment.experiment_id)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Run:
    """One MLflow run. What is written carries the time when it was so (`at`, milliseconds); twice changes nothing."""

    def __init__(self, client: MlflowClient, run: MlflowRun) -> None:
        self.client = client
        self.id: str = run.info.run_id
        self.status: str = run.info.status
        self.made_by: str = run.data.tags.get(JOURNAL, "")
        self.parent_id: str | None = run.data.tags.get(PARENT_TAG)
        self._known: dict[str, float] = dict(run.data.metrics)

    def params(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        self.client.log_batch(self.id, params=[Param(name, value) for name, value in values.items()])

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.id, tags=[RunTag(name, value) for name, value in values.items()])

    def metrics(self, values: Mapping[str, float], step: int | None, at: int) -> None:
        """With a step, one point of a curve; without, a figure, which is left as it is if it stands there already."""
        from mlflow.entities import Metric

        new = {k: v for k, v in values.items() if step is not None or self._known.get(k) != v}
        self.client.log_batch(self.id, metrics=[Metric(k, v, at, step or 0) for k, v in new.items()])
        self._known |= new

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name, digest[:36], source_type="local", source=json.dumps({"uri": source}))
        tag = InputTag("mlflow.data.context", context)
        self.client.log_inputs(self.id, datasets=[DatasetInput(dataset, [tag])])

    def file(self, path: Path, folder: str) -> None:
        self.client.log_artifact(self.id, str(path), None if folder == "." else folder)

    def end(self, status: str, at: int) -> None:
        self.client.set_terminated(self.id, status, at)


class Record:
    """The runs of one execution, as one journal writes them. Journals that share `lock` make one parent."""

    def __init__(self, client: MlflowClient, experiment: str, execution: str, journal: str, lock: Path) -> None:
        self._client, self._experiment = client, experiment
        self._execution, self._journal, self._lock = execution, journal, lock

    def by_id(self, id_: str) -> Run:
        return Run(self._client, self._client.get_run(id_))

    def find(self, step: str) -> Run | None:
        """The run of the step, the first if there are several; the execution's own for ''."""
        return self._first(KEY, f"{self._execution}/{step}" if step else self._execution)

    def adopt(self, id_: str, step: str) -> Run:
        """A run that was made for the step by somebody else."""
        self._client.set_tag(id_, KEY, f"{self._execution}/{step}")
        return self.by_id(id_)

    def replace(self, step: str, at: int, parent: str) -> Run:
        """A new run for the step; that of an earlier time goes to the bin, but not one that still runs: another's."""
        key = f"{self._execution}/{step}"
        if made := self._first(KEY, key, f"tags.`{JOURNAL}` = '{self._journal}'"):
            return made  # we were interrupted after we had made it
        found = self.find(step)
        if found and found.status != "RUNNING":
            self._client.delete_run(found.id)
        return self.make(step, at, parent)

    def make(self, step: str, at: int, parent: str) -> Run:
        return self._create(f"{self._execution}/{step}", step, at, {PARENT_TAG: parent})

    def parent(self, at: int) -> Run:
        """The execution's run, made if it is not there; of two that two machines made at once, the first stays."""
        with _alone(self._lock):
            if found := self.find(""):
                return found
            created = self._create(self._execution, self._execution, at, {})
            first = self.find("")
            if first is None or first.id == created.id:
                return created
            self._client.delete_run(created.id)
            return first

    def delete_others(self, ours: set[str]) -> None:
        """Runs that this journal made and does not know of: the server took a request whose answer never came."""
        for run in self._search(f"tags.`{JOURNAL}` = '{self._journal}'", 100):
            if run.info.run_id not in ours:
                self._client.delete_run(run.info.run_id)

    def _create(self, key: str, name: str, at: int, tags: Mapping[str, str]) -> Run:
        tags = {KEY: key, JOURNAL: self._journal, NAME_TAG: name, **tags}
        return Run(self._client, self._client.create_run(self._experiment, start_time=at, tags=tags))

    def _first(self, tag: str, value: str, also: str = "") -> Run | None:
        condition = f"tags.`{tag}` = '{value}'" + (f" and {also}" if also else "")
        found = self._search(condition, 1)
        return Run(self._client, found[0]) if found else None

    def _search(self, condition: str, limit: int) -> list[MlflowRun]:
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        return list(self._client.search_runs([self._experiment], condition, max_results=limit, order_by=order))


def register(run: Run, name: str, model: Path, *, tags: Mapping[str, str]) -> int:
    """Log the model directory as a pyfunc made of code and safetensors, register it, move the alias `champion`.

    Registering the same weights again returns the version they already have.

    Raises `LhcnetError` when MLflow does not answer as it should.
    """
    uri = default_uri()
    with answering(uri):
        return _register(run, name, model, tags, uri)


def _register(run: Run, name: str, model: Path, tags: Mapping[str, str], uri: str) -> int:
    import mlflow
    from mlflow.exceptions import MlflowException

    client = run.client
    try:
        client.create_registered_model(name, description="LHC-Net for facial expression recognition (FER2013)")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get("weights") == tags["weights"]:
            client.set_registered_model_alias(name, "champion", version.version)
            return int(version.version)

    mlflow.set_tracking_uri(uri)
    package = Path(__file__).parents[1]
    from mlflow.types import Schema, TensorSpec

    signature = mlflow.models.ModelSignature(inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, 48, 48))]))
    requirements = [f"{name}=={version_of(name)}" for name in SERVING_REQUIREMENTS]
    with mlflow.start_run(run_id=run.id), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*input example was not provided", UserWarning)  # the signature is
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(package / "serving" / "pyfunc.py"),
            artifacts={"model": str(model)},
            code_paths=[str(package)],
            pip_requirements=requirements,
            signature=signature,
        )
    if "MLFLOW_RUN_ID" in os.environ:  # start_run ended it, but it is not ours to end
        client.update_run(run.id, status="RUNNING")
    created = client.create_model_version(
        name, logged.model_uri, run_id=run.id, model_id=logged.model_id, tags=dict(tags)
    )
    client.set_registered_model_alias(name, "champion", created.version)
    return int(created.version)


SERVING_REQUIREMENTS = ("torch", "numpy", "pandas", "pydantic", "ruamel.yaml", "safetensors")
