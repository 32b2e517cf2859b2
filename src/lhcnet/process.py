"""What a process that runs one step and ends tells Python's garbage collector."""

from __future__ import annotations

import atexit
import gc


def tune_gc() -> None:
    """Look for garbage seldom, and not at exit.

    torch and MLflow bring a million objects that stay as long as the process: looking through them over and over while
    they are imported, and twice more at exit, takes a third of the time of a step that computes little. What a training
    loop leaves behind is freed by its reference counts.
    """
    gc.set_threshold(100_000)  # new objects; Python's own 700 suit programs that allocate less
    atexit.register(gc.freeze)
