"""Delivery of journals to MLflow: by the writer process while a step runs, by `register`, and by the replay.

`deliver` is the only way in which a journal gets there. Entries are written in order, the position after each is saved
next to the journal, and writing an entry twice changes nothing: after any interruption, delivering again gives the same
record. A journal whose delivery was interrupted is written once more from its beginning before it is removed: the
server may have come back with an older database. Journals of an execution are written in the order in which their steps
began: a later step adds to runs that earlier ones made.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lhcnet.errors import LhcnetError
from lhcnet.io.locks import try_lock
from lhcnet.tracking.entries import valid
from lhcnet.tracking.faults import UnknownRunError
from lhcnet.tracking.folder import ENTRIES, POSITION, Begin, ended_as, first_entry, pending_journals, running
from lhcnet.tracking.folder import saved_position as _saved_position
from lhcnet.tracking.journal import PARENT
from lhcnet.tracking.mlflow_runs import WEIGHTS_TAG, ExecutionRuns, link_to, made_by, write_entry
from lhcnet.tracking.store import has_run, mlflow_errors, open_client
from lhcnet.tracking.target import URI_VARIABLE, LastingError, TrackingTarget, default_uri, without_secrets
from lhcnet.tracking.view import show_execution
from lhcnet.tracking.watchdog import WATCHDOG
from lhcnet.tracking.writer_process import PROBLEM, wait_limit

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("lhcnet")

LOCK = "lock"
INCOMPLETE = {"record": "incomplete"}  # tag of a run whose journal lost entries
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
                with suppress(OSError):  # a full disk
                    (folder / PROBLEM).write_text(f"{error}\n", encoding="utf-8")
                if patience is None or isinstance(error, LastingError):
                    raise
                if not running(folder):
                    deadline = min(deadline, time.monotonic() + patience)
                if time.monotonic() > deadline:
                    raise
                pause = RETRY
            time.sleep(pause)
    except FileNotFoundError:
        if folder.exists():
            raise LhcnetError(f"{folder}: {ENTRIES} was removed from it") from None
        return 0  # another process has written and removed it
    finally:
        if delivery:
            delivery.release()


def delivered_run(folder: Path, name: str) -> str:
    """Write what a step that still runs has journaled so far.

    Args:
        folder: the step's journal.
        name: of the run.

    Returns:
        id of its MLflow run.

    Raises:
        LhcnetError: MLflow does not take it.
    """
    delivery = None
    try:
        _deliver_earlier(folder)
        delivery = Delivery(folder)
        delivery.write_new_entries()
        return delivery.run_id(name)
    finally:
        if delivery:
            delivery.release()


def target_of(begin: Begin) -> TrackingTarget:
    """Where a journal is written: what the environment names comes before what stands in the journal.

    Raises:
        LastingError: the address has a user or options, which stand in no journal, and the environment has no address.
    """
    uri = default_uri() if os.environ.get(URI_VARIABLE) else begin.uri
    if begin.secrets and not os.environ.get(URI_VARIABLE):
        raise LastingError(f"{begin.uri} needs a user or options: expected it with them in {URI_VARIABLE}")
    if experiment := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return TrackingTarget(uri, begin.experiment, experiment)
    if experiment := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        return TrackingTarget(uri, experiment, "")
    return TrackingTarget(uri, begin.experiment, "" if moved(begin) else begin.experiment_id)


def moved(begin: Begin) -> bool:
    """Whether the environment names another server than the journal."""
    return bool(os.environ.get(URI_VARIABLE)) and without_secrets(default_uri()) != begin.uri


class BusyError(LhcnetError):
    """Another process is writing the journal."""


class Delivery:
    """A journal that this process writes to MLflow; a lock keeps other processes from writing it.

    Raises:
        LhcnetError: another process is writing it, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.written = folder, 0
        self._begin = first_entry(folder)
        self._target = target_of(self._begin)
        self._injected = self._begin.injected
        try:
            self._lock = (folder / LOCK).open("w")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise LastingError(f"{folder}: expected a folder to write to: {error.strerror}") from None
        if try_lock(self._lock.fileno()) is False:
            self._lock.close()
            raise BusyError(f"{folder}: another process is just writing it to MLflow")
        self._runs: ExecutionRuns | None = None
        position = _saved_position(folder, self._target.uri)
        self._offset: int = position["offset"]  # bytes of the journal that are written
        self._ids: dict[str, str | None] = position["ids"]  # by run; None: its entries are left out
        self._interrupted = self._offset > 0
        self._incomplete = False

    def release(self) -> None:
        """Let other processes write the journal."""
        self._lock.close()

    def run_id(self, name: str) -> str:
        """Id of a run that was written."""
        return str(self._ids[name])

    def write_new_entries(self) -> bool:
        """Write the entries that were added since the last call.

        Returns:
            True if the step has ended and all is written; then the journal is removed.

        Raises:
            LhcnetError: MLflow does not take an entry.
        """
        try:
            return self._write_new_entries()
        except UnknownRunError:  # the server came back with an empty or an older database
            if not self._ids or self._runs is None:
                raise
            self._start_anew()
            with mlflow_errors(self._target.uri), WATCHDOG.call():
                self._forget_unknown_injection(self._runs.client)
            return self._write_new_entries()
        except LhcnetError:
            self._interrupted = True
            raise

    def _write_new_entries(self) -> bool:
        ended = not running(self.folder)  # asked before reading, so that no entry can follow
        with mlflow_errors(self._target.uri):
            runs = self._runs = self._runs or self._connect()
            closed = self._write_lines(runs)
            if (closed or ended) and self._interrupted:
                self._start_anew()
                closed = self._write_lines(runs)
            if not closed and not ended:
                return False
            if not closed:  # the step was killed, or the disk was full at its end
                status = ended_as(self.folder)
                self._incomplete = self._incomplete or status is not None
                last_entry = int((self.folder / ENTRIES).stat().st_mtime * 1000)
                with WATCHDOG.call():
                    if self._begin.step not in self._ids:  # the disk was full from the start
                        blank = {"mode": "keep", "at": last_entry, "tags": {}, "of_new": {}}
                        self._open(runs, self._begin.step, blank)
                    self._close(runs, status or "KILLED", last_entry)
            self._remove()
        return True

    def _write_lines(self, runs: ExecutionRuns) -> bool:
        """Write the new lines; returns whether the entry `close` was among them."""
        for entry in self._new_entries():
            with WATCHDOG.call():
                self._write(runs, entry)
            if entry["do"] == "close":
                return True
        return False

    def _start_anew(self) -> None:
        """Begin with the first entry again: runs that are there are found, the others are made."""
        self._offset, self._ids, self._interrupted = 0, {}, False

    def _connect(self) -> ExecutionRuns:
        with WATCHDOG.call():
            client, experiment = open_client(self._target)
            if moved(self._begin):
                self._forget_unknown_injection(client)
        lock = self.folder.parent / "parent.lock"
        begin = self._begin
        names = begin.execution, self.folder.name
        return ExecutionRuns(client, experiment, *names, lock, begin.kubeflow_run, begin.source)

    def _forget_unknown_injection(self, client: MlflowClient) -> None:
        """Make runs of our own where MLflow does not have the run of MLFLOW_RUN_ID (any more)."""
        if self._injected and not has_run(client, self._injected):
            log.warning("%s: MLflow does not have the run %s", self.folder, self._injected)
            self._injected = None

    def _new_entries(self) -> Iterator[dict[str, Any]]:
        with (self.folder / ENTRIES).open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # a part of an entry: the rest follows, or its step was killed
                    return
                try:
                    entry = valid(json.loads(line), self.folder)
                except (ValueError, RecursionError) as error:
                    log.warning("%s: an entry is damaged and is left out (%s): %r", self.folder, error, line[:80])
                    self._incomplete = True
                else:
                    yield entry
                self._offset += len(line)
                self.written += 1
                self._save_position()

    def _save_position(self) -> None:
        new = self.folder / f"{POSITION}.new"
        uri = without_secrets(self._target.uri)
        with suppress(OSError):  # a full disk: then more is written twice
            new.write_text(json.dumps({"offset": self._offset, "ids": self._ids, "uri": uri}), encoding="utf-8")
            new.rename(self.folder / POSITION)

    def _write(self, runs: ExecutionRuns, entry: dict[str, Any]) -> None:
        do, name, at = entry["do"], entry["run"], entry["at"]
        if do == "begin":
            return
        if do == "open":
            self._open(runs, name, entry)
            return
        if do == "close":
            self._incomplete = self._incomplete or not entry.get("complete", True)
            self._close(runs, entry["status"], at)
            return
        run_id = self._parent_id(runs, at) if name == PARENT else self._ids.get(name)
        if run_id and not (do == "end" and self._injected):
            known = runs.without_known(run_id, entry) if run_id == self._injected else entry
            write_entry(runs.client, run_id, known, self.folder)
            if do == "params" and (parent := self._ids.get(PARENT)):
                show_execution(runs.client, runs.experiment, entry["values"], parent)

    def _open(self, runs: ExecutionRuns, name: str, entry: dict[str, Any]) -> None:
        """Find or make the run of an entry `open`; `journal.Mode` says how."""
        mode, at, injected = entry["mode"], entry["at"], self._injected
        run = None if mode == "own" else runs.find(name)
        if mode == "restore" and run and made_by(run) != self.folder.name:
            self._ids[name] = None
            return
        if injected and (mode == "own" or (mode == "keep" and (run is None or run.info.run_id == injected))):
            run = runs.adopt(injected, name)
            self._ids[PARENT] = run.data.tags.get("mlflow.parentRunId") or injected
        elif run is None:
            make = runs.replace if mode in ("own", "keep") else runs.make
            run = make(name, at, self._parent_id(runs, at))
        run_id = self._ids[name] = run.info.run_id
        self._save_position()
        tags = entry["tags"]
        if run_id == injected:  # its owner may have said who and what made it
            tags = {
                k: v for k, v in entry["of_new"].items() if not k.startswith("mlflow.") or k not in run.data.tags
            } | tags
        elif made_by(run) == self.folder.name:
            tags = entry["of_new"] | tags
        if mode == "restore" and (original := runs.original(tags.get(WEIGHTS_TAG, ""))):
            tags |= link_to(original)
        write_entry(runs.client, run_id, {"do": "tags", "values": tags}, self.folder)

    def _parent_id(self, runs: ExecutionRuns, at: int) -> str:
        """Id of the execution's run, which is made if there is none."""
        if PARENT not in self._ids:
            self._ids[PARENT] = runs.parent(at).info.run_id
            self._save_position()
        return str(self._ids[PARENT])

    def _close(self, runs: ExecutionRuns, status: str, at: int) -> None:
        """End the runs that this journal made, and the execution's run if the step did not finish."""
        own, parent = self._ids.get(self._begin.step), self._ids.get(PARENT)
        made = runs.made_by_journal()
        if self._incomplete and own:
            write_entry(runs.client, own, {"do": "tags", "values": INCOMPLETE}, self.folder)
        if status != "FINISHED" and not self._injected and not self._begin.kubeflow_run:  # else `finish` closes it
            runs.client.set_terminated(self._parent_id(runs, at), "FAILED", at)
        if own and own not in made and own != self._injected and not runs.is_finished(own):
            runs.client.set_terminated(own, status, at)  # mode keep: it continued a run of an earlier attempt
        for run_id in made:
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

    A journal that is damaged, or that MLflow refuses for ever, is left to the replay: it costs itself alone.

    Raises:
        LhcnetError: one of them cannot be written now.
    """
    mine = first_entry(folder)
    for other in pending_journals(folder.parent):
        if other.name >= folder.name:
            return
        with suppress(FileNotFoundError):  # another process has just written and removed it
            try:
                begin = first_entry(other)
                if begin.execution != mine.execution or running(other):
                    continue
                if target_of(begin).uri != target_of(mine).uri:
                    continue
            except LastingError:  # it needs another address than this one
                continue
            except LhcnetError as error:
                log.warning("%s", error)
                continue
            try:
                _deliver_when_free(other)
            except LastingError as error:
                log.warning("%s: %s", begin.step, error)
            except LhcnetError as error:
                raise LhcnetError(f"{begin.step} comes first: {error}") from error


def _deliver_when_free(folder: Path) -> None:
    """Deliver a journal, or wait as long as a step does until another process has."""
    deadline = time.monotonic() + wait_limit()
    while True:
        try:
            deliver(folder)
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL)
        else:
            return
