"""Addresses of MLflow: what is shown of them, where the default store lies, and which can never work."""

from __future__ import annotations

from pathlib import Path

import pytest

from lhcnet.errors import LhcnetError
from lhcnet.tracking.folder import pending_journals
from lhcnet.tracking.journal import Execution, journaled
from lhcnet.tracking.store import mlflow_errors, open_client
from lhcnet.tracking.target import LastingError, default_uri, lasting_problem, mask, without_secrets


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:p@ss@db:5432/mlflow?sslpassword=x", "postgresql://db:5432/mlflow"),
        ("postgresql://mlflow:s3cr/et@db/mlflow", "postgresql://db/mlflow"),
        ("postgresql+psycopg2://mlflow:s3%2Fcr#et@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("mysql://me:pw@db/mlflow?ssl_key=s3cret", "mysql://db/mlflow"),
        ("mssql+pyodbc://me:s;3?c@db:1433/mlflow", "mssql+pyodbc://db:1433/mlflow"),
        ("http://me:s3;cret@server:5000/path", "http://server:5000/path"),
        ("https://token@server/path", "https://server/path"),
        ("http://server/#token", "http://server/"),
        ("http://server/path;jsessionid=s", "http://server/path"),
        ("http://me:s3/cret@server:5000", "http://***"),  # "me" may be the server's name
        ("http://me:s3?cret@server:5000", "http://***"),
        ("http://server/?token=x@y", "http://***"),
        ("me:s3cret@server:5000", "***"),
        ("localhost:5000", "localhost:5000"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
        ("sqlite:////data/mlflow.db?key=s3cret", "sqlite:////data/mlflow.db"),
    ],
)
def test_what_is_shown_of_an_address_holds_no_secret(uri: str, shown: str) -> None:
    assert without_secrets(uri) == shown
    assert uri == shown or uri not in mask(f"cannot connect to {uri}", uri)


@pytest.mark.parametrize("password", ["s3cr/et42", "s3cr#et42", "s3cr;et42", "s3cr?et42", "s3cr%25et42", "s3cr@et42"])
@pytest.mark.parametrize("scheme", ["http", "https", "postgresql+psycopg", "mysql+pymysql"])
def test_no_piece_of_a_password_is_in_a_message(password: str, scheme: str) -> None:
    uri = f"{scheme}://me:{password}@server/db"
    pieces = ("s3cr", "et42")
    assert not [piece for piece in pieces if piece in without_secrets(uri)]
    message = f"failed for {uri}: no host {password[4:]}, no port s3cr in {uri.partition(':')[2]}"
    with pytest.raises(LhcnetError) as error, mlflow_errors(uri):
        raise ValueError(message)
    assert not [piece for piece in pieces if piece in str(error.value)]
    assert error.value.__cause__ is None


@pytest.mark.parametrize("name", ["q?mark", "p%20c", "a b", "a#b;c@d", "ü+&="])
def test_the_store_is_in_the_project_whatever_its_name(
    name: str, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / name
    project.mkdir()
    (project / "mlflow.db").write_bytes(empty_database.read_bytes())
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(project)
    client, experiment = open_client()
    assert client.get_experiment(experiment).artifact_location == (project / "mlartifacts").as_uri()
    run = client.create_run(experiment).info.run_id
    (project / "file").write_text("x")
    client.log_artifact(run, str(project / "file"))
    assert [path.name for path in (project / "mlartifacts").rglob("file")] == ["file"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", default_uri())
    assert default_uri() == without_secrets(default_uri())


def test_only_leftovers_of_our_own_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlflow.db.new", "mlflow.db.new-journal", "mlflow.db.new-backup", "mlflow.db.newer"):
        (tmp_path / name).write_text("x")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    open_client()
    kept = {"mlflow.db", "mlflow.db.lock", "mlflow.db.new-backup", "mlflow.db.newer"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_link_whose_target_is_missing_is_no_new_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").symlink_to(tmp_path / "not-mounted" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(LastingError, match=r"mlflow\.db: is a link to .*not-mounted"):
        open_client()
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("localhost:5999", "http://HOST:PORT"),
        ("ftp://server", "http://HOST:PORT"),
        ("./mlruns", "MLFLOW_ALLOW_FILE_STORE=true"),
        ("127.0.0.1:5000", "http://HOST:PORT"),
        ("file:///data/mlruns", "MLFLOW_ALLOW_FILE_STORE=true"),
        ("mssql+nodriver://db/mlflow", "not the URI of a database"),
        ("postgresql://db:port/mlflow", "not the URI of a database"),
        ("oracle://db/mlflow", "does not support"),
    ],
)
def test_what_can_never_work_is_said_at_the_start_and_the_journal_is_kept(
    uri: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert remedy in lasting_problem(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "j"))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "300")
    with journaled(Execution("demo", "d" * 64), "prepare", tags={}):
        (said,) = [record.getMessage() for record in caplog.records]
    assert remedy in said
    assert len(pending_journals(tmp_path / "j")) == 1
    assert len(caplog.records) == 1


def test_a_driver_that_is_not_installed_is_one_clause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg2", None)
    problem = lasting_problem("postgresql+psycopg2://me:s3cret@db/mlflow")
    assert "pip install psycopg2-binary" in problem
    assert "s3cret" not in problem
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://me:s3cret@db/mlflow")
    with pytest.raises(LastingError, match="psycopg2"):
        open_client()


@pytest.mark.parametrize("uri", ["http://server", "https://server", "databricks", "sqlite://", "sqlite:///x.db"])
def test_what_can_work_is_no_problem(uri: str) -> None:
    assert lasting_problem(uri) == ""


def test_a_deleted_experiment_is_said_with_the_command_that_restores_it(tracking: str) -> None:
    client, experiment = open_client()
    client.delete_experiment(experiment)
    with pytest.raises(LastingError, match=f"mlflow experiments restore -x {experiment}.*MLFLOW_EXPERIMENT_NAME"):
        open_client()


def test_a_long_message_keeps_its_end() -> None:
    with pytest.raises(LhcnetError, match=r"begin.*the remedy$"), mlflow_errors("http://server"):
        raise ValueError("begin" + "x" * 100_000 + "the remedy")
