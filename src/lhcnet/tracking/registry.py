"""MLflow's model registry: a model directory becomes a version of a registered model."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lhcnet.serving.package import pyfunc_arguments
from lhcnet.tracking import bounded
from lhcnet.tracking.delivery import delivered_run
from lhcnet.tracking.journal import journal_root
from lhcnet.tracking.store import file_lock, mlflow_errors, open_client
from lhcnet.tracking.target import default_uri
from lhcnet.tracking.watchdog import WATCHDOG

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lhcnet.tracking.journal import StepRun

UPLOAD_SPEED = 1e6  # bytes per second that an upload needs at least


def register(run: StepRun, name: str, model: Path, *, tags: Mapping[str, str]) -> int:
    """Log a model as pyfunc, register it and move the alias `champion` to it.

    The journal of the step, and what earlier steps of its execution left, are written to MLflow first. Registering
    the same weights again makes no new version.

    Args:
        run: the run of the step; its journal is not written by another process.
        name: of the registered model.
        model: a model directory.
        tags: tags of the version; "weights" is the digest of the weights.

    Returns:
        the version.

    Raises:
        LhcnetError: MLflow does not answer as it should.
    """
    with file_lock(journal_root() / "register.lock"):  # two at once would make two versions of the same weights
        return bounded.register(
            run.journal.folder, run=run.name, name=name, model=str(model.absolute()), tags=dict(tags)
        )


def register_in_this_process(folder: Path, *, run: str, name: str, model: str, tags: Mapping[str, str]) -> int:
    """Do the work of `register` in the process that speaks to MLflow.

    Args:
        folder: the step's journal.
        run: name of the step's run in it.
        name: of the registered model.
        model: a model directory.
        tags: tags of the version.

    Returns:
        the version.

    Raises:
        LhcnetError: MLflow does not answer as it should.
    """
    run_id = delivered_run(folder, run)
    uri = default_uri()
    limit = WATCHDOG.limit
    size = sum(file.stat().st_size for file in Path(model).rglob("*") if file.is_file())
    with mlflow_errors(uri):
        with WATCHDOG.call():
            client, _ = open_client()
            version = _version_of_weights(client, name, tags["weights"])
        if version is None:
            WATCHDOG.limit = limit + size / UPLOAD_SPEED
            with WATCHDOG.call():
                made = _new_version(client, run_id, name, Path(model), tags, uri)
            WATCHDOG.limit = limit
            # of machines that register the same weights at once, each finds the first version that was made
            version = _version_of_weights(client, name, tags["weights"]) or made
            if version != made:
                client.delete_model_version(name, str(made))
        with WATCHDOG.call():
            _set_champion(client, name, version)
    return int(version)


def _set_champion(client: MlflowClient, name: str, version: str) -> None:
    """Give a version the alias. MLflow's database refuses one of two writers that insert it at once: once more."""
    try:
        client.set_registered_model_alias(name, "champion", version)
    except Exception:  # MLflow passes on what the database's driver raises
        time.sleep(0.5)
        client.set_registered_model_alias(name, "champion", version)


def _version_of_weights(client: MlflowClient, name: str, weights: str) -> str | None:
    """The first version that has these weights, or None; the registered model is made if it does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="LHC-Net for facial expression recognition (FER2013)")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = '{name}'")
    own = [int(version.version) for version in versions if version.tags.get("weights") == weights]
    return str(min(own)) if own else None


def _new_version(client: MlflowClient, run_id: str, name: str, model: Path, tags: Mapping[str, str], uri: str) -> str:
    """Log the model directory, with the code of this package, as a pyfunc of the run, and make a version of it."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(name="model", **pyfunc_arguments(model))
    if "MLFLOW_RUN_ID" in os.environ:  # start_run ended it, but its owner is to end it
        client.update_run(run_id, status="RUNNING")
    created = client.create_model_version(
        name, logged.model_uri, run_id=run_id, model_id=logged.model_id, tags=dict(tags)
    )
    return str(created.version)
