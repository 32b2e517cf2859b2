"""Faults of the record that do not pass by themselves: said once, while the step computes, and not waited for."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.web import Answer, serve

from lhcnet.tracking.faults import UnknownRunError, as_sentence
from lhcnet.tracking.folder import pending_journals
from lhcnet.tracking.journal import Execution, journaled
from lhcnet.tracking.replay import replay
from lhcnet.tracking.store import mlflow_errors, open_client
from lhcnet.tracking.target import LastingError, lasting_problem

NEWER, OLDER = "f00dfeed1234", "451aebb31d03"


def set_schema(database: Path, version: str) -> str:
    with sqlite3.connect(database) as connection:
        (former,) = connection.execute("select version_num from alembic_version").fetchone()
        connection.execute("update alembic_version set version_num = ?", (version,))
    connection.close()
    return str(former)


def deleted_experiment(_: Path, __: pytest.MonkeyPatch) -> Callable[[], object]:
    client, experiment = open_client()
    client.delete_experiment(experiment)
    return lambda: client.restore_experiment(experiment)


def deleted_experiment_and_another_name(_: Path, patch: pytest.MonkeyPatch) -> Callable[[], object]:
    client, experiment = open_client()
    client.delete_experiment(experiment)
    return lambda: patch.setenv("MLFLOW_EXPERIMENT_NAME", "another")


def newer_schema(database: Path, _: pytest.MonkeyPatch) -> Callable[[], object]:
    former = set_schema(database, NEWER)
    return lambda: set_schema(database, former)


def unknown_experiment(_: Path, patch: pytest.MonkeyPatch) -> Callable[[], object]:
    patch.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    return lambda: patch.setenv("MLFLOW_EXPERIMENT_ID", "0")


FAULTS = {
    deleted_experiment: r"restore it \(`mlflow experiments restore -x 1`\) or name another in MLFLOW_EXPERIMENT_NAME",
    deleted_experiment_and_another_name: "name another in MLFLOW_EXPERIMENT_NAME",
    newer_schema: rf"the schema {NEWER} of a newer MLflow than \S+; install that one",
    unknown_experiment: "4711",
}


@pytest.mark.parametrize(("fault", "remedy"), FAULTS.items(), ids=[fault.__name__ for fault in FAULTS])
def test_a_fault_is_said_while_the_step_computes_and_a_replay_follows_its_repair(
    fault: Callable[[Path, pytest.MonkeyPatch], Callable[[], object]],
    remedy: str,
    tracking: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    repair = fault(tmp_path / "mlflow.db", monkeypatch)
    with journaled(Execution("demo", "d" * 64), "prepare", tags={}) as run:
        until = time.monotonic() + 200
        while not caplog.records and time.monotonic() < until:
            time.sleep(0.05)
        (said,) = [record.getMessage() for record in caplog.records]
        run.metrics({"images": 1.0})
        ended = time.monotonic()
    assert time.monotonic() - ended < 5  # of the 300 s that a step would wait for MLflow
    assert len(caplog.records) == 1
    assert re.search(remedy, said)
    assert "lhcnet tracking replay" in said
    (refused,) = replay(tmp_path / "journal")
    assert re.search(remedy, refused.lacking)
    repair()
    (written,) = replay(tmp_path / "journal")
    assert (written.lacking, written.step) == ("", "prepare")
    assert not pending_journals(tmp_path / "journal")


def test_an_older_schema_is_upgraded_by_a_command(tracking: str, tmp_path: Path) -> None:
    set_schema(tmp_path / "mlflow.db", OLDER)
    expected = f"{OLDER} of an older MLflow than .*`mlflow db upgrade`"
    with pytest.raises(LastingError, match=expected), mlflow_errors(tracking):
        open_client()


ANSWERS = {
    "user": (Answer(b"You are not authenticated.", 401), "MLFLOW_TRACKING_USERNAME"),
    "allowed hosts": (Answer(b"Invalid Host header - possible DNS rebinding attack detected", 403), "--allowed-hosts"),
    "permission": (Answer(b"Permission denied", 403), "right to write"),
}


@pytest.mark.parametrize(("answer", "remedy"), ANSWERS.values(), ids=ANSWERS.keys())
def test_a_server_that_refuses_is_not_waited_for(
    answer: Answer, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "300")
    with serve() as web:
        web.put("/api/2.0/mlflow/experiments/get-by-name", answer)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", web.url)
        started = time.monotonic()
        with journaled(Execution("demo", "d" * 64), "prepare", tags={}):
            pass
    assert time.monotonic() - started < 200  # of 300 s
    (said,) = [record.getMessage() for record in caplog.records]
    assert remedy in said


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ('connection failed: FATAL:  password authentication failed for user "mlflow"', "user and password"),
        ('connection failed: FATAL:  database "mlflow" does not exist', "create it"),
        ("(1045, \"Access denied for user 'me'@'localhost' (using password: YES)\")", "user and password"),
        ("[Errno 13] Permission denied: '/mlflow/artifacts'", "right to write"),
        ("[Errno 30] Read-only file system: '/mlflow'", "right to write"),
        ("(sqlite3.OperationalError) attempt to write a readonly database", "right to write"),
        ("An error occurred (AccessDenied) when calling the PutObject operation: Access Denied", "right to write"),
        ("Unable to locate credentials", "credentials of the artifact store"),
        ("SSLError(1, '[SSL: WRONG_VERSION_NUMBER] wrong version number')", "http://"),
        ("certificate verify failed: [SSL: CERTIFICATE_VERIFY_FAILED]", "MLFLOW_TRACKING_SERVER_CERT_PATH"),
    ],
)
def test_what_needs_a_person_is_lasting_and_has_its_remedy(message: str, remedy: str) -> None:
    sentence = as_sentence(RuntimeError(message), "postgresql://db/mlflow")
    assert isinstance(sentence, LastingError)
    assert not isinstance(sentence, UnknownRunError)
    assert remedy in str(sentence)


@pytest.mark.parametrize(
    "message", ["[Errno 111] Connection refused", "too many 503 error responses", "database is locked", "timed out"]
)
def test_what_may_pass_is_waited_for(message: str) -> None:
    assert not isinstance(as_sentence(RuntimeError(message), "http://server"), LastingError)


@pytest.fixture
def as_somebody() -> Iterator[Path]:
    """A folder of another user than root, as that user: root may write everywhere."""
    folder, root = Path(tempfile.mkdtemp()), os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_cannot_be_written_is_said(exists: bool, as_somebody: Path) -> None:
    if exists:
        sqlite3.connect(as_somebody / "mlflow.db").close()
        (as_somebody / "mlflow.db").touch()
    as_somebody.chmod(0o500)
    problem = lasting_problem(f"sqlite:///{as_somebody}/mlflow.db")
    assert "permission denied" in problem
    assert str(as_somebody) in problem


def test_a_file_that_cannot_be_written_is_said(as_somebody: Path) -> None:
    (as_somebody / "mlflow.db").touch(0o400)
    assert "mlflow.db: permission denied" in lasting_problem(f"sqlite:///{as_somebody}/mlflow.db")


def test_a_folder_that_cannot_be_entered_is_said(as_somebody: Path) -> None:
    (as_somebody / "closed").mkdir(0o000)
    assert "ermission denied" in lasting_problem(f"sqlite:///{as_somebody}/closed/in/mlflow.db")


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    assert "is no SQLite database" in lasting_problem(f"sqlite:///{tmp_path}/mlflow.db")
