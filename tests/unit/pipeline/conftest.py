"""Fixtures: a server that answers as Kubeflow Pipelines does, and the commands that ask it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import Result
from support.kubeflow_server import KubeflowServer
from typer.testing import CliRunner

from lhcnet.cli import app
from lhcnet.profiles import profile
from pipeline import watch
from pipeline.cluster import Cluster
from pipeline.submit import Submission, prepare_runs

Command = Callable[..., Result]
DIGEST = "a" * 64
SOURCE = f"s3://bucket/fer2013.zip#sha256={DIGEST}"
MLFLOW = Cluster(env={"MLFLOW_TRACKING_URI": "http://mlflow"})


@pytest.fixture(scope="session")
def prepared() -> Submission:
    """A run of the profile demo, compiled."""
    (submission,) = prepare_runs([("", profile("demo"))], MLFLOW, SOURCE)
    return submission


@pytest.fixture
def precompiled(prepared: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    """`submit` takes `prepared` instead of compiling."""
    monkeypatch.setattr("pipeline.submit.prepare_runs", lambda *_, **__: [prepared])


@pytest.fixture
def server() -> Iterator[KubeflowServer]:
    with KubeflowServer() as running:
        yield running


@pytest.fixture
def command(server: KubeflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `lhcnet pipeline ...` against `server`, in a folder that has `cluster.yaml`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
    monkeypatch.setenv("LHCNET_COMMIT", "c0ffee" * 7)
    for name in ("TOKEN", "COOKIES", "NAMESPACE", "SA_TOKEN_PATH", "CA_BUNDLE", "UI_ENDPOINT", "TIMEOUT"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    (tmp_path / "cluster.yaml").write_text(
        "image: registry.example/lhcnet:1.0\nenv: {MLFLOW_TRACKING_URI: 'http://user:hunter2@mlflow:5000'}\n"
    )
    return lambda *arguments: CliRunner().invoke(app, ["pipeline", *arguments])


@pytest.fixture
def submit(command: Command) -> Command:
    """`lhcnet pipeline submit` of the profile demo, with a source and the cluster's settings."""
    return lambda *more: command("submit", "--profile", "demo", "--cluster", "cluster.yaml", "--source", SOURCE, *more)


@pytest.fixture(autouse=True)
def quick_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """kfp asks for the stack at every setting of a task; its source lines take seconds with all modules loaded."""
    monkeypatch.setattr(inspect, "stack", partial(inspect.stack, 0))
