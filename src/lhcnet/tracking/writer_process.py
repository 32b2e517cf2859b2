"""The process that writes a step's journal to MLflow, as the step sees it: started, and waited for with a bound.

MLflow takes seconds to load and may hang in a call; in a process of its own it costs the step neither.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event

from lhcnet.errors import LhcnetError

WAIT_VARIABLE = "LHCNET_TRACKING_WAIT"
PROBLEM = "trouble.txt"  # in a journal's folder: why MLflow did not take it, in one line
LASTING = 78  # exit status of the process: MLflow will never take it as things are
_POLL, _LOOK = 0.02, 0.5  # seconds between two looks, of a step that waits and of one that computes


def wait_limit() -> float:
    """Seconds that a step waits at its end for MLflow, from LHCNET_TRACKING_WAIT; 0: there is no writer process.

    Raises:
        LhcnetError: the variable is not a number of seconds.
    """
    text = os.environ.get(WAIT_VARIABLE) or "30"
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        raise LhcnetError(f"{WAIT_VARIABLE}={text}: expected seconds, 0 or more")
    return float(text)


def call_limit() -> float:
    """Seconds that one call to MLflow may take as a whole: what a step waits, and no less than its default."""
    return max(30.0, wait_limit())


def last_problem(folder: Path) -> str:
    """Why the last attempt to write a journal failed, in one line; "" if none did."""
    try:
        return (folder / PROBLEM).read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, ValueError):
        return ""


def request(folder: Path, **more: object) -> str:
    """A line for a process of `worker.py`: the journal, with the environment and the folder of ours as they are now."""
    own = {"folder": str(folder), "environment": dict(os.environ), "directory": str(Path.cwd())}
    return json.dumps(own | more) + "\n"


class WriterProcess:
    """A process that writes journals to MLflow, one after the other. It starts with the first of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def follow(self, folder: Path) -> None:
        """Let the process write a journal while its step runs."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lhcnet.tracking.worker", "follow"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # not ours: whoever reads our output would wait for its end
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # Ctrl-C ends the step, and the process then writes that it failed
            )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process has just died: `wait` starts another
            self._process.stdin.write(request(folder))
            self._process.stdin.flush()

    def watch(self, folder: Path, ended: Event, say: Callable[[str], None]) -> None:
        """While a step computes, say once why MLflow will never take its journal as things are.

        Args:
            folder: the journal.
            ended: set when the step has ended.
            say: called with the problem as soon as the process knows it.
        """
        while not ended.wait(_LOOK):
            if self._process is not None and self._process.poll() == LASTING:
                say(last_problem(folder))
                return

    def wait(self, folder: Path, seconds: float) -> str:
        """Wait until a closed journal is written.

        Args:
            folder: the journal.
            seconds: the longest time to wait; after it the process is killed, for it may hang in a call.

        Returns:
            why a part of it is not written, or "".
        """
        assert self._process is not None
        deadline, restarted = time.monotonic() + seconds, False
        while folder.exists():  # a journal that is written completely is removed
            status = self._process.poll()
            if status is not None and (restarted or status == LASTING):
                return last_problem(folder) or f"the process that writes it ended with status {status}"
            if status is not None:
                self.follow(folder)  # it died, perhaps for lack of memory: once more
                restarted = True
            if time.monotonic() > deadline:
                self._process.kill()
                self._process.wait()
                return last_problem(folder) or f"not written within {seconds:g} s"
            time.sleep(_POLL)
        return ""


WRITER = WriterProcess()  # one for all journals of this process: MLflow is loaded once
