"""What a step says about itself, as lines on the disk. Nothing here loads MLflow or waits for it.

A journal is a folder below LHCNET_JOURNAL (default `.lhcnet/journal`): `journal.jsonl` with a line an entry, each with
its own time, and copies of the artifacts. It speaks of the step's own run, of the execution's and of runs that it adds
to. Another process (`writer.py`) follows it and writes it to MLflow, so that an epoch costs one append whatever MLflow
does. At its end a step waits for that process, LHCNET_TRACKING_WAIT seconds at most (default 30); what is not written
then stays, and `lhcnet tracking replay` completes the record. With 0 there is no such process.

A step holds a lock on its journal as long as it lives: so others see whether it still does.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol
from uuid import uuid4

from lhcnet.config import flat
from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("lhcnet")

EXPERIMENT = "lhcnet"
FOLDER, WAIT = "LHCNET_JOURNAL", "LHCNET_TRACKING_WAIT"  # environment variables
ENTRIES = "journal.jsonl"
TROUBLE = "trouble.txt"  # why MLflow did not take it, in one sentence
OUTPUT = "writer.txt"  # what the writing process printed
PARENT = ""  # the name of the execution's run in a journal; others have the name of their step

# own: the step's own run, which replaces that of an earlier time. keep: the step's own, but an earlier one is added to.
# add: another step's. restore: another step's, and only if there is none yet
Mode = Literal["own", "keep", "add", "restore"]


@dataclass(frozen=True)
class Execution:
    """One pipeline execution: `name` comes from the driver, `data` is the digest of the store."""

    name: str
    data: str

    @property
    def key(self) -> str:
        return f"{self.name}-{self.data[:8]}"


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, else `mlflow.db` in the working directory; a path of SQLite is made absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = uri.removeprefix("sqlite:///")
    return uri if file == uri else f"sqlite:///{Path.cwd() / file}"


def without_secrets(uri: str) -> str:
    """The URI without user, password and query."""
    return re.sub(r"(?<=://)[^/]*@", "", uri).partition("?")[0]


@dataclass(frozen=True)
class Place:
    """Where in MLflow a record goes; an experiment that was injected has an id."""

    uri: str
    experiment: str
    experiment_id: str

    @classmethod
    def of_environment(cls) -> Place:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        return cls(default_uri(), name, os.environ.get("MLFLOW_EXPERIMENT_ID", ""))


def journals() -> Path:
    return Path(os.environ.get(FOLDER) or ".lhcnet/journal").absolute()


def bound() -> float:
    """Seconds that a step waits at its end for what MLflow still lacks; 0: nothing is written to MLflow beside it."""
    text = os.environ.get(WAIT) or "30"
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        raise LhcnetError(f"{WAIT}={text}: expected seconds, 0 or more")
    return float(text)


class Journal:
    """The journal of one step, open for appending. It exists from the first entry on or not at all."""

    def __init__(self, execution: Execution, step: str) -> None:
        root = journals()
        plain = re.sub(r"[^\w.-]+", "-", step)
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{plain}-{uuid4().hex[:8]}"  # in the order of their beginning
        self.execution, self.step, self.folder = execution, step, root / name
        self._files, self._full = 0, False
        hidden = root / f".{name}"
        try:
            hidden.mkdir(parents=True)
            self._file = (hidden / ENTRIES).open("a", encoding="utf-8")
        except OSError as error:
            raise LhcnetError(
                f"{root}: cannot hold the journal of the record ({error.strerror}); expected a folder to write to, "
                f"or another in {FOLDER}"
            ) from error
        fcntl.flock(self._file, fcntl.LOCK_EX)
        place = Place.of_environment()
        self.append(
            PARENT,
            "begin",
            uri=without_secrets(place.uri),
            secrets=without_secrets(place.uri) != place.uri,
            experiment=place.experiment,
            experiment_id=place.experiment_id,
            injected=os.environ.get("MLFLOW_RUN_ID"),
            execution=execution.key,
            step=step,
        )
        hidden.rename(self.folder)

    def append(self, run: str, do: str, **values: object) -> None:
        entry = {"at": int(time.time() * 1000), "run": run, "do": do, **values}
        with self.room():
            os.write(self._file.fileno(), (json.dumps(entry) + "\n").encode())

    @contextmanager
    def room(self) -> Iterator[None]:
        """A full disk costs the record what does not fit, not the step; it is said once."""
        try:
            yield
        except OSError as error:
            if not self._full:
                log.warning("%s cannot hold the record of %s: %s", self.folder, self.step, error.strerror or error)
            self._full = True

    def place(self, name: str) -> Path:
        """Where a file of that name is kept until MLflow has it."""
        self._files += 1
        folder = self.folder / "files" / str(self._files)
        folder.mkdir(parents=True)
        return folder / name

    def close(self, status: str) -> None:
        self.append(self.step, "close", status=status)
        self._file.close()


class Run:
    """One run as a step sees it: every call is an entry of the journal."""

    def __init__(self, journal: Journal, name: str) -> None:
        self.journal = journal
        self._name = name

    def params(self, values: Mapping[str, object]) -> None:
        """Nested sections become dotted names."""
        self._append("params", values={name: text[:6000] for name, text in flat(values).items()})

    def tags(self, values: Mapping[str, object]) -> None:
        self._append("tags", values=_texts(values))

    def metrics(self, values: Mapping[str, object], step: int | None = None) -> None:
        """Numbers only; None and text are left out. With a step, one point of a curve; without, a figure, once."""
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        self._append("metrics", values=numbers, step=step)

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        self._append("dataset", name=name, digest=digest, source=source, context=context)

    def figure(self, figure: Figure, path: str) -> None:
        """Drawn now, as the format that the name of `path` ends in."""
        with self.journal.room():
            kept = self.journal.place(Path(path).name)
            figure.savefig(kept)
            self._file(kept, str(Path(path).parent))

    def file(self, path: Path) -> None:
        """Copied now: whatever becomes of `path`, the record gets what it holds."""
        with self.journal.room():
            kept = self.journal.place(path.name)
            shutil.copyfile(path, kept)
            self._file(kept, ".")

    def parent(self) -> Run:
        """The run of the whole execution."""
        return Run(self.journal, PARENT)

    def other(self, step: str, tags: Mapping[str, object], mode: Mode = "add") -> Run:
        """The run of another step, to add to it."""
        return _open(self.journal, step, tags, mode, {})

    def end_parent(self) -> None:
        """End the execution's run, unless it was injected: then it is its owner's to end."""
        self.journal.append(PARENT, "end", status="FINISHED")

    def _file(self, kept: Path, folder: str) -> None:
        self._append("file", file=str(kept.relative_to(self.journal.folder)), folder=folder)

    def _append(self, do: str, **values: object) -> None:
        self.journal.append(self._name, do, **values)


def _open(journal: Journal, step: str, tags: Mapping[str, object], mode: Mode, of_new: Mapping[str, str]) -> Run:
    """`of_new`: tags for a run that is made or adopted, not for one that is added to."""
    common = {"step": step, "data_digest": journal.execution.data}
    journal.append(step, "open", mode=mode, tags=_texts({**common, **tags}), of_new=dict(of_new))
    return Run(journal, step)


class Writing(Protocol):
    """Who writes a journal to MLflow."""

    def begin(self, folder: Path) -> None: ...

    def end(self, folder: Path) -> str:
        """After the journal was closed; returns why MLflow lacks a part of it, or nothing."""
        ...


class Beside:
    """A process of its own, one for all journals of this process: it takes MLflow seconds to load."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def begin(self, folder: Path) -> None:
        if self._process is None or self._process.poll() is not None:
            with (folder / OUTPUT).open("w") as output:  # not ours: who reads our output would wait for its end too
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "lhcnet.tracking.writer"],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    text=True,
                    start_new_session=True,  # Ctrl-C is for the step: its end is to be written
                )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{folder}\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it has just died: `end` says so
            pass

    def end(self, folder: Path) -> str:
        assert self._process is not None
        seconds, followed = bound(), False
        until = time.monotonic() + seconds
        while folder.exists():
            if (status := self._process.poll()) is not None and not followed:
                self.begin(folder)  # the first died, perhaps of too little memory: once more
                followed = True
            elif status is not None:
                return _first_line(folder / TROUBLE) or f"the process that writes it ended with status {status}"
            if time.monotonic() > until:
                self._process.kill()  # it may hang in a call; what it wrote is entered, the rest is in the journal
                self._process.wait()
                return _first_line(folder / TROUBLE) or f"not written within {seconds:g} s"
            time.sleep(0.02)
        return ""


class Later:
    """Nobody yet: `lhcnet tracking replay`, or a later step that speaks to MLflow itself."""

    def begin(self, folder: Path) -> None:
        """Nothing."""

    def end(self, folder: Path) -> str:
        log.info("%s: `lhcnet tracking replay` writes it to MLflow", folder)
        return ""


BESIDE, LATER = Beside(), Later()


@contextmanager
def journaled(
    execution: Execution, step: str, *, tags: Mapping[str, object], mode: Mode = "own", writing: Writing | None = None
) -> Iterator[Run]:
    """The run of one step (with its seed in the name), under the execution's parent.

    The finished run of an earlier time is replaced, an injected MLFLOW_RUN_ID is adopted and left to whoever injected
    it to end. An MLflow that does not answer is a warning: the step's results are on the disk, its journal too.
    """
    beside = bound() > 0  # a bad setting is said before anything is computed
    writing = writing or (BESIDE if beside else LATER)
    journal = Journal(execution, step)
    run = _open(journal, step, tags, mode, _origin())
    writing.begin(journal.folder)
    try:
        yield run
    except BaseException:
        journal.close("FAILED")
        _finish(journal, writing)
        raise
    journal.close("FINISHED")
    _finish(journal, writing)


def _finish(journal: Journal, writing: Writing) -> None:
    if lacking := writing.end(journal.folder):
        log.warning(
            "MLflow at %s lacks a part of the record of %s (%s): it is kept in %s, `lhcnet tracking replay` writes it",
            without_secrets(default_uri()),
            journal.step,
            lacking,
            journal.folder,
        )


def _origin() -> dict[str, str]:
    """Commit and DVC experiment, where there are any."""
    commit = os.environ.get("LHCNET_COMMIT", "")
    if not commit:
        try:
            asked = subprocess.run(
                ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10
            )
            commit = asked.stdout.strip() if asked.returncode == 0 else ""
        except (OSError, subprocess.TimeoutExpired):  # no git here: an image carries LHCNET_COMMIT instead
            pass
    tags = {"mlflow.source.git.commit": commit, "dvc_exp": os.environ.get("DVC_EXP_NAME", "")}
    return {key: value for key, value in tags.items() if value}


def _first_line(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").partition("\n")[0]
    except FileNotFoundError:
        return ""


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}
