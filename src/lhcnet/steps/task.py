"""The process of a pipeline task: what a component does besides calling its step."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from lhcnet import crash
from lhcnet.errors import LhcnetError
from lhcnet.runtime import tune_gc
from lhcnet.saved import SavedModel

TASK_FOLDER = "LHCNET_TASK_FOLDER"  # environment variable
LOG_FILE, ERROR_FILE = "steps.log", "errors.txt"


def start_task() -> None:
    """Set up the process of one pipeline task.

    Where LHCNET_TASK_FOLDER names a folder, as in a run on this machine, the log lines of the steps are appended to its
    `steps.log`, and the error that ends a task to its `errors.txt`, one line each.
    """
    tune_gc()
    sys.excepthook = _end_task
    if folder := os.environ.get(TASK_FOLDER):
        logging.getLogger("lhcnet").addHandler(logging.FileHandler(Path(folder, LOG_FILE), encoding="utf-8"))


def _end_task(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the error that ends a task in one sentence. The traceback of an unexpected one is saved.

    In a pod, whose disk is deleted with it, that traceback is printed too: the pod's log is the file that stays.
    """
    folder = os.environ.get(TASK_FOLDER)
    if isinstance(error, LhcnetError):
        line = str(error)
        crash.show_traceback(error)
    else:
        line = crash.describe(error, Path(folder)) if folder else crash.describe(error)
        if not folder or crash.wants_traceback():
            sys.__excepthook__(kind, error, trace)
    if folder:
        with Path(folder, ERROR_FILE).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    print(f"lhcnet: {line}", file=sys.stderr)


def model_metadata(saved: SavedModel) -> dict[str, Any]:
    """Id, status and metrics of a trained model, as metadata of its artifact. What was not measured is left out."""
    metrics = saved.metrics.to_dict()
    return {"id": saved.id} | {name: value for name, value in metrics.items() if value not in (None, "")}


def model_metrics(saved: SavedModel) -> dict[str, float]:
    """Losses and accuracies of a trained model, as metadata of a metrics artifact."""
    return {name: value for name, value in saved.metrics.to_dict().items() if isinstance(value, float)}
