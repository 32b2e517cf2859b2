"""Replay: write what MLflow lacks, journal by journal. One that fails costs itself alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lhcnet.errors import LhcnetError
from lhcnet.tracking.delivery import deliver, moved, target_of
from lhcnet.tracking.folder import ENTRIES, Begin, first_entry, pending_journals, running
from lhcnet.tracking.target import URI_VARIABLE, LastingError, default_uri, without_secrets


class NoAnswerError(LhcnetError):
    """MLflow did not answer within the bound; it is not asked again in this replay."""


@dataclass(frozen=True)
class Replayed:
    """What the replay did with one journal.

    Attributes:
        step: name of the step.
        execution: key of the execution.
        entries: how many were written.
        lacking: why it is not written completely, or "".
        moved: a note that MLFLOW_TRACKING_URI names another server than the journal, or "".
    """

    step: str
    execution: str
    entries: int
    lacking: str = ""
    moved: str = ""


def replay(root: Path, deliver: Callable[[Path], int] = deliver) -> Iterator[Replayed]:
    """Write all journals of ended steps to MLflow.

    Args:
        root: the folder that holds the journals.
        deliver: writes one journal, and returns the number of its entries.

    Yields:
        one result per journal, in the order of their start.

    Raises:
        LhcnetError: there is no such folder, or it cannot be read.
    """
    if not root.is_dir():
        raise LhcnetError(f"{root}: there is no such folder; expected the folder that holds the journals")
    if (root / ENTRIES).exists():
        raise LhcnetError(f"{root}: is a journal; expected the folder that holds the journals, {root.parent}")
    waiting: set[tuple[str, str]] = set()  # executions on a server; their later journals have to wait
    silent: set[str] = set()  # servers that did not answer in time
    for folder in pending_journals(root):
        try:
            yield _replay(folder, deliver, waiting, silent)
        except FileNotFoundError:  # another process has just written and removed it
            continue


def _replay(folder: Path, deliver: Callable[[Path], int], waiting: set[tuple[str, str]], silent: set[str]) -> Replayed:
    try:
        begin = first_entry(folder)
        still_runs = running(folder)
    except LhcnetError as error:
        return Replayed("damaged", folder.name, 0, str(error))
    step, execution = begin.step, begin.execution
    if still_runs:
        return Replayed(step, execution, 0, "its step still runs, and writes it itself")
    uri = ""
    try:
        uri = target_of(begin).uri
        if uri in silent:
            return Replayed(step, execution, 0, "MLflow did not answer in time for an earlier journal")
        if (execution, uri) in waiting:
            return Replayed(step, execution, 0, "an earlier step of the execution comes first")
        return Replayed(step, execution, deliver(folder), moved=_note(begin))
    except LhcnetError as error:
        if isinstance(error, NoAnswerError):
            silent.add(uri)
        if not isinstance(error, LastingError):
            waiting.add((execution, uri))
        return Replayed(step, execution, 0, str(error), _note(begin))


def _note(begin: Begin) -> str:
    if not moved(begin):
        return ""
    return f" ({URI_VARIABLE} names {without_secrets(default_uri())}, which wins over {begin.uri} of the journal)"
