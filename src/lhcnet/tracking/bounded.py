"""Calls to MLflow in a process of their own, so that they have a bound and Ctrl-C ends them at once."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from lhcnet.errors import LhcnetError
from lhcnet.tracking.replay import NoAnswerError
from lhcnet.tracking.target import LastingError
from lhcnet.tracking.writer_process import request

_ERRORS: dict[str, type[LhcnetError]] = {"lasting": LastingError, "silent": NoAnswerError, "": LhcnetError}
_process: list[subprocess.Popen[str]] = []  # one for all calls: MLflow is loaded once


def deliver(folder: Path) -> int:
    """`delivery.deliver` with a bound on each call to MLflow."""
    return int(_ask("deliver", folder))


def register(folder: Path, **arguments: object) -> dict[str, Any]:
    """`registry.register_in_this_process` with a bound on each call to MLflow."""
    return dict(_ask("register", folder, arguments=arguments))


def stop() -> None:
    """End the process, whatever it does."""
    while _process:
        process = _process.pop()
        process.kill()
        process.wait()


def _ask(do: str, folder: Path, **more: object) -> Any:
    if not _process or _process[0].poll() is not None:
        _process[:] = [
            subprocess.Popen(
                [sys.executable, "-m", "lhcnet.tracking.worker", "answer"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # Ctrl-C ends us, and we end it
            )
        ]
    process = _process[0]
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(request(folder, do=do, **more))
            process.stdin.flush()
        line = process.stdout.readline()
    except BaseException:
        stop()
        raise
    if not line:
        raise LhcnetError(f"{folder}: the process that writes it to MLflow ended with status {process.wait()}")
    answer = json.loads(line)
    if "error" in answer:
        if answer["kind"] == "silent":
            stop()  # it ends itself after such an answer: the next call must not meet it half dead
        raise _ERRORS[answer["kind"]](answer["error"])
    return answer["value"]
