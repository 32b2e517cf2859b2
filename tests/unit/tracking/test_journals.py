"""Journals that are damaged, out of order, incomplete, or written to a server that lost or never had their runs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lhcnet.cli import app
from lhcnet.errors import LhcnetError
from lhcnet.tracking import journal as journal_module
from lhcnet.tracking.delivery import Delivery, deliver
from lhcnet.tracking.folder import (
    ENTRIES,
    FINISHED,
    POSITION,
    RUNNING,
    first_entry,
    next_number,
    pending_journals,
)
from lhcnet.tracking.journal import Execution, journaled
from lhcnet.tracking.replay import NoAnswerError, replay
from lhcnet.tracking.store import open_client
from lhcnet.tracking.target import LastingError

EXECUTION = Execution("demo", "d" * 64)
OLD_NAME = "20200101-000000-000000-prepare-deadbeef"


@pytest.fixture
def root(tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of journals; no writer process."""
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    return tmp_path / "journal"


def one_step(step: str = "prepare", execution: Execution = EXECUTION, epochs: int = 3) -> None:
    with journaled(execution, step, tags={}) as run:
        for epoch in range(epochs):
            run.metrics({"val_accuracy": epoch / 10}, step=epoch)


def rows(database: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def status(database: Path) -> dict[str, str]:
    return dict(rows(database, "select name, status from runs where lifecycle_stage = 'active'"))


def incomplete(database: Path) -> list[str]:
    query = "select r.name from tags t join runs r using (run_uuid) where key = 'record' and value = 'incomplete'"
    return [name for (name,) in rows(database, query)]


def _empty(folder: Path) -> None:
    (folder / ENTRIES).write_bytes(b"")


def _cut(folder: Path) -> None:
    (folder / ENTRIES).write_bytes(b'{"at": 1, "run": "", "do": "beg')


def _other(folder: Path) -> None:
    (folder / ENTRIES).write_bytes(b'{"at": 1}\n')


def _binary(folder: Path) -> None:
    (folder / ENTRIES).write_bytes(b"\xff\x00" * 4000)


def _deep(folder: Path) -> None:
    (folder / ENTRIES).write_bytes(b"[" * 100_000)


def _missing(folder: Path) -> None:
    (folder / ENTRIES).unlink()


def _folder(folder: Path) -> None:
    (folder / ENTRIES).unlink()
    (folder / ENTRIES).mkdir()


def _pipe(folder: Path) -> None:
    (folder / ENTRIES).unlink()
    os.mkfifo(folder / ENTRIES)


@pytest.mark.parametrize("damage", [_empty, _cut, _other, _binary, _deep, _missing, _folder, _pipe])
def test_a_damaged_journal_costs_itself_alone(damage: Any, root: Path, tmp_path: Path) -> None:
    one_step("prepare")
    one_step("train/A/seed-0")
    (good, bad) = pending_journals(root)
    shutil.copytree(good, root / OLD_NAME)
    damage(root / OLD_NAME)
    damage(bad)
    one_step("select/A")
    deliver(pending_journals(root)[-1])  # what a later step's writer and `register` call
    assert {"prepare", "select A"} < set(status(tmp_path / "mlflow.db"))
    results = list(replay(root))
    assert [one.step for one in results] == ["damaged", "damaged"]
    assert all(str(root) in one.lacking and "remove" in one.lacking for one in results)


def test_an_entry_that_is_damaged_is_left_out_and_the_run_says_so(root: Path, tmp_path: Path) -> None:
    one_step()
    (folder,) = pending_journals(root)
    lines = (folder / ENTRIES).read_text().splitlines(keepends=True)
    bad = ['{"do": "metrics"}\n', "[]\n", '{"at":1,"run":"prepare","do":"dance"}\n', "{\n"]
    bad += ['{"at":1,"run":"prepare","do":"file","file":"../../../etc/passwd","folder":"."}\n']
    (folder / ENTRIES).write_text("".join(lines[:3] + bad + lines[3:]))
    assert [one.lacking for one in replay(root)] == [""]
    assert status(tmp_path / "mlflow.db")["prepare"] == "FINISHED"
    assert incomplete(tmp_path / "mlflow.db") == ["prepare"]
    assert rows(tmp_path / "mlflow.db", "select count(*) from metrics") == [(3,)]


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'x'", name="x"), RuntimeError("odd"), KeyError(1)]
)
def test_any_exception_of_mlflow_is_a_sentence_about_one_journal(
    error: Exception, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_step("prepare")
    one_step("prepare", Execution("other", "d" * 64))
    connect = Delivery._connect

    def fail(self: Delivery) -> Any:
        if "demo" in self._begin.execution:
            raise error
        return connect(self)

    monkeypatch.setattr(Delivery, "_connect", fail)
    first, second = replay(root)
    assert "MLflow at sqlite" in first.lacking
    assert "\n" not in first.lacking
    assert second.lacking == ""


def test_the_order_does_not_depend_on_the_clock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / OLD_NAME).mkdir(parents=True)
    for step, year in (("a", 2030), ("b", 2010), ("c", 2020)):

        class Clock(journal_module.datetime):
            @classmethod
            def now(cls, tz: Any = None, year: int = year) -> Any:
                return cls(year, 1, 1, tzinfo=tz)

        monkeypatch.setattr(journal_module, "datetime", Clock)
        monkeypatch.setattr(journal_module.time, "time", lambda year=year: year * 3e7)
        one_step(step)
    (root / "sequence").unlink()  # a power cut: the journals have their numbers
    one_step("d")
    (root / "sequence").write_text("damaged")
    one_step("e")
    old, *others = pending_journals(root)
    assert old.name == OLD_NAME
    assert [first_entry(folder).step for folder in others] == ["a", "b", "c", "d", "e"]
    assert next_number(root) == 6


def test_the_first_entry_is_on_the_disk_before_others_see_the_journal(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted(handle: int) -> None:
        events.append("fsync " + Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def renamed(self: Path, target: Path) -> Path:
        events.append(f"rename {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "rename", renamed)
    one_step()
    name = pending_journals(root)[0].name
    assert events == [
        "fsync sequence",
        f"fsync {ENTRIES}",
        f"fsync .{name}",
        f"rename {name}",
        "fsync journal",
        f"rename {FINISHED}",
    ]


@contextmanager
def full_disk(run: Any, room: int) -> Iterator[None]:
    """The journal's file takes `room` more bytes in the block."""

    class Full:
        left = room

        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: bytes) -> int:
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = self._file.write(data[: self.left])
            self.left -= written
            return int(written)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    file = run.journal._file
    run.journal._file = Full(file)
    try:
        yield
    finally:
        run.journal._file = file


def test_a_disk_that_fills_up_in_mid_step_is_no_death(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with full_disk_until_the_end():
        one_step()
    assert [one.lacking for one in replay(root)] == [""]
    assert status(tmp_path / "mlflow.db")["prepare"] == "FINISHED"
    assert set(status(tmp_path / "mlflow.db").values()) == {"FINISHED", "RUNNING"}  # the execution goes on
    assert incomplete(tmp_path / "mlflow.db") == ["prepare"]
    assert len([record for record in caplog.records if "No space left" in record.getMessage()]) == 1


@contextmanager
def full_disk_until_the_end() -> Iterator[None]:
    def fail(self: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module.Journal, "_write", fail)
        yield


@pytest.mark.parametrize("room", [0, 1, 70, 150])
def test_entries_that_a_full_disk_did_not_take_are_written_when_it_has_room(
    room: int, root: Path, tmp_path: Path
) -> None:
    with journaled(EXECUTION, "prepare", tags={}) as run:
        run.metrics({"val_accuracy": 0.0}, step=0)
        with full_disk(run, room):
            run.metrics({"val_accuracy": 0.1}, step=1)
            run.metrics({"val_accuracy": 0.2}, step=2)
        run.metrics({"val_accuracy": 0.3}, step=3)
    assert [one.lacking for one in replay(root)] == [""]
    assert rows(tmp_path / "mlflow.db", "select step, value from metrics order by step") == [
        (step, step / 10) for step in range(3)
    ] + [(3, 0.3)]
    assert incomplete(tmp_path / "mlflow.db") == []


def test_an_artifact_that_a_full_disk_did_not_take_makes_the_record_incomplete(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "report.csv").write_text("a\n")
    with journaled(EXECUTION, "prepare", tags={}) as run, monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", fail)
        run.file(tmp_path / "report.csv")
    assert [one.lacking for one in replay(root)] == [""]
    assert incomplete(tmp_path / "mlflow.db") == ["prepare"]
    assert status(tmp_path / "mlflow.db")["prepare"] == "FINISHED"


def test_a_killed_step_is_killed(root: Path, tmp_path: Path) -> None:
    one_step()
    (folder,) = pending_journals(root)
    lines = (folder / ENTRIES).read_text().splitlines(keepends=True)
    (folder / ENTRIES).write_text("".join(lines[:-1]))
    (folder / FINISHED).rename(folder / RUNNING)
    assert [one.lacking for one in replay(root)] == [""]
    assert status(tmp_path / "mlflow.db")["prepare"] == "KILLED"
    assert incomplete(tmp_path / "mlflow.db") == []


def test_a_full_disk_at_the_start_is_an_error_that_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    root.mkdir()
    next_number(root)
    monkeypatch.setattr(journal_module.os, "fsync", fail)
    with pytest.raises(LhcnetError, match=r"cannot hold the journal.*No space left"):
        one_step()
    assert [path.name for path in root.iterdir()] == ["sequence"]


@pytest.mark.parametrize("lost", ["all", "runs", "metrics"])
def test_a_server_that_came_back_without_its_rows_gets_the_journal_anew(lost: str, root: Path, tmp_path: Path) -> None:
    """Its database is empty, or restored: runs or points of it are missing."""
    database = tmp_path / "mlflow.db"
    one_step()
    (folder,) = pending_journals(root)
    whole = (folder / ENTRIES).read_bytes()
    lines = whole.splitlines(keepends=True)
    empty = tmp_path / "empty.db"
    shutil.copy(database, empty)
    (folder / ENTRIES).write_bytes(b"".join(lines[:4]))
    delivery = Delivery(folder)
    assert not delivery._write_lines(delivery._connect())
    delivery.release()
    assert json.loads((folder / POSITION).read_text())["offset"] > 0
    (folder / ENTRIES).write_bytes(whole)
    if lost == "all":
        shutil.copy(empty, database)
    else:
        with closing(sqlite3.connect(database)) as connection, connection:
            tables = (
                ("metrics", "latest_metrics")
                if lost == "metrics"
                else ("metrics", "latest_metrics", "tags", "params", "runs")
            )
            for table in tables:
                connection.execute(f"delete from {table}")
    assert [one.lacking for one in replay(root)] == [""]
    assert rows(database, "select step, value from metrics order by step") == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert sorted(status(database)) == ["demo-dddddddd", "prepare"]


def test_a_run_that_vanishes_between_two_entries_is_made_again(root: Path, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with journaled(EXECUTION, "prepare", tags={}) as run:
        run.metrics({"val_accuracy": 0.0}, step=0)
        delivery = Delivery(run.journal.folder)
        assert not delivery.write_new_entries()
        with closing(sqlite3.connect(database)) as connection, connection:
            for table in ("metrics", "latest_metrics", "tags", "params", "runs"):
                connection.execute(f"delete from {table}")
        run.metrics({"val_accuracy": 0.1}, step=1)
        assert not delivery.write_new_entries()
    assert delivery.write_new_entries()
    delivery.release()
    assert rows(database, "select step, value from metrics order by step") == [(0, 0.0), (1, 0.1)]


def test_an_earlier_step_that_is_written_later_keeps_what_was_added_to_its_run(root: Path, tmp_path: Path) -> None:
    one_step("train/A/seed-0")
    with journaled(EXECUTION, "select/A", tags={}) as run:
        run.other("train/A/seed-0", {"kept": True})
    first, second = pending_journals(root)
    first.rename(tmp_path / "aside")
    deliver(second)
    (tmp_path / "aside").rename(first)
    deliver(first)
    client, experiment = open_client()
    (found,) = [run for run in client.search_runs([experiment]) if run.info.run_name == "A seed 0"]
    assert found.data.tags["kept"] == "True"
    assert found.data.metrics["val_accuracy"] == 0.2
    assert found.info.status == "FINISHED"


def test_a_journal_that_mlflow_refuses_for_ever_does_not_stop_the_others(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_step("prepare")
    one_step("train/A/seed-0")
    refused, _ = pending_journals(root)
    write = Delivery._write

    def fail(self: Delivery, *arguments: Any) -> None:
        if self.folder == refused:
            raise LastingError("refused")
        write(self, *arguments)

    monkeypatch.setattr(Delivery, "_write", fail)
    one_step("select/A")
    deliver(pending_journals(root)[-1])
    assert pending_journals(root) == [refused]
    assert [one.lacking for one in replay(root)] == ["refused"]


def test_a_server_that_did_not_answer_in_time_is_not_asked_again(root: Path) -> None:
    for name in "ab":
        one_step("prepare", Execution(name, "d" * 64))
    asked: list[Path] = []

    def silent(folder: Path) -> int:
        asked.append(folder)
        raise NoAnswerError("no answer")

    first, second = replay(root, silent)
    assert (first.lacking, len(asked)) == ("no answer", 1)
    assert "did not answer in time" in second.lacking


def test_the_address_of_the_environment_wins_in_the_replay(
    root: Path, tmp_path: Path, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5999")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)  # of that server
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    one_step()
    monkeypatch.delenv("MLFLOW_RUN_ID")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    result = CliRunner().invoke(app, ["tracking", "replay"])
    assert result.exit_code == 0, result.output
    assert "MLFLOW_TRACKING_URI" in result.output
    assert "localhost:5999" in result.output
    assert status(tmp_path / "mlflow.db")["prepare"] == "FINISHED"


@pytest.mark.parametrize("what", ["missing", "file", "journal"])
def test_a_replay_of_what_is_not_there_is_an_error(what: str, root: Path, tmp_path: Path) -> None:
    one_step()
    (journal,) = pending_journals(root)
    (tmp_path / "file").write_text("")
    folder = {"missing": tmp_path / "no-such", "file": tmp_path / "file", "journal": journal}[what]
    result = CliRunner().invoke(app, ["tracking", "replay", str(folder)])
    assert result.exit_code == 1
    assert isinstance(result.exception, LhcnetError)
    assert str(folder) in str(result.exception)
    assert pending_journals(root) == [journal]


def test_only_what_a_replay_left_is_removed(root: Path) -> None:
    one_step()
    (journal,) = pending_journals(root)
    for name in (f".{journal.name}.done", ".backup.done", "notes"):
        (root / name).mkdir()
    assert pending_journals(root) == [journal]
    assert {path.name for path in root.iterdir()} == {journal.name, ".backup.done", "notes", "sequence"}


def test_a_journal_waits_for_an_earlier_one_that_another_process_writes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_step("prepare")
    one_step("select")
    first, second = pending_journals(root)
    other = Delivery(first)
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    with pytest.raises(LhcnetError, match=r"prepare comes first: .* another process is just writing it"):
        deliver(second)
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "60")

    def finished() -> None:
        time.sleep(0.3)
        other.release()

    ending = threading.Thread(target=finished)
    ending.start()
    deliver(second)
    ending.join()
    assert not pending_journals(root)
    assert status(tmp_path / "mlflow.db").keys() >= {"prepare", "select"}
