"""The child process of a training in a pipeline task: `python -m lhcnet.steps.child`, see `supervised.py`.

It reads one request from stdin (JSON: the step, its arguments, the process that waits for it), calls the step, and
writes what the step returned, or why it raised, to the file that the request names.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lhcnet.errors import LhcnetError, NoMemoryError
from lhcnet.io.atomic import atomic_file
from lhcnet.io.files import write_json
from lhcnet.runtime import end_with_parent, exit_on_sigterm, tune_gc
from lhcnet.steps.control import train_control
from lhcnet.steps.insert import insert_lhc
from lhcnet.steps.supervised import CRASHED, NO_MEMORY, REFUSED, typed
from lhcnet.steps.task import LOG_FILE, TASK_FOLDER
from lhcnet.steps.train import train_backbone, train_stage, train_standalone

STEPS: dict[str, Callable[..., Any]] = {
    step.__name__: step for step in (train_backbone, train_stage, train_standalone, train_control, insert_lhc)
}


def main() -> None:
    request = json.loads(sys.stdin.readline())
    tune_gc()
    exit_on_sigterm()
    end_with_parent(signal.SIGTERM)
    if os.getppid() != request["parent"]:  # it ended before we could watch it
        raise SystemExit(128 + signal.SIGTERM)
    faulthandler.enable()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s: %(message)s")
    if folder := os.environ.get(TASK_FOLDER):
        logging.getLogger("lhcnet").addHandler(logging.FileHandler(Path(folder, LOG_FILE), encoding="utf-8"))
    step, result = STEPS[request["step"]], Path(request["result"])
    try:
        returned = step(**typed(step, request["arguments"]))
    except Exception as error:
        if isinstance(error, LhcnetError):  # the waiting process prints it
            _write(result, {"error": NO_MEMORY if isinstance(error, NoMemoryError) else REFUSED, "text": str(error)})
            raise SystemExit(1) from None
        kind = NO_MEMORY if isinstance(error, MemoryError) else CRASHED
        _write(result, {"error": kind, "text": f"{type(error).__name__}: {error}"})
        raise
    _write(result, {"returned": str(returned) if isinstance(returned, Path) else None})


def _write(file: Path, values: dict[str, Any]) -> None:
    with atomic_file(file) as new:
        write_json(new, values)


if __name__ == "__main__":
    main()
