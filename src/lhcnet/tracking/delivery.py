"""Delivery of journals to MLflow: by the writer process while a step runs, by `register`, and by the replay.

`deliver` is the only way in which a journal gets there. Entries are written in order, the position after each is saved
next to the journal, and writing an entry twice changes nothing: after any interruption, delivering again gives the same
record. A journal that is written completely is removed. Journals of an execution are written in the order in which
their steps began: a later step adds to runs that earlier ones made.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lhcnet.errors import LhcnetError
from lhcnet.runtime import end_with_parent, tune_gc
from lhcnet.tracking.journal import ENTRIES, PARENT, StepRun
from lhcnet.tracking.mlflow_runs import ExecutionRuns, made_by, mlflow_errors, open_client, write_entry
from lhcnet.tracking.target import TrackingTarget, default_uri, without_secrets
from lhcnet.tracking.writer_process import PROBLEM, wait_limit

log = logging.getLogger("lhcnet")

POSITION, LOCK = "position.json", "lock"
_LAST_CALL = 10.0  # seconds that a call of MLflow may take after the step's end and the time to wait
POLL, RETRY = 0.1, 0.5  # seconds until the journal is read again; until MLflow is asked again after a failure


def deliver(folder: Path, patience: float | None = None) -> int:
    """Write a journal to MLflow, after those of earlier ended steps of the same execution.

    Args:
        folder: the journal.
        patience: None: one attempt at what the journal has now. A number: go on until the step has ended and everything
            is written; after the step's end, try again for so many seconds while MLflow fails.

    Returns:
        the number of entries that were written.

    Raises:
        LhcnetError: MLflow does not take it, or another process is writing it.
    """
    delivery, deadline = None, math.inf
    try:
        while True:
            try:
                if delivery is None:
                    _deliver_earlier(folder)
                    delivery = Delivery(folder)
                if delivery.write_new_entries() or patience is None:
                    return delivery.written
                pause = POLL
            except LhcnetError as error:
                try:
                    (folder / PROBLEM).write_text(f"{error}\n", encoding="utf-8")
                except FileNotFoundError:
                    raise
                except OSError:  # a full disk: the position cannot be saved either
                    raise error from None
                if patience is not None and not running(folder):
                    deadline = min(deadline, time.monotonic() + patience)
                if patience is None or time.monotonic() > deadline:
                    raise
                pause = RETRY
            time.sleep(pause)
    except FileNotFoundError:
        if folder.exists():
            raise
        return 0  # another process has written and removed it
    finally:
        if delivery:
            delivery.release()


def deliver_now(run: StepRun) -> str:
    """Write what a step that still runs has journaled so far.

    Returns:
        id of its MLflow run.

    Raises:
        LhcnetError: MLflow does not take it.
    """
    deliver(run.journal.folder)
    return str(_saved_position(run.journal.folder)["ids"][run.name])


@dataclass(frozen=True)
class Replayed:
    """What the replay did with one journal; `lacking` says why it is not written completely, or is ""."""

    step: str
    execution: str
    entries: int
    lacking: str = ""


def replay(root: Path) -> list[Replayed]:
    """Write all journals of ended steps to MLflow.

    Args:
        root: the folder that holds the journals.

    Returns:
        one result per journal, in the order of their start.
    """
    results: list[Replayed] = []
    incomplete: set[str] = set()  # executions; their later journals have to wait
    for folder in pending_journals(root):
        try:
            begin = _first_entry(folder)
            step, execution = begin["step"], begin["execution"]
            if running(folder):
                results.append(Replayed(step, execution, 0, "its step still runs, and writes it itself"))
            elif execution in incomplete:
                results.append(Replayed(step, execution, 0, "an earlier step of the execution comes first"))
            else:
                results.append(Replayed(step, execution, deliver(folder)))
        except LhcnetError as error:
            incomplete.add(execution)
            results.append(Replayed(step, execution, 0, str(error)))
        except FileNotFoundError:  # another process has just written and removed it
            continue
    return results


def pending_journals(root: Path) -> list[Path]:
    """The journals that are not written completely, in the order of their start."""
    for leftover in root.glob(".*.done"):  # a process was killed while it removed them
        shutil.rmtree(leftover, ignore_errors=True)
    return sorted(path for path in root.glob("[!.]*") if (path / ENTRIES).is_file())


def running(folder: Path) -> bool:
    """Whether the step of a journal still runs: then it holds a lock on the journal."""
    with (folder / ENTRIES).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


class Delivery:
    """A journal that this process writes to MLflow; a lock keeps other processes from writing it.

    Raises:
        LhcnetError: another process is writing it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.written = folder, 0
        self._lock = (folder / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise LhcnetError(f"{folder}: another process is just writing it to MLflow") from None
        self._begin = _first_entry(folder)
        self._runs: ExecutionRuns | None = None
        position = _saved_position(folder)
        self._offset: int = position["offset"]  # bytes of the journal that are written
        self._ids: dict[str, str | None] = position["ids"]  # by run; None: its entries are left out

    def release(self) -> None:
        """Let other processes write the journal."""
        self._lock.close()

    def write_new_entries(self) -> bool:
        """Write the entries that were added since the last call.

        Returns:
            True if the step has ended and all is written; then the journal is removed.

        Raises:
            LhcnetError: MLflow does not take an entry.
        """
        ended = not running(self.folder)  # asked before reading, so that no entry can follow
        uri = _uri_with_secrets(self._begin)
        with mlflow_errors(uri):
            runs = self._runs = self._runs or self._connect(uri)
            for entry in self._new_entries():
                self._write(runs, entry)
                if entry["do"] == "close":
                    self._remove()
                    return True
            if ended:  # without an entry `close`: the step was killed
                last_entry = int((self.folder / ENTRIES).stat().st_mtime * 1000)
                self._close(runs, "KILLED", last_entry)
                self._remove()
        return ended

    def _connect(self, uri: str) -> ExecutionRuns:
        target = TrackingTarget(uri, self._begin["experiment"], self._begin["experiment_id"])
        client, experiment = open_client(target)
        lock = self.folder.parent / "parent.lock"
        return ExecutionRuns(client, experiment, self._begin["execution"], self.folder.name, lock)

    def _new_entries(self) -> Iterator[dict[str, Any]]:
        with (self.folder / ENTRIES).open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # a part of an entry: the rest follows, or its step was killed
                    return
                try:
                    entry = json.loads(line)
                except ValueError:  # the disk was full
                    log.warning("%s: an entry is damaged and is left out: %r", self.folder, line[:80])
                else:
                    yield entry
                self._offset += len(line)
                self.written += 1
                self._save_position()

    def _save_position(self) -> None:
        new = self.folder / f"{POSITION}.new"
        new.write_text(json.dumps({"offset": self._offset, "ids": self._ids}), encoding="utf-8")
        new.rename(self.folder / POSITION)

    def _write(self, runs: ExecutionRuns, entry: dict[str, Any]) -> None:
        do, name, at = entry["do"], entry["run"], entry["at"]
        if do == "begin":
            return
        if do == "open":
            self._open(runs, name, entry)
            return
        if do == "close":
            self._close(runs, entry["status"], at)
            return
        run_id = self._parent_id(runs, at) if name == PARENT else self._ids.get(name)
        if run_id and not (do == "end" and self._begin["injected"]):
            write_entry(runs.client, run_id, entry, self.folder)

    def _open(self, runs: ExecutionRuns, name: str, entry: dict[str, Any]) -> None:
        """Find or make the run of an entry `open`; `journal.Mode` says how."""
        mode, at, injected = entry["mode"], entry["at"], self._begin["injected"]
        run = None if mode == "own" else runs.find(name)
        if mode == "restore" and run and made_by(run) != self.folder.name:
            self._ids[name] = None
            return
        if injected and (mode == "own" or (mode == "keep" and (run is None or run.info.run_id == injected))):
            run = runs.adopt(injected, name)
            self._ids[PARENT] = run.data.tags.get("mlflow.parentRunId") or injected
        elif run is None:
            make = runs.replace if mode == "own" else runs.make
            run = make(name, at, self._parent_id(runs, at))
        run_id = self._ids[name] = run.info.run_id
        self._save_position()
        is_new = made_by(run) == self.folder.name or run_id == injected
        tags = entry["tags"] | (entry["of_new"] if is_new else {})
        write_entry(runs.client, run_id, {"do": "tags", "values": tags}, self.folder)

    def _parent_id(self, runs: ExecutionRuns, at: int) -> str:
        """Id of the execution's run, which is made if there is none."""
        if PARENT not in self._ids:
            self._ids[PARENT] = runs.parent(at).info.run_id
            self._save_position()
        return str(self._ids[PARENT])

    def _close(self, runs: ExecutionRuns, status: str, at: int) -> None:
        """End the runs that this journal made, and the execution's run if the step did not finish."""
        if status != "FINISHED" and not self._begin["injected"]:
            runs.client.set_terminated(self._parent_id(runs, at), "FAILED", at)
        own, parent = self._ids.get(self._begin["step"]), self._ids.get(PARENT)
        for run_id in runs.made_by_journal():
            if run_id not in self._ids.values():
                runs.client.delete_run(run_id)  # the request that made it succeeded, but no answer arrived
            elif run_id != parent:
                runs.client.set_terminated(run_id, status if run_id == own else "FINISHED", at)

    def _remove(self) -> None:
        done = self.folder.with_name(f".{self.folder.name}.done")
        self.folder.rename(done)  # at once; `pending_journals` removes what a killed process leaves of it
        shutil.rmtree(done, ignore_errors=True)


def _deliver_earlier(folder: Path) -> None:
    """Deliver the journals of ended steps of the same execution that began before.

    Raises:
        LhcnetError: one of them cannot be written now.
    """
    mine = _first_entry(folder)
    for other in pending_journals(folder.parent):
        if other.name >= folder.name:
            return
        with suppress(FileNotFoundError):  # another process has just written and removed it
            begin = _first_entry(other)
            if (begin["execution"], begin["uri"]) == (mine["execution"], mine["uri"]) and not running(other):
                try:
                    deliver(other)
                except LhcnetError as error:
                    raise LhcnetError(f"{begin['step']} comes first: {error}") from error


def _first_entry(folder: Path) -> dict[str, Any]:
    with (folder / ENTRIES).open(encoding="utf-8") as file:
        return dict(json.loads(file.readline()))


def _saved_position(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / POSITION).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {"offset": 0, "ids": {}}


def _uri_with_secrets(begin: dict[str, Any]) -> str:
    """The URI of a journal; a user, a password and options are taken from MLFLOW_TRACKING_URI."""
    if not begin["secrets"]:
        return str(begin["uri"])
    if without_secrets(default_uri()) != begin["uri"]:
        raise LhcnetError(f"{begin['uri']} needs a user or options: expected it with them in MLFLOW_TRACKING_URI")
    return default_uri()


def main() -> None:
    """The writer process: deliver the journals whose folders are named on stdin, one a line, until it is closed."""
    tune_gc()
    end_with_parent(signal.SIGKILL, after=wait_limit() + _LAST_CALL)  # a call of MLflow may hang
    logging.getLogger("alembic").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # `deliver` tries again
    for line in sys.stdin:
        try:
            deliver(Path(line.removesuffix("\n")), wait_limit())
        except LhcnetError as error:
            sys.exit(str(error))  # the step may start another process


if __name__ == "__main__":
    main()
