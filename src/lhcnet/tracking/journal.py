"""Journal of one step: an append-only file of everything that its MLflow runs shall hold.

A step never waits for MLflow while it computes: it appends a line per entry to a journal, and a process of its own
(`writer_process.py`) reads the journal and writes the entries to MLflow. When the step ends, it waits for that process,
LHCNET_TRACKING_WAIT seconds at most (default 30). The rest stays in the journal until `lhcnet tracking replay` writes
it. With 0 there is no process, and the replay writes everything.

A journal is a folder below LHCNET_JOURNAL (default `.lhcnet/journal`): `journal.jsonl`, with one JSON object a line and
the time in each, and copies of the artifacts. A step holds a lock on its journal as long as it runs, so that other
processes can see whether it still does. Nothing in this module loads MLflow.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, BinaryIO, Literal
from uuid import uuid4

from lhcnet.errors import LhcnetError
from lhcnet.io.locks import wait_for_lock
from lhcnet.io.yaml import flat
from lhcnet.tracking import kubeflow, writer_process
from lhcnet.tracking.folder import ENTRIES, FAILED, FINISHED, RUNNING, next_number
from lhcnet.tracking.source import source_tags
from lhcnet.tracking.target import TrackingTarget, default_uri, lasting_problem, without_secrets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("lhcnet")

FOLDER_VARIABLE = "LHCNET_JOURNAL"
PARENT = ""  # name of the execution's run in a journal; the other runs have the names of their steps

_MOST_UNWRITTEN = 16 << 20  # bytes of entries that are kept in memory while the disk is full

Mode = Literal["own", "keep", "add", "restore"]
"""How an MLflow run is found or made for an entry `open`:

own: the step's own run. A finished run of an earlier time is replaced: it is moved to MLflow's bin.
keep: the step's own run. A run of an earlier time is continued.
add: the run of another step. It is continued, or made if there is none.
restore: the run of another step. It is made if there is none; otherwise all entries for it are left out.
"""


@dataclass(frozen=True)
class Execution:
    """One pipeline execution.

    Attributes:
        name: given by the driver.
        data: digest of the data set.
    """

    name: str
    data: str

    @property
    def key(self) -> str:
        """What identifies the execution in MLflow."""
        return f"{self.name}-{self.data[:8]}"


def journal_root() -> Path:
    """The folder that holds the journals."""
    return Path(os.environ.get(FOLDER_VARIABLE) or ".lhcnet/journal").absolute()


class Journal:
    """The journal of one step, open for appending.

    Args:
        execution: the execution that the step belongs to.
        step: the step's name, with its seed or variant, for example "train/A/seed-0".

    Raises:
        LhcnetError: the journal's folder cannot be made.
    """

    def __init__(self, execution: Execution, step: str) -> None:
        root = journal_root()
        self.execution, self.step = execution, step
        self._files, self._unwritten, self._complete, self._warned = 0, b"", True, False
        self.source, self._lock = source_tags(), threading.Lock()
        self.said = ""  # the problem of MLflow that was said last
        try:
            root.mkdir(parents=True, exist_ok=True)
            self.folder = root / _name(next_number(root), step)
            self._file = self._begin(root / f".{self.folder.name}")
        except OSError as error:
            raise LhcnetError(
                f"{root}: cannot hold the journal of the record ({error.strerror}); expected a folder to write to, "
                f"with free disk space, or another in {FOLDER_VARIABLE}"
            ) from error

    def _begin(self, hidden: Path) -> BinaryIO:
        """Write the first entry and flush it to the disk; only then others see the journal."""
        target = TrackingTarget.from_environment()
        uri = without_secrets(target.uri)
        first = _line(
            PARENT,
            "begin",
            uri=uri,
            secrets=uri != target.uri,
            experiment=target.experiment,
            experiment_id=target.experiment_id,
            injected=os.environ.get("MLFLOW_RUN_ID"),
            execution=self.execution.key,
            step=self.step,
            kubeflow_run=kubeflow.kubeflow_run(),
            pod=kubeflow.pod_name(),
            source=self.source,
        )
        hidden.mkdir()
        try:
            file = (hidden / ENTRIES).open("ab", buffering=0)
            wait_for_lock(file.fileno())
            if file.write(first) != len(first):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            (hidden / RUNNING).touch()
            os.fsync(file.fileno())
            _flush_folder(hidden)
            hidden.rename(self.folder)
            _flush_folder(self.folder.parent)
        except OSError:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        return file

    def append(self, run: str, do: str, **values: object) -> None:
        """Append one entry.

        Args:
            run: name of the run: a step's name or PARENT.
            do: kind of the entry; `mlflow_runs.write_entry` and `delivery.Delivery` say which there are.
            values: content of the entry, JSON-ready.
        """
        line = _line(run, do, **values)
        with self._lock, self.tolerate_full_disk():  # system metrics come from a thread of their own
            if len(self._unwritten) + len(line) > _MOST_UNWRITTEN:
                self._complete = False
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._unwritten += line
            self._write()

    def _write(self) -> None:
        """Write the entries that are not written; those that a full disk does not take are kept for the next time."""
        size = os.fstat(self._file.fileno()).st_size
        written = self._file.write(self._unwritten) or 0
        if written < len(self._unwritten):
            whole = self._unwritten.rfind(b"\n", 0, written) + 1
            self._file.truncate(size + whole)
            self._unwritten = self._unwritten[whole:]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._unwritten = b""

    @contextmanager
    def tolerate_full_disk(self) -> Iterator[None]:
        """Turn an OSError of the block into one warning per journal: a full disk must not stop a training."""
        try:
            yield
        except OSError as error:
            if not self._warned:
                log.warning("%s cannot hold the record of %s: %s", self.folder, self.step, error.strerror or error)
            self._warned = True

    @contextmanager
    def complete(self) -> Iterator[None]:
        """Note that the journal is not complete if the block fails."""
        try:
            yield
        except OSError:
            self._complete = False
            raise

    def new_file(self, name: str) -> Path:
        """A path inside the journal where a copy of an artifact of that name can be put."""
        self._files += 1
        folder = self.folder / "files" / str(self._files)
        folder.mkdir(parents=True)
        return folder / name

    def close(self, status: str) -> None:
        """Append the last entry, with the step's status (FINISHED, FAILED or KILLED), and release the lock."""
        self.append(self.step, "close", status=status, complete=self._complete)
        with self.tolerate_full_disk():
            (self.folder / RUNNING).rename(self.folder / (FINISHED if status == "FINISHED" else FAILED))
        self._file.close()


def _name(number: int, step: str) -> str:
    """The name of a journal: they are sorted by number. The time is for people; a clock may be set back."""
    plain = re.sub(r"[^\w.-]+", "-", step)[:100]
    return f"n{number:08d}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{plain}-{uuid4().hex[:8]}"


def _line(run: str, do: str, **values: object) -> bytes:
    return (json.dumps({"at": int(time.time() * 1000), "run": run, "do": do, **values}) + "\n").encode()


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class StepRun:
    """An MLflow run as a step sees it: every call appends one entry to the journal."""

    def __init__(self, journal: Journal, name: str) -> None:
        self.journal, self.name = journal, name

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters; nested mappings become dotted names."""
        self._append("params", values={name: text[:6000] for name, text in flat(values).items()})

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags."""
        self._append("tags", values=_as_text(values))

    def metrics(self, values: Mapping[str, object], step: int | None = None) -> None:
        """Log metrics.

        Args:
            values: numbers by name; None and text are left out.
            step: the epoch, for a point of a curve. None: a single value.
        """
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        self._append("metrics", values=numbers, step=step)

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log a data set as the run's input."""
        self._append("dataset", name=name, digest=digest, source=source, context=context)

    def figure(self, figure: Figure, path: str) -> None:
        """Draw a figure now and log it as the artifact `path`, whose suffix says the format."""
        with self.journal.tolerate_full_disk(), self.journal.complete():
            copy = self.journal.new_file(Path(path).name)
            figure.savefig(copy)
            self._append_file(copy, str(Path(path).parent))

    def file(self, path: Path) -> None:
        """Copy a file now and log it as an artifact; later changes of `path` have no effect."""
        with self.journal.tolerate_full_disk(), self.journal.complete():
            copy = self.journal.new_file(path.name)
            shutil.copyfile(path, copy)
            self._append_file(copy, ".")

    def parent(self) -> StepRun:
        """The run of the whole execution."""
        return StepRun(self.journal, PARENT)

    def other(self, step: str, tags: Mapping[str, object], mode: Mode = "add") -> StepRun:
        """The run of another step, to add something to it."""
        return _open_run(self.journal, step, tags, mode, {})

    def end_parent(self) -> None:
        """End the execution's run; nothing if MLFLOW_RUN_ID injected a run, which its owner ends."""
        self.journal.append(PARENT, "end", status="FINISHED")

    def _append_file(self, copy: Path, folder: str) -> None:
        self._append("file", file=str(copy.relative_to(self.journal.folder)), folder=folder)

    def _append(self, do: str, **values: object) -> None:
        self.journal.append(self.name, do, **values)


def _open_run(
    journal: Journal, step: str, tags: Mapping[str, object], mode: Mode, tags_of_new: Mapping[str, str]
) -> StepRun:
    """Append the entry `open` for the run of a step; `tags_of_new` are set if the run is made or was injected."""
    common = {"step": step, "data_digest": journal.execution.data}
    journal.append(step, "open", mode=mode, tags=_as_text({**common, **tags}), of_new=dict(tags_of_new))
    return StepRun(journal, step)


@contextmanager
def journaled(
    execution: Execution,
    step: str,
    *,
    tags: Mapping[str, object],
    mode: Mode = "own",
    deliver: Callable[[Path], object] | None = None,
) -> Iterator[StepRun]:
    """Record one step in a journal and bring the journal to MLflow.

    The step's run is a child of the execution's run. A run that MLFLOW_RUN_ID names is used instead of a new one.
    An MLflow that does not answer is a warning, not an error.

    Args:
        execution: the execution that the step belongs to.
        step: the step's name, with its seed or variant.
        tags: tags of the step's run.
        mode: own or keep, see `Mode`.
        deliver: called with the journal's folder at the end, in this process; raises LhcnetError if MLflow does not
            answer. None: the writer process writes the journal.

    Yields:
        the step's run.

    Raises:
        LhcnetError: LHCNET_TRACKING_WAIT is no number, or there is no room for a journal.
    """
    wait = writer_process.wait_limit()
    journal = Journal(execution, step)
    run = _open_run(journal, step, tags, mode, journal.source | kubeflow.task_tags())
    problem = lasting_problem(default_uri())
    _warn(journal, problem)
    with_process = deliver is None and wait > 0 and not problem
    ended = Event()
    watched = (journal.folder, ended, lambda problem: _warn(journal, problem))
    watch = Thread(target=writer_process.WRITER.watch, args=watched, daemon=True)
    if with_process:
        writer_process.WRITER.follow(journal.folder)
        watch.start()
    status, interrupted = "FAILED", False
    try:
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        interrupted = True
        raise
    except SystemExit:  # SIGTERM: its pod was deleted, or somebody stopped it
        status = "KILLED"
        raise
    finally:
        journal.close(status)
        if interrupted or problem:  # the writer process goes on without us
            pass
        elif with_process:
            ended.set()
            watch.join()
            _warn(journal, writer_process.WRITER.wait(journal.folder, wait))
        elif deliver is None:
            log.info("%s: `lhcnet tracking replay` writes it to MLflow", journal.folder)
        else:
            _warn(journal, _problem_of(deliver, journal.folder))


def _problem_of(deliver: Callable[[Path], object], folder: Path) -> str:
    if earlier := writer_process.last_problem(folder):
        return earlier  # MLflow did not answer this step before: not once more
    try:
        deliver(folder)
    except LhcnetError as error:
        return str(error)
    return ""


def _warn(journal: Journal, problem: str) -> None:
    """Warn of a problem of MLflow, once."""
    if problem and problem != journal.said:
        journal.said = problem
        log.warning(
            "MLflow at %s lacks a part of the record of %s (%s): it is kept in %s, `lhcnet tracking replay` writes it",
            without_secrets(default_uri()),
            journal.step,
            problem,
            journal.folder,
        )


def _as_text(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}
