"""A pod that dies without its disk, and the next attempt, on a real MLflow server; then the exit handler."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.outage import EXECUTION, NAME, UNTOUCHED, Server, Step, one_epoch_written, points

from lhcnet import steps

RUN = "aaaaaaaa-1111-2222-3333-444444444444"
LONG = 300  # seconds


@pytest.fixture
def server(empty_database: Path, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    shutil.copy(empty_database, server.database)
    server.start()
    yield server
    server.kill()


def test_the_next_attempt_closes_the_one_whose_pod_and_disk_are_gone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LHCNET_KUBEFLOW_RUN", RUN)
    monkeypatch.setenv("LHCNET_EXECUTION", "demo")
    dead = one_epoch_written(server, tmp_path / "pod-1", LONG)
    dead.kill_writer()
    dead.process.kill()
    dead.rest()
    shutil.rmtree(tmp_path / "pod-1")
    second = Step(tmp_path / "pod-2", server.uri, LONG)
    assert second.go_to_the_end() == (UNTOUCHED, "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("LHCNET_JOURNAL", str(second.journals))
    steps.finish("SUCCEEDED", links={"kubeflow": "https://kubeflow.example/#/runs/1"})

    with closing(sqlite3.connect(server.database)) as connection:
        runs = dict(connection.execute("select name, status from runs where lifecycle_stage = 'active'").fetchall())
        ids = dict(connection.execute("select run_uuid, name from runs").fetchall())
        tags = {
            (ids[id_], key): value for id_, key, value in connection.execute("select run_uuid, key, value from tags")
        }
    assert (runs[EXECUTION], runs[NAME], runs[f"{NAME} (attempt 1)"]) == ("FINISHED", "FINISHED", "KILLED")
    assert ids[tags[NAME, "continues"]] == f"{NAME} (attempt 1)"
    assert tags[NAME, "attempt"] == "2"
    assert (tags[EXECUTION, "kubeflow_run"], tags[EXECUTION, "kubeflow"][:5]) == (RUN, "https")
    assert [step for _, step, _, _ in points(server.database)] == [0, 1, 2]
