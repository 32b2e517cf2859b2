"""Journals to MLflow: followed while their step runs, and afterwards by `lhcnet tracking replay`.

Entries are written in order, the position after each is kept beside the journal, and all of them can be written twice:
so whatever is interrupted where, going on gives the same record. A journal that is written whole is removed. The
journals of an execution are written in the order in which their steps began: what a later step adds finds the run that
an earlier one made.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lhcnet.errors import LhcnetError
from lhcnet.runtime import tune_gc
from lhcnet.tracking import mlflow_runs as runs
from lhcnet.tracking.journal import ENTRIES, PARENT, TROUBLE, Place, bound, default_uri, without_secrets

if TYPE_CHECKING:
    from lhcnet.tracking import journal

log = logging.getLogger("lhcnet")

POSITION, LOCK = "position.json", "lock"
EXECUTION = "/"  # beside the names of runs: the execution's run, which is PARENT unless a run was injected
POLL, AGAIN = 0.1, 0.5  # seconds: until the journal is read again; until MLflow is asked again after it failed


class Transfer:
    """One journal on its way to MLflow. Only one process at a time may have it."""

    def __init__(self, folder: Path) -> None:
        """Raises `LhcnetError` if another process has it."""
        self.folder = folder
        self._lock = (folder / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise LhcnetError(f"{folder}: another process is just writing it to MLflow") from None
        self.begin = _begin(folder)
        self.written = 0
        self._record: runs.Record | None = None
        self._open: dict[str, runs.Run] = {}
        try:
            position = json.loads((folder / POSITION).read_text(encoding="utf-8"))
        except FileNotFoundError:
            position = {"offset": 0, "ids": {}, "made": []}
        self._offset: int = position["offset"]
        self._ids: dict[str, str | None] = position["ids"]  # None: was there before, and is left as it is
        self._made: list[str] = position["made"]

    def advance(self) -> bool:
        """Write what the journal holds by now. True when it is whole: then it is removed.

        Raises `LhcnetError` when MLflow does not take it.
        """
        left = not running(self.folder)  # before reading: its last words are then to be read
        uri = _with_secrets(self.begin)
        with runs.answering(uri):
            self._record = self._record or self._connect(uri)
            for entry in self._entries():
                self._write(self._record, entry)
                if entry["do"] == "close":
                    self._remove()
                    return True
            if left:  # it was killed, and could not say so
                last = int((self.folder / ENTRIES).stat().st_mtime * 1000)
                self._close(self._record, "KILLED", last)
                self._remove()
        return left

    def run(self, name: str) -> runs.Run:
        """The run that goes by this name in the journal; it is in MLflow already."""
        assert self._record is not None
        id_ = self._ids[name]
        assert id_ is not None
        if name not in self._open:
            self._open[name] = self._record.by_id(id_)
        return self._open[name]

    def release(self) -> None:
        self._lock.close()

    def _connect(self, uri: str) -> runs.Record:
        place = Place(uri, self.begin["experiment"], self.begin["experiment_id"])
        client, experiment = runs.open_client(place)
        lock = self.folder.parent / "parent.lock"
        return runs.Record(client, experiment, self.begin["execution"], self.folder.name, lock)

    def _entries(self) -> Iterator[dict[str, Any]]:
        with (self.folder / ENTRIES).open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # half of one: the rest comes, or its writer was killed
                    return
                try:
                    entry = json.loads(line)
                except ValueError:  # the disk was full
                    log.warning("%s: an entry is not whole and is left out: %r", self.folder, line[:80])
                else:
                    yield entry
                self._offset += len(line)
                self.written += 1
                self._keep_position()

    def _keep_position(self) -> None:
        new = self.folder / f"{POSITION}.new"
        new.write_text(json.dumps({"offset": self._offset, "ids": self._ids, "made": self._made}), encoding="utf-8")
        new.rename(self.folder / POSITION)

    def _write(self, record: runs.Record, entry: dict[str, Any]) -> None:
        do, name, at = entry["do"], entry["run"], entry["at"]
        if do == "begin":
            return
        if do == "open":
            self._enter(record, name, entry)
            return
        if do == "close":
            self._close(record, entry["status"], at)
            return
        if name == PARENT and name not in self._ids:
            self._ids[name] = self._execution(record, at)
        if self._ids.get(name) is None:
            return
        run = self.run(name)
        match do:
            case "params":
                run.params(entry["values"])
            case "tags":
                run.tags(entry["values"])
            case "metrics":
                run.metrics(entry["values"], entry["step"], at)
            case "dataset":
                run.dataset(entry["name"], entry["digest"], entry["source"], entry["context"])
            case "file":
                run.file(self.folder / entry["file"], entry["folder"])
            case "end" if not self.begin["injected"]:
                run.end(entry["status"], at)

    def _enter(self, record: runs.Record, name: str, entry: dict[str, Any]) -> None:
        """Find or make the run that an `open` speaks of."""
        mode, at, injected = entry["mode"], entry["at"], self.begin["injected"]
        run = None if mode == "own" else record.find(name)
        if mode == "restore" and run and run.made_by != self.folder.name:
            self._ids[name] = None
            return
        if injected and (mode == "own" or (mode == "keep" and (run is None or run.id == injected))):
            run = record.adopt(injected, name)
            self._ids[PARENT] = run.parent_id or run.id
        elif run is None:
            make = record.replace if mode == "own" else record.make
            run = make(name, at, self._execution(record, at))
        if (made := run.made_by == self.folder.name) and run.id not in self._made:
            self._made.append(run.id)
        self._ids[name], self._open[name] = run.id, run
        self._keep_position()
        run.tags(entry["tags"] | (entry["of_new"] if made or run.id == injected else {}))

    def _execution(self, record: runs.Record, at: int) -> str:
        """Id of the execution's run."""
        if EXECUTION not in self._ids:
            self._ids[EXECUTION] = record.parent(at).id
            self._keep_position()
        id_ = self._ids[EXECUTION]
        assert id_ is not None
        return id_

    def _close(self, record: runs.Record, status: str, at: int) -> None:
        own = self._ids.get(self.begin["step"])
        for id_ in self._made:
            record.by_id(id_).end(status if id_ == own else "FINISHED", at)
        if status != "FINISHED" and not self.begin["injected"]:
            record.by_id(self._execution(record, at)).end("FAILED", at)
        record.delete_others({id_ for id_ in self._ids.values() if id_})

    def _remove(self) -> None:
        done = self.folder.with_name(f".{self.folder.name}.done")  # at once, then piece by piece
        self.folder.rename(done)
        shutil.rmtree(done, ignore_errors=True)  # who looks for journals clears away the rest


def running(folder: Path) -> bool:
    """Whether the step that writes this journal still does."""
    with (folder / ENTRIES).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def kept(root: Path) -> list[Path]:
    """The journals that are there, in the order of their beginning."""
    for leftover in root.glob(".*.done"):
        shutil.rmtree(leftover, ignore_errors=True)
    return sorted(path for path in root.glob("[!.]*") if (path / ENTRIES).is_file())


def earlier(folder: Path) -> None:
    """Write what finished steps of the same execution still owe that began before.

    Raises `LhcnetError` if one of them cannot be written now.
    """
    mine = _begin(folder)
    for other in kept(folder.parent):
        if other.name >= folder.name:
            return
        try:
            begin = _begin(other)
            if (begin["execution"], begin["uri"]) == (mine["execution"], mine["uri"]) and not running(other):
                _whole(other)
        except LhcnetError as error:
            raise LhcnetError(f"{begin['step']} comes first: {error}") from error
        except FileNotFoundError:  # written by another process in between
            continue


def _whole(folder: Path) -> int:
    """Write a journal whose step has ended; returns the number of entries written."""
    transfer = Transfer(folder)
    try:
        if not transfer.advance():
            raise LhcnetError(f"{folder}: its step still runs")
    finally:
        transfer.release()
    return transfer.written


def follow(folder: Path, patience: float) -> None:
    """Write a journal while its step runs, and what is left within `patience` seconds after its end."""
    transfer, in_order, until = None, False, None
    try:
        while True:
            pause = POLL
            try:
                if not in_order:
                    earlier(folder)
                    in_order = True
                transfer = transfer or Transfer(folder)
                if transfer.advance():
                    return
            except LhcnetError as error:
                pause = AGAIN
                (folder / TROUBLE).write_text(f"{error}\n", encoding="utf-8")
            if not running(folder):
                until = until or time.monotonic() + patience
                if time.monotonic() > until:
                    return
            time.sleep(pause)
    except FileNotFoundError:
        if folder.exists():
            raise
    finally:
        if transfer:
            transfer.release()


@dataclass(frozen=True)
class Replayed:
    """What became of one journal: `lacking` says why it is not written whole."""

    step: str
    execution: str
    entries: int
    lacking: str = ""


def replay(root: Path) -> list[Replayed]:
    """Write what the journals below `root` still owe, except of steps that still run."""
    found: list[Replayed] = []
    owing: set[str] = set()
    for folder in kept(root):
        try:
            begin = _begin(folder)
            step, execution = begin["step"], begin["execution"]
            if running(folder):
                found.append(Replayed(step, execution, 0, "its step still runs, and writes it itself"))
            elif execution in owing:
                found.append(Replayed(step, execution, 0, "an earlier step of the execution comes first"))
            else:
                found.append(Replayed(step, execution, _whole(folder)))
        except LhcnetError as error:
            owing.add(execution)
            found.append(Replayed(step, execution, 0, str(error)))
        except FileNotFoundError:  # written by another process in between
            continue
    return found


class Here:
    """Writes a journal in this process, which wants to speak to MLflow itself."""

    def __init__(self) -> None:
        self._transfer: Transfer | None = None
        self._failed = ""

    def begin(self, folder: Path) -> None:
        """Nothing yet: `now` says when."""

    def now(self, run: journal.Run) -> runs.Run:
        """The run in MLflow, with all that the execution's ended steps and this one have said by now.

        Raises `LhcnetError` when MLflow does not take it.
        """
        try:
            earlier(run.journal.folder)
            self._transfer = Transfer(run.journal.folder)
            self._transfer.advance()
            return self._transfer.run(run.journal.step)
        except LhcnetError as error:
            self._failed = str(error)
            raise

    def end(self, folder: Path) -> str:
        if self._transfer is None:
            return self._failed
        try:
            if not self._failed:
                self._transfer.advance()
        except LhcnetError as error:
            self._failed = str(error)
        finally:
            self._transfer.release()
        return self._failed


def _begin(folder: Path) -> dict[str, Any]:
    with (folder / ENTRIES).open(encoding="utf-8") as file:
        return dict(json.loads(file.readline()))


def _with_secrets(begin: dict[str, Any]) -> str:
    """The URI of a journal; what is secret in it comes from MLFLOW_TRACKING_URI."""
    if not begin["secrets"]:
        return str(begin["uri"])
    if without_secrets(default_uri()) != begin["uri"]:
        raise LhcnetError(f"{begin['uri']} needs a user or options: expected it with them in MLFLOW_TRACKING_URI")
    return default_uri()


def main() -> None:
    """Follow the journals whose folders are named on stdin, a line each, until it ends."""
    tune_gc()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # `follow` asks again
    for line in sys.stdin:
        follow(Path(line.removesuffix("\n")), bound())


if __name__ == "__main__":
    main()
