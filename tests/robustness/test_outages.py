"""MLflow that is down, killed, hanging or locked: the step continues and the record is completed. A real server."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.outage import (
    EXECUTION,
    NAME,
    STEP,
    UNTOUCHED,
    Server,
    Step,
    entries,
    lacking,
    one_epoch_written,
    points,
    record,
)
from typer.testing import CliRunner

from lhcnet.cli import app
from lhcnet.errors import LhcnetError
from lhcnet.tracking.delivery import Delivery, deliver
from lhcnet.tracking.folder import ENTRIES, FINISHED, POSITION, RUNNING, pending_journals, running
from lhcnet.tracking.journal import Execution, Journal, StepRun, journaled
from lhcnet.tracking.replay import replay
from lhcnet.tracking.store import open_client
from lhcnet.tracking.target import without_secrets

PATIENCE, LONG = 0.5, 300  # seconds at the end of a step: where MLflow does not come back meanwhile, and where it does


@pytest.fixture(scope="module")
def server(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests, which leave it running or not."""
    server = Server(tmp_path_factory.mktemp("server"))
    shutil.copy(empty_database, server.database)
    yield server
    server.kill()


@pytest.fixture
def up(server: Server) -> Server:
    """The server, running and with an empty record."""
    server.start()
    server.forget()
    return server


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def assert_warned(printed: str, warned: str, journals: Path) -> None:
    assert printed == UNTOUCHED
    assert warned.count("\n") == 0
    assert str(pending_journals(journals)[0]) in warned
    assert "lhcnet tracking replay" in warned


def assert_replay_completes(journals: Path, database: Path, artifacts: Path) -> None:
    """The record is complete after the first replay and the same after more, even of a journal that came back."""
    (journal,) = pending_journals(journals)
    said = [(entry["step"], entry["at"]) for entry in entries(journal) if entry.get("step") in (0, 1, 2)]
    copy = journals.parent / "copy"
    shutil.copytree(journal, copy)

    assert [one.lacking for one in replay(journals)] == [""]
    assert lacking(database, artifacts) == []
    assert [(step, at) for _, step, _, at in points(database)] == said
    first = record(database, artifacts)
    assert list(replay(journals)) == []
    assert record(database, artifacts) == first
    for position in (True, False):  # as it was, and as if nothing of it had been written
        shutil.copytree(copy, journal)
        if not position:
            (journal / POSITION).unlink(missing_ok=True)
        assert [one.lacking for one in replay(journals)] == [""]
        assert record(database, artifacts) == first


def test_down_at_start(server: Server, tmp_path: Path) -> None:
    server.kill()
    step = Step(tmp_path, server.uri, PATIENCE)
    assert_warned(*step.go_to_the_end(), step.journals)
    assert step.process.returncode == 0
    server.start()
    server.forget()
    assert_replay_completes(step.journals, server.database, server.artifacts)


def test_killed_in_mid_run_and_back_later(up: Server, tmp_path: Path) -> None:
    step = one_epoch_written(up, tmp_path, PATIENCE)
    up.kill()
    assert_warned(*step.go_to_the_end(since=0), step.journals)
    assert step.process.returncode == 0
    up.start()
    assert len(points(up.database)) < 3
    assert_replay_completes(step.journals, up.database, up.artifacts)


def test_slow(up: Server, tmp_path: Path) -> None:
    """Hangs while an epoch is logged, and answers before the step has ended."""
    step = one_epoch_written(up, tmp_path, LONG)
    with up.hanging():
        step.go()
        step.until(1)
    assert step.go_to_the_end(since=1) == (UNTOUCHED, "")
    assert lacking(up.database, up.artifacts) == []
    assert pending_journals(step.journals) == []


def test_hanging(up: Server, tmp_path: Path) -> None:
    step = one_epoch_written(up, tmp_path, PATIENCE)
    with up.hanging():
        assert_warned(*step.go_to_the_end(since=0), step.journals)
        assert step.process.returncode == 0
    assert_replay_completes(step.journals, up.database, up.artifacts)


def test_a_step_that_is_killed_is_entered_as_killed_and_its_repetition_replaces_it(up: Server, tmp_path: Path) -> None:
    step = Step(tmp_path, up.uri, LONG)
    step.until(0)
    step.process.kill()
    step.process.wait()
    while pending_journals(step.journals):
        time.sleep(0.02)
    assert [p[:2] for p in points(up.database)] == [("val_accuracy", 0)]
    with closing(sqlite3.connect(up.database)) as connection:
        states = dict(connection.execute("select name, status from runs"))
    assert sorted(states.values()) == ["FAILED", "KILLED"]
    assert states[NAME] == "KILLED"

    again = Step(tmp_path, up.uri, LONG)
    assert again.go_to_the_end() == (UNTOUCHED, "")
    assert lacking(up.database, up.artifacts) == []


def test_a_writer_that_is_killed_is_followed_by_another(up: Server, tmp_path: Path) -> None:
    step = one_epoch_written(up, tmp_path, LONG)
    step.kill_writer()
    assert step.go_to_the_end(since=0) == (UNTOUCHED, "")
    assert lacking(up.database, up.artifacts) == []
    assert pending_journals(step.journals) == []


def test_a_later_step_adds_to_the_run_that_an_earlier_one_still_owes(
    up: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", up.uri)
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    execution = Execution("demo", "d" * 64)
    with journaled(execution, STEP, tags={}) as run:
        run.metrics({"val_accuracy": 0.5}, step=0)
    with journaled(execution, "select/A", tags={}) as run:
        run.other(STEP, {"restored": "from files"}, "restore").metrics({"val_accuracy": 0.5}, step=0)
        run.other(STEP, {"kept": True})
    first, second = pending_journals(tmp_path)
    deliver(second)  # the first journal comes first
    assert pending_journals(tmp_path) == []
    assert [p[:3] for p in points(up.database)] == [("val_accuracy", 0, 0.5)]
    with closing(sqlite3.connect(up.database)) as connection:
        tags = dict(connection.execute("select key, value from tags join runs using (run_uuid) where name = ?", [NAME]))
    assert tags["kept"] == "True"
    assert tags["lhcnet.journal"] == first.name
    assert "restored" not in tags


def test_no_secret_is_kept_and_the_environment_brings_it_back(
    up: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_user = up.uri.replace("//", "//somebody:s3cret@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", with_user)
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    with journaled(Execution("demo", "d" * 64), STEP, tags={}) as run:
        run.metrics({"val_accuracy": 0.5}, step=0)
    (journal,) = pending_journals(tmp_path)
    assert entries(journal)[0]["uri"] == up.uri
    assert not [file for file in journal.rglob("*") if file.is_file() and b"s3cret" in file.read_bytes()]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (one,) = replay(tmp_path)
    assert "MLFLOW_TRACKING_URI" in one.lacking
    monkeypatch.setenv("MLFLOW_TRACKING_URI", with_user)
    assert [one.lacking for one in replay(tmp_path)] == [""]
    assert len(points(up.database)) == 1


def test_what_is_said_of_a_uri_holds_no_secret() -> None:
    assert without_secrets("postgresql://me:p@ss@db:5432/mlflow?sslpassword=x") == "postgresql://db:5432/mlflow"
    assert without_secrets("sqlite:////data/a@b/mlflow.db") == "sqlite:////data/a@b/mlflow.db"


def test_a_locked_database(tracking: str, tmp_path: Path) -> None:
    database = Path(tracking.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(database)) as other:
        other.execute("begin exclusive")
        step = Step(tmp_path / "step", tracking, PATIENCE)
        assert_warned(*step.go_to_the_end(), step.journals)
        assert step.process.returncode == 0
        other.rollback()
    assert_replay_completes(step.journals, database, database.parent / "mlartifacts")


def test_two_steps_at_once_on_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    both = [Step(tmp_path, f"sqlite:///{database}", LONG) for _ in range(2)]
    for step in both:
        assert step.go_to_the_end() == (UNTOUCHED, "")
    with closing(sqlite3.connect(database)) as connection:
        query = "select name, count(*) from runs where lifecycle_stage = 'active' group by name"
        runs = dict(connection.execute(query))
    assert runs[EXECUTION] == 1


def test_killed_while_the_store_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow takes seconds to make its tables, and would refuse what half of them make."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    lethal = "from mlflow.store.db import utils; utils._upgrade_db = lambda _: os.kill(os.getpid(), signal.SIGKILL)"
    program = f"import os, signal; {lethal}; from lhcnet.tracking.store import open_client; open_client()"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "mlflow.db.new").stat().st_size > 0
    client, experiment = open_client()
    assert client.get_experiment(experiment).name == "lhcnet"
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_a_step_that_does_not_wait_writes_nothing_and_warns_of_nothing(tracking: str, tmp_path: Path) -> None:
    database = Path(tracking.removeprefix("sqlite:///"))
    step = Step(tmp_path / "step", tracking, 0)
    assert step.go_to_the_end() == (UNTOUCHED, "")
    assert points(database) == []
    assert_replay_completes(step.journals, database, database.parent / "mlartifacts")


def test_replay_leaves_a_running_step_and_a_journal_in_other_hands(
    tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "j"))
    journal = Journal(Execution("demo", "d" * 64), STEP)
    assert running(journal.folder)
    assert "still runs" in next(replay(tmp_path / "j")).lacking
    StepRun(journal, STEP).other(STEP, {}, "own")
    journal.close("FINISHED")
    elsewhere = Delivery(journal.folder)
    assert "another process" in next(replay(tmp_path / "j")).lacking
    elsewhere.release()
    assert [one.lacking for one in replay(tmp_path / "j")] == [""]


def test_half_a_line_is_not_an_entry(tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "j"))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    with journaled(Execution("demo", "d" * 64), STEP, tags={}) as run:
        run.metrics({"val_accuracy": 0.5}, step=0)
    (journal,) = pending_journals(tmp_path / "j")
    lines = (journal / ENTRIES).read_text().splitlines(keepends=True)
    (journal / ENTRIES).write_text("".join(lines[:-1]) + lines[-1][:20])  # killed in the middle of its last entry
    (journal / FINISHED).rename(journal / RUNNING)
    assert [one.lacking for one in replay(tmp_path / "j")] == [""]
    database = Path(tracking.removeprefix("sqlite:///"))
    assert len(points(database)) == 1
    with closing(sqlite3.connect(database)) as connection:
        states = dict(connection.execute("select name, status from runs"))
    assert states[NAME] == "KILLED"


def test_the_command_says_what_it_wrote_and_what_it_could_not(
    tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "j"))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    for uri in (tracking, "http://127.0.0.1:9"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with journaled(Execution(uri[:4], "d" * 64), STEP, tags={}) as run:
            run.metrics({"val_accuracy": 0.5}, step=0)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # each journal goes to its own address
    result = CliRunner().invoke(app, ["tracking", "replay"])
    written, failed = result.output.splitlines()
    assert all(fact in written for fact in ("sqli-dddddddd", STEP, "3 entries"))
    assert all(fact in failed for fact in ("http-dddddddd", STEP, "http://127.0.0.1:9"))
    assert isinstance(result.exception, LhcnetError)
    assert "1 of 2 journals" in str(result.exception)


@pytest.mark.parametrize("seconds", ["soon", "-1", "1e3"])
def test_a_bound_that_is_none_is_said_before_the_step_begins(
    seconds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "j"))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", seconds)
    with (
        pytest.raises(LhcnetError, match=f"LHCNET_TRACKING_WAIT={seconds}: expected seconds"),
        journaled(Execution("demo", "d" * 64), STEP, tags={}),
    ):
        raise AssertionError("must not get here")
    assert not (tmp_path / "j").exists()


def test_a_folder_that_cannot_hold_a_journal_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "file" / "j"))
    with (
        pytest.raises(LhcnetError, match="cannot hold the journal"),
        journaled(Execution("demo", "d" * 64), STEP, tags={}),
    ):
        raise AssertionError("must not get here")
