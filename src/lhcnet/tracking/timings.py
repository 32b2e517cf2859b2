"""Wall times of the steps of an execution, kept beside the journals.

They are no part of a step's results: the same inputs give the same bytes, whatever time a step takes. Where the steps
run on different machines, each machine knows its own times only.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lhcnet.tracking.journal import journal_root


def _folder(execution: str) -> Path:
    return journal_root().parent / "timings" / _file_name(execution)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


@contextmanager
def timed(execution: str, step: str) -> Iterator[None]:
    """Measure the block, and keep its time if it succeeds; a full disk loses the time, not the step."""
    begun = time.monotonic()
    yield
    entry = {"step": step, "seconds": round(time.monotonic() - begun, 3), "ended": time.time()}
    with suppress(OSError):
        folder = _folder(execution)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{_file_name(step)}.json"
        file.write_text(json.dumps(entry), encoding="utf-8")


def wall_times(execution: str) -> dict[str, float]:
    """Step -> seconds of its last run on this machine, in the order in which the steps ended."""
    entries = []
    for file in _folder(execution).glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            entry = json.loads(file.read_text(encoding="utf-8"))
            entries.append((float(entry["ended"]), str(entry["step"]), float(entry["seconds"])))
    return {step: seconds for _, step, seconds in sorted(entries)}


def remove_times(execution: str) -> None:
    """Forget the times of an execution that has ended."""
    shutil.rmtree(_folder(execution), ignore_errors=True)
