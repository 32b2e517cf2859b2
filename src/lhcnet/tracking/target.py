"""Where the record goes: MLflow's URI and experiment, from the environment variables that MLflow itself defines."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

DEFAULT_EXPERIMENT = "lhcnet"


@dataclass(frozen=True)
class TrackingTarget:
    """An MLflow store and an experiment in it.

    Attributes:
        uri: tracking URI; it may hold a user, a password and options.
        experiment: name of the experiment.
        experiment_id: its id if MLFLOW_EXPERIMENT_ID names one (then `experiment` is not used), else "".
    """

    uri: str
    experiment: str
    experiment_id: str

    @classmethod
    def from_environment(cls) -> TrackingTarget:
        """The target of MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and MLFLOW_EXPERIMENT_ID."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
        return cls(default_uri(), name, os.environ.get("MLFLOW_EXPERIMENT_ID", ""))


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, or `mlflow.db` in the working directory; a relative path of SQLite is made absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = uri.removeprefix("sqlite:///")
    return uri if file == uri else f"sqlite:///{Path.cwd() / file}"


def without_secrets(uri: str) -> str:
    """The URI without user, password and query."""
    return re.sub(r"(?<=://)[^/]*@", "", uri).partition("?")[0]
