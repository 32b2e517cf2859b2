"""The team's MLflow server of `server/compose.yaml`, in containers: users, the move of an mlflow.db, gc, backup.

It needs a Docker engine with compose; POSTGRES_IMAGE and SEAWEEDFS_IMAGE name other images than those of the file.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from support.drawn_runs import DrawnRuns
from support.drivers import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

SERVER = ROOT / "server"


@dataclass(frozen=True)
class Server:
    """A running server; its scripts are called with `environment`."""

    uri: str
    environment: dict[str, str]
    password: str

    def run(self, *command: str, ok: bool = True) -> str:
        """Run a command in the folder of the server; returns what it prints."""
        done = subprocess.run(
            command, cwd=SERVER, env=self.environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert (done.returncode == 0) is ok, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def files(self) -> int:
        """Number of files in the store."""
        shell = "echo 'fs.tree /buckets/mlflow' | weed shell"
        printed = self.run("docker", "compose", "exec", "-T", "store", "sh", "-c", shell)
        (found,) = re.findall(r"(\d+) files", printed)
        return int(found)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A new server, removed with its volumes at the end; skips where there is no Docker engine with compose."""
    try:
        subprocess.run(["docker", "compose", "version"], check=True, capture_output=True)
        subprocess.run(["docker", "info"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"NOT TESTED IN CONTAINERS: expected a Docker engine with compose: {error}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    names = re.findall(r"^(\w+)=$", (SERVER / "env.example").read_text(), re.MULTILINE)
    assert names
    values = {name: secrets.token_hex(24) for name in names}
    file = tmp_path_factory.mktemp("server") / "env"
    lines = values | {"MLFLOW_ADDRESS": address, "MLFLOW_ALLOWED_HOSTS": address}
    file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    environment = os.environ | {
        "COMPOSE_ENV_FILES": str(file),
        "COMPOSE_PROJECT_NAME": f"lhcnet-{secrets.token_hex(4)}",
    }
    made = Server(f"http://{address}", environment, values["MLFLOW_ADMIN_PASSWORD"])
    made.run("docker", "build", "--network", "host", "--tag", "lhcnet-mlflow", ".")
    try:
        made.run("docker", "compose", "up", "--detach", "--wait")
        yield made
    finally:
        made.run("docker", "compose", "down", "--volumes")


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """As a user of the team."""
    user = {"username": f"user-{secrets.token_hex(4)}", "password": secrets.token_hex(12)}
    url = f"{server.uri}/api/2.0/mlflow/users/create"
    requests.post(url, json=user, auth=("admin", server.password), timeout=60).raise_for_status()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user["username"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user["password"])
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    return mlflow.MlflowClient(server.uri)


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one machine: an execution with 14 trainings, an artifact and a registered model."""
    folder = tmp_path_factory.mktemp("former")
    here = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = here.create_experiment("lhcnet", artifact_location=(folder / "mlartifacts").as_uri())
    parent = DrawnRuns(here, experiment).execution("x")
    here.log_text(parent, "what came out", "report.html")
    here.create_registered_model("lhcnet")
    version = here.create_model_version("lhcnet", f"{folder.as_uri()}/mlartifacts/m", run_id=parent, tags={"a": "b"})
    here.set_registered_model_alias("lhcnet", "champion", version.version)
    return folder


def content(client: mlflow.MlflowClient) -> dict[str, Any]:
    """All runs of the experiment, by id: status, parameters, metrics, tags and names of files."""
    experiment = client.get_experiment_by_name("lhcnet")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    return {
        run.info.run_id: (
            run.info.status,
            run.data.params,
            run.data.metrics,
            run.data.tags,
            [file.path for file in client.list_artifacts(run.info.run_id)],
        )
        for run in runs
    }


def test_it_answers_only_users_and_only_under_its_names(server: Server) -> None:
    url = f"{server.uri}/api/2.0/mlflow/experiments/search"
    assert requests.post(url, json={"max_results": 1}, timeout=60).status_code == 401
    admin = ("admin", server.password)
    assert requests.post(url, json={"max_results": 1}, auth=admin, timeout=60).status_code == 200
    other = requests.post(url, json={"max_results": 1}, auth=admin, headers={"Host": "other.example"}, timeout=60)
    assert other.status_code == 403


def test_an_mlflow_db_is_moved_with_all_that_it_has(
    server: Server, client: mlflow.MlflowClient, former: Path, tmp_path: Path
) -> None:
    assert "mlflow.db: expected the MLflow store of a machine" in server.run("./migrate.sh", str(tmp_path), ok=False)
    runs = len(content(mlflow.MlflowClient(f"sqlite:///{former / 'mlflow.db'}")))
    assert f"{runs} runs, 1 versions of models, 1 files of artifacts" in server.run("./migrate.sh", str(former))
    assert content(client) == content(mlflow.MlflowClient(f"sqlite:///{former / 'mlflow.db'}"))
    (parent,) = [id_ for id_, run in content(client).items() if run[4]]
    path = client.download_artifacts(parent, "report.html", str(tmp_path))
    assert Path(path).read_text() == "what came out"
    champion = client.get_model_version_by_alias("lhcnet", "champion")
    assert (champion.run_id, champion.tags) == (parent, {"a": "b"})
    assert champion.source == "mlflow-artifacts:/mlartifacts/m"
    assert client.create_experiment("new")  # the database goes on counting behind the ids that were moved
    assert "the server has runs already" in server.run("./migrate.sh", str(former), ok=False)


def test_a_user_logs_into_the_experiment_of_another(client: mlflow.MlflowClient, tmp_path: Path) -> None:
    experiment = client.get_experiment_by_name("lhcnet")
    assert experiment is not None
    run = client.create_run(experiment.experiment_id).info.run_id
    client.log_text(run, "text", "file.txt")
    assert Path(client.download_artifacts(run, "file.txt", str(tmp_path))).read_text() == "text"


def test_gc_removes_what_was_deleted_and_nothing_else(server: Server, client: mlflow.MlflowClient) -> None:
    experiment = client.get_experiment_by_name("lhcnet")
    assert experiment is not None
    before, files = content(client), server.files()
    run = client.create_run(experiment.experiment_id).info.run_id
    client.log_text(run, "text", "file.txt")
    client.delete_run(run)
    assert server.files() == files + 1
    assert f"Run with ID {run} has been permanently deleted" in server.run("./gc.sh", "0d")
    assert server.files() == files
    assert content(client) == before


def test_a_backup_brings_back_all_that_was_there(server: Server, client: mlflow.MlflowClient, tmp_path: Path) -> None:
    before, folder = content(client), tmp_path / "backup"
    assert "expected a folder" in server.run("./backup.sh", ok=False)
    server.run("./backup.sh", str(folder))
    server.run("docker", "compose", "up", "--detach", "--wait")
    assert "File exists" in server.run("./backup.sh", str(folder), ok=False)
    experiment = client.get_experiment_by_name("lhcnet")
    assert experiment is not None
    later = client.create_run(experiment.experiment_id).info.run_id
    for id_ in before:
        client.delete_run(id_)
    server.run("./gc.sh", "0d")
    server.run("./restore.sh", str(folder))
    assert content(client) == before
    assert later not in content(client)
    shutil.rmtree(folder)
