"""MLflow's store: opened, and made if it does not exist.

The default store is `mlflow.db` in the working directory, with the artifacts in `mlartifacts` in the same folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lhcnet.errors import LhcnetError
from lhcnet.io.locks import wait_for_lock
from lhcnet.tracking.faults import UNKNOWN, as_sentence
from lhcnet.tracking.target import LastingError, TrackingTarget, lasting_problem, sqlite_file, without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on runs, not on traces
_SQLITE_SUFFIXES = ("", "-journal", "-wal", "-shm")  # of a database and of the files that SQLite puts beside it


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Turn any failure of MLflow, its database or its server into one sentence, without the secrets of `uri`.

    Raises:
        LhcnetError: the block failed. LastingError: it will fail again, whatever the time.
    """
    try:
        _configure_mlflow()
        import mlflow  # noqa: F401 - fails for a user without a home directory

        yield
    except LhcnetError:
        raise
    except Exception as error:  # of MLflow, its database's driver, protobuf, json: nobody lists them
        raise as_sentence(error, uri) from None  # the cause may quote a password


def _configure_mlflow() -> None:
    """Set what MLflow reads when it is imported: by default it retries each call for four minutes, and prints bars."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # files go through the server: its store of artifacts may have a name that only the server can resolve
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")


def open_client(target: TrackingTarget | None = None) -> tuple[MlflowClient, str]:
    """Open a store and its experiment, both made if they do not exist.

    Args:
        target: the store; default: that of the environment.

    Returns:
        client and experiment id.

    Raises:
        LastingError: MLflow cannot use the address, or the experiment was deleted.
    """
    _configure_mlflow()
    from mlflow import MlflowClient

    target = target or TrackingTarget.from_environment()
    if problem := lasting_problem(target.uri):
        raise LastingError(f"MLflow at {problem}")
    database = sqlite_file(target.uri)
    if database is None:
        client = MlflowClient(target.uri)
        return client, _experiment(client, target, None)
    with file_lock(Path(f"{database}.lock")):  # two processes that create its tables at once would both fail
        if not database.exists():
            _create_database(target.uri, database)
        client = MlflowClient(target.uri)
        # an experiment's artifact location cannot be changed later: absolute, in the folder of the database
        return client, _experiment(client, target, (database.absolute().parent / "mlartifacts").as_uri())


def _create_database(uri: str, database: Path) -> None:
    """Create all of MLflow's tables or none: it takes seconds, and MLflow refuses a database with half of them."""
    from mlflow import MlflowClient
    from sqlalchemy import make_url

    new = Path(f"{database}.new")
    for suffix in _SQLITE_SUFFIXES:  # of a process that was killed
        Path(f"{new}{suffix}").unlink(missing_ok=True)
    MlflowClient(make_url(uri).set(database=str(new)).render_as_string(hide_password=False))
    new.rename(database)


def _experiment(client: MlflowClient, target: TrackingTarget, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    experiment: Experiment | None
    if target.experiment_id:
        experiment = client.get_experiment(target.experiment_id)
    elif (experiment := client.get_experiment_by_name(target.experiment)) is None:
        try:
            return str(client.create_experiment(target.experiment, artifact_location=location, tags=TRAINING_VIEW))
        except MlflowException:  # another step created it meanwhile
            experiment = client.get_experiment_by_name(target.experiment)
            if experiment is None:
                raise
    assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        raise LastingError(
            f"MLflow at {without_secrets(target.uri)}: the experiment {experiment.name!r} was deleted; restore it "
            f"(`mlflow experiments restore -x {experiment.experiment_id}`) or name another in MLFLOW_EXPERIMENT_NAME"
        )
    return str(experiment.experiment_id)


def has_run(client: MlflowClient, run_id: str) -> bool:
    """Whether the store knows a run."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != UNKNOWN:
            raise
        return False
    return True


@contextmanager
def file_lock(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is made if it does not exist; none where there are no locks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as opened:
        wait_for_lock(opened.fileno())
        yield
