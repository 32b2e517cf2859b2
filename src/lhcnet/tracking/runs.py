"""MLflow, and the only importer of it: one parent run a pipeline execution, one child a step and seed.

Runs carry a key as a tag. A step that runs again replaces its own finished run (the old one goes to MLflow's bin), a
later step that adds to it finds it again: a record is never double and never orphaned. MLFLOW_TRACKING_URI wins; the
default is `mlflow.db` in the working directory with the artifacts beside it, at an absolute path.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

EXPERIMENT = "lhcnet"
KEY = "lhcnet.key"
TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on runs, not on traces


@dataclass(frozen=True)
class Execution:
    """One pipeline execution: `name` comes from the driver, `data` is the digest of the store."""

    name: str
    data: str

    @property
    def key(self) -> str:
        return f"{self.name}-{self.data[:8]}"


def default_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def open_client() -> tuple[MlflowClient, str]:
    """(client, experiment id). Bounds MLflow's retries, which otherwise block four minutes a call."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = default_uri()
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    if injected := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return client, injected
    if (experiment := client.get_experiment_by_name(name)) is None:
        # an experiment's artifact location is fixed for ever at creation: absolute, beside the local store
        database = uri.removeprefix("sqlite:///")
        location = (Path(database).absolute().parent / "mlartifacts").as_uri() if database != uri else None
        try:
            return client, str(client.create_experiment(name, artifact_location=location, tags=TRAINING_VIEW))
        except MlflowException:  # another step created it in between
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    return client, str(experiment.experiment_id)


class Run:
    """One MLflow run, open for logging."""

    def __init__(self, client: MlflowClient, run: MlflowRun, parent_id: str | None, *, ours: bool) -> None:
        self._client = client
        self.id: str = run.info.run_id
        self.parent_id = parent_id
        self.ours = ours  # to end: not a run that was injected, or that another step has ended
        self._known: dict[str, float] = dict(run.data.metrics)

    def params(self, values: Mapping[str, object]) -> None:
        """Nested sections become dotted names."""
        from mlflow.entities import Param

        self._client.log_batch(self.id, params=[Param(k, str(v)[:6000]) for k, v in _flatten(values)])

    def tags(self, values: Mapping[str, object]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.id, tags=[RunTag(key, str(value)) for key, value in values.items()])

    def metrics(self, values: Mapping[str, object], step: int | None = None) -> None:
        """Numbers only; None and text are left out. With a step, one point of a curve; without, a figure, once."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
        if step is None:
            numbers = {k: v for k, v in numbers.items() if self._known.get(k) != v}
        self._known |= numbers
        self._client.log_batch(self.id, metrics=[Metric(k, v, now, step or 0) for k, v in numbers.items()])

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name, digest[:36], source_type="local", source=json.dumps({"uri": source}))
        tag = InputTag("mlflow.data.context", context)
        self._client.log_inputs(self.id, datasets=[DatasetInput(dataset, [tag])])

    def figure(self, figure: Figure, path: str) -> None:
        self._client.log_figure(self.id, figure, path)

    def file(self, path: Path) -> None:
        self._client.log_artifact(self.id, str(path))

    def parent(self) -> Run:
        """The run of the whole execution."""
        return Run(self._client, self._client.get_run(self.parent_id or self.id), None, ours=False)

    def end(self, status: str = "FINISHED") -> None:
        self._client.set_terminated(self.id, status)

    def end_parent(self, status: str = "FINISHED") -> None:
        """End the execution's run, unless it was injected: then it is its owner's to end."""
        if self.parent_id and "MLFLOW_RUN_ID" not in os.environ:
            self._client.set_terminated(self.parent_id, status)


@contextmanager
def child(
    execution: Execution, step: str, *, tags: Mapping[str, object], mode: Literal["own", "add"] = "own"
) -> Iterator[Run]:
    """The run of one step (with its seed in the name), under the execution's parent.

    `own` is for the step itself: the finished run of an earlier time is replaced, an injected MLFLOW_RUN_ID is adopted
    and left to whoever injected it to end. `add` opens the run that another step left, to add to it.

    Raises `LhcnetError` when MLflow does not answer as it should.
    """
    from mlflow.exceptions import MlflowException

    injected = os.environ.get("MLFLOW_RUN_ID") if mode == "own" else None
    try:
        client, experiment = open_client()
        opened = _open(client, experiment, execution, step, mode, injected)
        opened.tags({"step": step, "data_digest": execution.data, **tags})
        if mode == "own":
            opened.tags(_origin())
        try:
            yield opened
        except BaseException:
            if opened.ours:
                opened.end("FAILED")
            opened.end_parent("FAILED")
            raise
        if opened.ours:
            opened.end()
    except MlflowException as error:
        raise LhcnetError(f"MLflow at {default_uri()}: {' '.join(str(error).split())[:300]}") from error


def missing(execution: Execution, steps: Sequence[str]) -> list[str]:
    """Those of the steps that have no run under this execution yet."""
    client, experiment = open_client()
    return [step for step in steps if not _find(client, experiment, f"{execution.key}/{step}")]


def _open(
    client: MlflowClient, experiment: str, execution: Execution, step: str, mode: str, injected: str | None
) -> Run:
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

    key = f"{execution.key}/{step}"
    if injected:
        run = client.get_run(injected)
        client.set_tag(injected, KEY, key)
        return Run(client, run, run.data.tags.get(MLFLOW_PARENT_RUN_ID), ours=False)

    parent_id = _parent(client, experiment, execution)
    found = _find(client, experiment, key)
    if found and mode == "add":
        return Run(client, found, parent_id, ours=False)
    if found and found.info.status != "RUNNING":  # a run that still runs is somebody else's
        client.delete_run(found.info.run_id)
    tags = {KEY: key, MLFLOW_RUN_NAME: step, MLFLOW_PARENT_RUN_ID: parent_id}
    return Run(client, client.create_run(experiment, tags=tags), parent_id, ours=True)


def _parent(client: MlflowClient, experiment: str, execution: Execution) -> str:
    """Id of the parent run; of two that two processes made at once, the first stays."""
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

    found = _find(client, experiment, execution.key)
    if found:
        return str(found.info.run_id)
    tags = {KEY: execution.key, MLFLOW_RUN_NAME: execution.key}
    created = str(client.create_run(experiment, tags=tags).info.run_id)
    first = _find(client, experiment, execution.key)
    if first is None or first.info.run_id == created:
        return created
    client.delete_run(created)
    return str(first.info.run_id)


def _find(client: MlflowClient, experiment: str, key: str) -> MlflowRun | None:
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    found = client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1, order_by=order)
    return found[0] if found else None


def register(run: Run, name: str, model: Path, *, tags: Mapping[str, str]) -> int:
    """Log the model directory as a pyfunc made of code and safetensors, register it, move the alias `champion`.

    Registering the same weights again returns the version they already have.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = run._client
    try:
        client.create_registered_model(name, description="LHC-Net for facial expression recognition (FER2013)")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get("weights") == tags["weights"]:
            client.set_registered_model_alias(name, "champion", version.version)
            return int(version.version)

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


def _origin() -> dict[str, str]:
    """Commit and DVC experiment, where there are any."""
    commit = os.environ.get("LHCNET_COMMIT", "")
    if not commit:
        try:
            asked = subprocess.run(
                ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10
            )
            commit = asked.stdout.strip() if asked.returncode == 0 else ""
        except (OSError, subprocess.TimeoutExpired):  # no git here: an image carries LHCNET_COMMIT instead
            pass
    tags = {"mlflow.source.git.commit": commit, "dvc_exp": os.environ.get("DVC_EXP_NAME", "")}
    return {key: value for key, value in tags.items() if value}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
