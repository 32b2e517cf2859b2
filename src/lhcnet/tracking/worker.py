"""The processes that speak to MLflow, as they see themselves.

`python -m lhcnet.tracking.worker follow`: deliver the journals that are named on stdin, one a line, while their steps
run; see `writer_process.py`.
`python -m lhcnet.tracking.worker answer`: do what a line on stdin asks for, and answer with a line; see `bounded.py`.

Both end when a call to MLflow takes too long, and print nothing: what MLflow prints may hold a password.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lhcnet.errors import LhcnetError
from lhcnet.runtime import tune_gc
from lhcnet.tracking.delivery import deliver, target_of
from lhcnet.tracking.folder import first_entry, running
from lhcnet.tracking.registry import register_in_this_process
from lhcnet.tracking.target import LastingError, without_secrets
from lhcnet.tracking.watchdog import WATCHDOG
from lhcnet.tracking.writer_process import LASTING, PROBLEM, call_limit, wait_limit

# MLflow loads them where they are installed, which is a third of its start; a record needs none of them
LEFT_OUT = ("pandas", "scipy")


def follow() -> None:
    """The writer process of a step."""
    for package in LEFT_OUT:
        sys.modules[package] = None  # type: ignore[assignment]  # `import` fails; MLflow can do without
    current: list[Path] = []
    patience = [wait_limit()]
    ended_at: dict[Path, float] = {}

    def ended() -> bool:
        """Whether the step of the journal has ended for longer than a step waits: a killed one does not wait at all."""
        folder = current[0] if current else None
        with suppress(OSError):
            if folder and not running(folder):
                return time.monotonic() > ended_at.setdefault(folder, time.monotonic()) + patience[0]
        return False

    WATCHDOG.start(call_limit(), lambda: _note(current[0], _no_answer(current[0])), ended)
    for line in sys.stdin:
        current[:] = [Path(_take_over(line)["folder"])]
        patience[0] = wait_limit()
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # `deliver` tries again
        try:
            deliver(current[0], patience[0])
        except LastingError:
            sys.exit(LASTING)
        except LhcnetError:
            sys.exit(1)  # the step may start another process
        current.clear()


def answer() -> None:
    """The process of `bounded.ask`."""
    answers = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    request: dict[str, Any] = {}
    parent = os.getppid()

    def say(**values: object) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    def no_answer() -> None:
        folder = Path(request["folder"])
        problem = _no_answer(folder)
        _note(folder, problem)
        say(error=problem, kind="silent")

    WATCHDOG.start(
        call_limit(),
        no_answer,
        lambda: os.getppid() != parent,  # nobody waits for the answer any more
    )
    for line in sys.stdin:
        request.clear()
        request.update(_take_over(line))
        try:
            if request["do"] == "deliver":
                say(value=deliver(Path(request["folder"])))
            else:
                say(value=register_in_this_process(Path(request["folder"]), **request["arguments"]))
        except LhcnetError as error:
            _note(Path(request["folder"]), str(error))
            say(error=str(error), kind="lasting" if isinstance(error, LastingError) else "")


def _take_over(line: str) -> dict[str, Any]:
    """Take over environment and folder of the process that sent a request; returns the request."""
    request = dict(json.loads(line))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    WATCHDOG.limit = call_limit()
    return request


def _no_answer(folder: Path) -> str:
    try:
        at = without_secrets(target_of(first_entry(folder)).uri)
    except (LhcnetError, OSError):
        at = "its address"
    return (
        f"MLflow at {at}: a call was not answered completely within {WATCHDOG.limit:g} s; "
        "a larger LHCNET_TRACKING_WAIT allows more"
    )


def _note(folder: Path, problem: str) -> None:
    with suppress(OSError):
        (folder / PROBLEM).write_text(f"{problem}\n", encoding="utf-8")


def main() -> None:
    tune_gc()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        {"follow": follow, "answer": answer}[sys.argv[1]]()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
