"""A journal's folder as other processes see it: which there are, in which order, and whether the step still runs.

The names of the folders begin with a number that is counted up under a lock, so that their order does not depend on
the clock. Names of an earlier version begin with the date; they sort before the others.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lhcnet.errors import LhcnetError
from lhcnet.io.locks import try_lock, wait_for_lock
from lhcnet.tracking.target import without_secrets

ENTRIES = "journal.jsonl"
RUNNING, FINISHED, FAILED = "step.RUNNING", "step.FINISHED", "step.FAILED"
"""An empty file that a step renames at its end, which a full disk does not prevent."""

_SEQUENCE = "sequence"  # beside the journals: the last number
_NAME = re.compile(r"(n\d{8}-)?\d{8}-\d{6}(-\d{6})?-.+-[0-9a-f]{8}", re.DOTALL)
_NUMBERED = re.compile(r"\.?n(\d{8})-")
_LONGEST_LINE = 1 << 20  # bytes
_SILENCE = 86_400  # seconds


class Begin(BaseModel):
    """The first entry of a journal.

    Attributes:
        uri: MLflow's URI, without secrets.
        secrets: whether it has any.
        experiment: name of the experiment.
        experiment_id: its id, or "".
        injected: the run that MLFLOW_RUN_ID named, or None.
        execution: key of the execution.
        step: name of the step.
        kubeflow_run: id of the Kubeflow run, or "".
        pod: name of the pod or machine.
        source: tags that say what made the run.
    """

    uri: str
    secrets: bool
    experiment: str
    experiment_id: str
    injected: str | None
    execution: str
    step: str
    kubeflow_run: str = ""
    pod: str = ""
    source: dict[str, str] = {}


def first_entry(folder: Path) -> Begin:
    """The first entry of a journal.

    Raises:
        LhcnetError: it cannot be read.
        FileNotFoundError: the folder does not exist (any more).
    """
    path = folder / ENTRIES
    try:
        if folder.is_dir() and not path.is_file():
            raise OSError("there is no such file")
        with path.open("rb") as file:
            return Begin.model_validate(json.loads(file.readline(_LONGEST_LINE)))
    except FileNotFoundError:
        raise
    except (ValueError, RecursionError, OSError) as error:
        reason = "it is not such a line" if isinstance(error, ValidationError) else str(error)
        raise LhcnetError(
            f"{path}: expected the first line of a journal, with MLflow's address and the step ({reason}); the other "
            f"journals do not need this one: remove {folder} to give its record up"
        ) from None


def pending_journals(root: Path) -> list[Path]:
    """The journals that are not written completely, in the order of their start, also those that are damaged.

    Raises:
        LhcnetError: the folder cannot be read.
    """
    try:
        paths = sorted(root.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LhcnetError(f"{root}: expected a folder of journals: {error.strerror}") from None
    for path in paths:
        name = path.name
        if name.startswith(".") and name.endswith(".done") and _NAME.fullmatch(name[1:-5]) and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)  # a process was killed while it removed it
    return [path for path in paths if not path.name.startswith(".") and _is_journal(path)]


def _is_journal(path: Path) -> bool:
    try:
        return path.is_dir() and (bool(_NAME.fullmatch(path.name)) or (path / ENTRIES).is_file())
    except OSError:  # a folder that cannot be entered
        return bool(_NAME.fullmatch(path.name))


def running(folder: Path) -> bool:
    """Whether the step of a journal still runs: then it holds a lock on the journal.

    Where the file system has no locks, a step runs until it says that it has ended, or until it was silent for a day.
    """
    with (folder / ENTRIES).open() as file:
        locked = try_lock(file.fileno(), shared=True)
        if locked is not None:
            return not locked
        return (folder / RUNNING).exists() and time.time() - os.fstat(file.fileno()).st_mtime < _SILENCE


def ended_as(folder: Path) -> str | None:
    """How a step ended that could not append its last entry (FINISHED or FAILED); None: it was killed."""
    ends = {FINISHED: "FINISHED", FAILED: "FAILED"}
    return next((status for name, status in ends.items() if (folder / name).exists()), None)


def next_number(root: Path) -> int:
    """The number of a new journal, greater than that of all journals before; several processes may ask at once."""
    handle = os.open(root / _SEQUENCE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        wait_for_lock(handle)
        text = os.pread(handle, 16, 0).strip()
        known = [int(text)] if text.isdigit() else [0]  # damaged by a power cut: the journals have theirs
        known += [int(match[1]) for name in os.listdir(root) if (match := _NUMBERED.match(name))]  # noqa: PTH208
        number = max(known) + 1
        os.pwrite(handle, f"{number:08d}\n".encode(), 0)
        os.fsync(handle)
    finally:
        os.close(handle)
    return number


POSITION = "position.json"  # how much of a journal is written


def saved_position(folder: Path, uri: str) -> dict[str, Any]:
    """The position that was saved, if it is whole and of this server; else the beginning."""
    try:
        position = json.loads((folder / POSITION).read_text(encoding="utf-8"))
        if position["uri"] == without_secrets(uri):
            return {"offset": int(position["offset"]), "ids": dict(position["ids"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # none, or damaged: writing twice is harmless
        pass
    return {"offset": 0, "ids": {}}
