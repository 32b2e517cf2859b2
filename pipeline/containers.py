"""Tasks of a local run as containers of the image, with the rights that a strict cluster gives them.

A user id in group 0, a read-only root file system, no capabilities. Only `/scratch` (in memory) and the folder of the
run can be written.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import docker
from docker.errors import DockerException, ImageNotFound
from docker.types import Mount
from kfp import local

from lhcnet.errors import LhcnetError
from lhcnet.steps.task import TASK_FOLDER
from lhcnet.tracking.journal import FOLDER_VARIABLE
from lhcnet.tracking.target import URI_VARIABLE

_PASSED_ON = ("LHCNET_", "MLFLOW_", "OMP_NUM_THREADS")  # environment variables; HOME and PATH are those of the image


def docker_runner(image: str, source: Path | None, folder: Path, user: str = "") -> local.DockerRunner:
    """kfp's runner for a run in containers, after a check that engine and image are there.

    The record goes to the MLflow server of MLFLOW_TRACKING_URI; without one, to `mlflow.db` in the folder of the run.

    Args:
        image: name of the image, which the engine must have.
        source: FER2013, which the containers can read; None if it is not a file or folder of this machine.
        folder: folder of the run; it has the same path in the containers.
        user: user and group id of the tasks, "1234:0"; by default the caller's user id in group 0.

    Raises:
        LhcnetError: no engine answers, it does not have the image, or MLFLOW_TRACKING_URI is a file.
    """
    uri = os.environ.get(URI_VARIABLE, "")
    if uri and urlsplit(uri).scheme.partition("+")[0] in ("", "file", "sqlite"):
        raise LhcnetError(
            f"{URI_VARIABLE}: {uri} is a file, which a container cannot read; expected a server, or no value: then "
            "the record goes to mlflow.db in the folder of the run"
        )
    try:
        docker.from_env().images.get(image)
    except ImageNotFound:
        raise LhcnetError(
            f"{image}: the Docker engine does not have this image; expected one of `make image`"
        ) from None
    except DockerException as error:
        raise LhcnetError(f"no Docker engine answers, expected one at DOCKER_HOST or its default: {error}") from None
    environment = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)} | {
        URI_VARIABLE: uri or f"sqlite:///{folder / 'mlflow.db'}",
        FOLDER_VARIABLE: str(folder / "journal"),
        "LHCNET_CHECKPOINTS": str(folder / "checkpoints"),
        TASK_FOLDER: str(folder),
    }
    return local.DockerRunner(
        user=user or f"{os.getuid()}:0",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tmpfs={"/scratch": "mode=1777"},
        network_mode="host",
        environment=environment,
        mounts=[Mount(str(source), str(source), type="bind", read_only=True)] if source else [],
    )
