"""What a run in containers needs. The run itself: tests/image."""

from pathlib import Path

import pytest

from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from pipeline.containers import docker_runner
from pipeline.local import run


def test_without_an_engine(one_seed: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    with pytest.raises(LhcnetError, match="no Docker engine answers, expected one at DOCKER_HOST"):
        run(one_seed, None, tmp_path / "runs", image="lhcnet:1")


@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "sqlite+pysqlite:////data/mlflow.db", "file:/data/runs", "runs"]
)
def test_a_tracking_file_is_not_in_the_container(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(LhcnetError, match=r"MLFLOW_TRACKING_URI: .* is a file, .* expected a server"):
        docker_runner("lhcnet:1", tmp_path / "faces.zip", tmp_path)
