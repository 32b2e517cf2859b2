"""MLflow, and the only importer of it: one parent run a pipeline execution, one child a step and seed.

Runs carry a key as a tag. A step that runs again replaces its own run (the old one goes to MLflow's bin), a later
step that adds to it finds it again: a record is never double and never orphaned. MLFLOW_TRACKING_URI wins; the
default is `mlflow.db` in the working directory with the artifacts beside it, at an absolute path.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

EXPERIMENT = "lhcnet"
KEY = "lhcnet.key"


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
            return client, str(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another step created it in between
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    return client, str(experiment.experiment_id)


class Run:
    """One MLflow run, open for logging."""

    def __init__(self, client: MlflowClient, run: MlflowRun, parent_id: str | None) -> None:
        self._client = client
        self.id: str = run.info.run_id
        self.parent_id = parent_id
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
        return Run(self._client, self._client.get_run(self.parent_id or self.id), None)

    def end(self, status: str = "FINISHED") -> None:
        self._client.set_terminated(self.id, status)


@contextmanager
def child(execution: Execution, step: str, *, tags: Mapping[str, object], fresh: bool) -> Iterator[Run]:
    """The run of one step (with its seed in the name), under the execution's parent.

    `fresh` replaces the run of an earlier time; otherwise that run is opened again to add to it. An injected
    MLFLOW_RUN_ID is adopted as this step's run and left to whoever injected it to end.
    """
    client, experiment = open_client()
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

    injected = os.environ.get("MLFLOW_RUN_ID")
    if injected:
        parent_id = client.get_run(injected).data.tags.get(MLFLOW_PARENT_RUN_ID)
        run = client.get_run(injected)
    else:
        parent_id = _find_or_create(client, experiment, execution.key, {MLFLOW_RUN_NAME: execution.key}).info.run_id
        run = _find_or_create(
            client,
            experiment,
            f"{execution.key}/{step}",
            {MLFLOW_RUN_NAME: step, MLFLOW_PARENT_RUN_ID: parent_id},
            fresh,
        )
    opened = Run(client, run, parent_id)
    opened.tags({"step": step, "data_digest": execution.data, **_origin(), **tags})
    try:
        yield opened
    except BaseException:
        if not injected:
            opened.end("FAILED")
            opened.parent().end("FAILED")
        raise
    if not injected:
        opened.end()


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
    with mlflow.start_run(run_id=run.id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(package / "serving" / "pyfunc.py"),
            artifacts={"model": str(model)},
            code_paths=[str(package)],
            pip_requirements=list(SERVING_REQUIREMENTS),
        )
    created = client.create_model_version(
        name, logged.model_uri, run_id=run.id, model_id=logged.model_id, tags=dict(tags)
    )
    client.set_registered_model_alias(name, "champion", created.version)
    return int(created.version)


SERVING_REQUIREMENTS = ("torch", "numpy", "pandas", "pydantic", "ruamel.yaml", "safetensors")


def _find_or_create(
    client: MlflowClient, experiment: str, key: str, tags: dict[str, str], fresh: bool = False
) -> MlflowRun:
    found = client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
    if found and fresh:
        client.delete_run(found[0].info.run_id)
    elif found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        return client.get_run(found[0].info.run_id)
    return client.create_run(experiment, tags={KEY: key, **tags})


def _origin() -> dict[str, str]:
    """Commit and DVC experiment, where there are any."""
    commit = os.environ.get("LHCNET_COMMIT", "")
    if not commit:
        try:
            asked = subprocess.run(
                ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10
            )
            commit = asked.stdout.strip() if asked.returncode == 0 else ""
        except OSError:  # no git here: an image carries LHCNET_COMMIT instead
            pass
    tags = {"mlflow.source.git.commit": commit, "dvc_exp": os.environ.get("DVC_EXP_NAME", "")}
    return {key: value for key, value in tags.items() if value}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
