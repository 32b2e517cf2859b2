"""The views of MLflow's run table that the delivery writes."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from lhcnet.tracking.delivery import deliver
from lhcnet.tracking.journal import Execution, journaled
from lhcnet.tracking.store import open_client
from lhcnet.tracking.view import EXPERIMENT_VIEW, LONGEST, STANDALONE_VIEW, TAG, VIEWS, links, show_execution

SETS, STANDALONE = TAG + EXPERIMENT_VIEW.key, TAG + STANDALONE_VIEW.key


@pytest.fixture
def store(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[MlflowClient, str]:
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    return open_client()


def tags_of(store: tuple[MlflowClient, str]) -> dict[str, str]:
    client, experiment = store
    return dict(client.get_experiment(experiment).tags)


def state_of(value: str) -> dict[str, Any]:
    packed = json.loads(value)["state"].removeprefix("deflate;")
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return state


def train(step: str, params: dict[str, object]) -> Path:
    """The journal of one training."""
    with journaled(Execution("cpu-1", "0123456789"), step, tags={}) as run:
        run.params(params)
    return run.journal.folder


@pytest.mark.parametrize("view", VIEWS)
def test_value_holds_the_state_packed_and_plain_and_fits_every_store(view: Any) -> None:
    value = view.value("0" * 32, 1_760_000_000_000)
    assert len(value) <= LONGEST
    plain = json.loads(value)
    assert (plain["name"], plain["createdAt"]) == (view.name, 1_760_000_000_000)
    assert state_of(value) == {name: plain[name] for name in view.state("0" * 32)}
    sections = {section["uuid"] for section in plain["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in plain["compareRunCharts"]} <= sections
    assert len({chart["uuid"] for chart in plain["compareRunCharts"]}) == len(plain["compareRunCharts"])


def test_delivery_writes_the_view_of_the_pipeline_once(
    store: tuple[MlflowClient, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(train("train/backbone", {"set": "backbone", "stage": 1}))
    assert not [tag for tag in tags_of(store) if tag.startswith(TAG)]
    deliver(train("train/A/seed-0", {"set": "A", "stage": 4}))
    written = tags_of(store)
    (parent,) = store[0].search_runs([store[1]], "tags.`lhcnet.key` = 'cpu-1-01234567'")
    assert parent.info.run_id in state_of(written[SETS])["searchFilter"]
    assert STANDALONE not in written
    monkeypatch.setattr(MlflowClient, "set_experiment_tag", lambda *_: pytest.fail("written twice"))
    deliver(train("train/A/seed-1", {"set": "A", "stage": 4}))
    assert tags_of(store) == written


def test_view_shows_the_runs_of_its_pipeline_and_execution(store: tuple[MlflowClient, str]) -> None:
    client, experiment = store
    for step, name, stage in (("b", "backbone", 1), ("a", "A", 4), ("n", "LHC-NetC", 5), ("s", "standalone", 1)):
        deliver(train(step, {"set": name, "stage": stage}))
    tags = tags_of(store)
    for tag, expected in ((SETS, {"A", "LHC-NetC"}), (STANDALONE, {"standalone"})):
        found = client.search_runs([experiment], state_of(tags[tag])["searchFilter"])
        assert {run.data.params["set"] for run in found} == expected


def test_view_shows_the_newest_execution_and_leaves_a_users_views(store: tuple[MlflowClient, str]) -> None:
    client, experiment = store
    mine = {TAG + "0123abcd": '{"searchFilter": ""}', TAG + "mine": "damaged"}
    for tag, value in mine.items():
        client.set_experiment_tag(experiment, tag, value)
    older, newer = (client.create_run(experiment, start_time=at).info.run_id for at in (1000, 2000))
    for parent in (newer, older, newer):
        show_execution(client, experiment, {"set": "B"}, parent)
    tags = tags_of(store)
    assert newer in state_of(tags[SETS])["searchFilter"]
    assert {tag: tags[tag] for tag in mine} == mine


@pytest.mark.parametrize("there", ["", "damaged", "[]", '{"createdAt": null}', '{"createdAt": "soon"}'])
def test_damaged_view_is_replaced(store: tuple[MlflowClient, str], there: str) -> None:
    client, experiment = store
    client.set_experiment_tag(experiment, SETS, there)
    parent = client.create_run(experiment).info.run_id
    show_execution(client, experiment, {"set": "A"}, parent)
    assert parent in state_of(tags_of(store)[SETS])["searchFilter"]


def test_record_is_complete_where_mlflow_refuses_the_view(
    store: tuple[MlflowClient, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("no", error_code=PERMISSION_DENIED)

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    with caplog.at_level(logging.WARNING, logger="lhcnet"):
        deliver(train("train/A/seed-0", {"set": "A", "stage": 4}))
    assert "was not written: PERMISSION_DENIED" in caplog.text
    (run,) = store[0].search_runs([store[1]], "tags.step = 'train/A/seed-0'")
    assert run.info.status == "FINISHED"
    assert run.data.params["set"] == "A"


def test_links_name_the_views_that_are_there() -> None:
    assert links("http://127.0.0.1:5000", "1", {}) == {}
    found = links("http://127.0.0.1:5000", "1", {SETS: "", TAG + "mine": ""})
    assert list(found) == [EXPERIMENT_VIEW.name]
    assert found[EXPERIMENT_VIEW.name].startswith("http://127.0.0.1:5000/#/experiments/1/runs?")
    assert "viewStateShareKey=lhcnet-sets" in found[EXPERIMENT_VIEW.name]
