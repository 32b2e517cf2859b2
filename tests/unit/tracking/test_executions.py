"""Executions read from MLflow: `lhcnet runs compare`, and where `lhcnet runs ui` leads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from lhcnet.cli import app
from lhcnet.errors import LhcnetError
from lhcnet.report.runs import means_table, runs_page
from lhcnet.tracking import interface
from lhcnet.tracking.executions import read
from lhcnet.tracking.store import open_client
from tests.support.drawn_runs import DrawnRuns

FIRST, SECOND, ALONE = "cpu-01234567-89abcdef", "cpu-89abcdef-89abcdef", "demo-76543210-89abcdef"


@pytest.fixture(scope="module")
def uri(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with two executions of the experiment and one of the stand-alone pipeline, the newest."""
    file = shutil.copy(empty_database, tmp_path_factory.mktemp("store") / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
        runs = DrawnRuns(*open_client())
        runs.execution(FIRST, a=2, b=2, c=2)
        runs.execution(SECOND, a=3, b=2, c=2)
        runs.standalone(ALONE, seeds=1)
    return f"sqlite:///{file}"


@pytest.fixture
def store(uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def test_all_models_of_an_execution_are_read_but_the_backbone(store: str) -> None:
    found = read([SECOND])
    assert found.models["set"].value_counts().to_dict() == {"A": 3, "B": 2, "C": 2, "LHC-NetC": 1}
    assert found.models["test"].between(0.5, 0.9).all()
    assert found.models.loc[found.models["set"] == "B", "lhc1.heads"].notna().all()
    best = found.models.sort_values("val").groupby("set").tail(1)
    assert set(found.curves["model"]) == set(best["model"])


def test_means_are_those_of_the_kept_models(store: str) -> None:
    found = read([FIRST, SECOND])
    rejected = found.models.index[found.models["set"] == "A"][0]
    found.models.loc[rejected, "kept"] = False
    data = means_table(found).data.set_index(["execution", "set"])
    models = found.models[(found.models["execution"] == SECOND) & (found.models["set"] == "A")]
    assert data.loc[(SECOND, "A"), "mean"] == pytest.approx(models["test"].mean())
    assert data.loc[(FIRST, "A"), "models"] == 1


@pytest.mark.parametrize(
    ("names", "expected"),
    [([], (ALONE,)), (["cpu-8"], (SECOND,)), ([SECOND, FIRST], (SECOND, FIRST)), ([FIRST, FIRST], (FIRST,))],
)
def test_an_execution_is_named_by_its_beginning(store: str, names: list[str], expected: tuple[str, ...]) -> None:
    assert read(names).names == expected


def test_number_of_calls_does_not_grow_with_the_runs(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("search_runs", "get_metric_history", "get_run"):
        original = getattr(MlflowClient, name)

        def counted(
            self: MlflowClient, *args: object, _call: object = original, _name: str = name, **more: object
        ) -> object:
            calls.append(_name)
            return _call(self, *args, **more)  # type: ignore[operator]

        monkeypatch.setattr(MlflowClient, name, counted)
    read([SECOND])
    assert calls.count("search_runs") == 3
    assert calls.count("get_metric_history") == 4  # one for each set
    assert "get_run" not in calls


def test_all_pages_are_read(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read([SECOND])
    monkeypatch.setattr("lhcnet.tracking.executions.PAGE", 3)
    assert read([SECOND]).models.equals(whole.models)


@pytest.mark.parametrize("names", [[FIRST], [FIRST, SECOND], [ALONE]])
def test_page_has_the_figures(store: str, names: list[str]) -> None:
    page = runs_page(read(names))
    assert page.count("<img ") == (2 if names == [ALONE] else 3)  # all modules of the stand-alone pipeline are equal
    assert "<script" not in page


def test_command_prints_the_tables_and_writes_the_page(store: str, tmp_path: Path) -> None:
    out = tmp_path / "runs.html"
    done = CliRunner().invoke(app, ["runs", "compare", FIRST, SECOND, "--out", str(out)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "Test accuracy of the sets" in done.output
    assert "LHC-NetC" in done.output
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nothing"], f"no execution of this name .* expected one of: {ALONE}"),
        (["cpu"], f"several executions begin like this .* expected one of: {SECOND}, {FIRST}"),
        (["a' OR 'b"], "expected the name of an execution"),
    ],
)
def test_unknown_execution_is_one_sentence(store: str, names: list[str], message: str) -> None:
    with pytest.raises(LhcnetError, match=message):
        read(names)


def test_stores_without_executions(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    with pytest.raises(LhcnetError, match="does not exist"):
        read([])
    assert not file.exists()
    shutil.copy(empty_database, file)
    open_client()
    with pytest.raises(LhcnetError, match="'lhcnet' in MLflow has no executions yet"):
        read([])
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    with pytest.raises(LhcnetError, match="has no experiment 'other'"):
        read([])
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(LhcnetError, match=r"MLflow at http://127\.0\.0\.1:9: .*refused"):
        read([])


def test_interface_is_started_for_a_store_and_its_views_are_said(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(interface.os, "execv", lambda _, command: started.append(command))
    said: list[str] = []
    interface.open_interface(5017, said.append)
    assert [line for line in said if "viewStateShareKey=lhcnet-sets" in line and "127.0.0.1:5017" in line]
    assert [line for line in said if "viewStateShareKey=lhcnet-standalone" in line]
    assert started[0][2:] == ["mlflow", "ui", "--backend-store-uri", store, "--port", "5017"]


def test_interface_of_a_server_is_named_and_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def get_experiment(self, _: str) -> object:
            return type("Experiment", (), {"tags": {"mlflow.sharedViewState.lhcnet-sets": "{}"}})

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example/")
    monkeypatch.setattr(interface, "open_client", lambda _: (Client(), "3"))
    monkeypatch.setattr(interface.os, "execv", lambda *_: pytest.fail("started"))
    said: list[str] = []
    interface.open_interface(5000, said.append)
    assert "https://mlflow.example; nothing was started" in said[0]
    assert "https://mlflow.example/#/experiments/3/runs" in said[1]
    assert "secret" not in "".join(said)
