"""Waiting for a run: its tasks as they change, and how it ended as the exit status of a command."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.backend import Backend
from pipeline.connection import ApiError
from pipeline.runs import Run, Task, failed_text

POLL_SECONDS = 10.0
PATIENCE_SECONDS = 600.0  # a back end that is restarted
SUCCEEDED, FAILED, CANCELED, TIMED_OUT, LOST = 0, 1, 3, 4, 5  # exit statuses; 2 is a mistake on the command line
_EXIT_STATUS = {"SUCCEEDED": SUCCEEDED, "SKIPPED": SUCCEEDED, "CANCELED": CANCELED}


def wait_for_run(
    backend: Backend,
    run_id: str,
    say: Callable[[str], None],
    *,
    timeout: float = 0.0,
    poll: float = 0.0,
    patience: float = PATIENCE_SECONDS,
) -> int:
    """Wait until a run has ended.

    Args:
        backend: the back end.
        run_id: the run.
        say: is called with a line for each change of a task, and for each reason why one waits or failed.
        timeout: seconds after which waiting ends, while the run goes on; 0 waits without an end.
        poll: seconds between two questions; 0 takes `POLL_SECONDS`.
        patience: seconds that the back end may be away.

    Returns:
        The exit status: 0 succeeded, 1 failed, 3 terminated, 4 `timeout` is over, 5 the back end is lost.

    Raises:
        ApiError: the first question fails, or the run is not there.
    """
    start = answered = time.monotonic()
    known: set[str] = set()
    run = backend.run(run_id)
    while True:
        for line in task_lines(backend.tasks(run), backend.events):
            if line not in known:
                say(line)
                known.add(line)
        if run.ended:
            say(summary(run))
            return exit_status(run)
        try:
            time.sleep(poll or POLL_SECONDS)
            if timeout and time.monotonic() - start > timeout:
                say(f"{run_id}: still {run.state} after {timeout:g} s; it goes on without this command")
                return TIMED_OUT
            run = backend.run(run_id)
            answered = time.monotonic()
        except ApiError as error:
            if not error.transient or time.monotonic() - answered > patience:
                say(f"{error}; the run goes on without this command")
                return LOST
            if "away" not in known:
                say(f"{error}; asking again for up to {patience:g} s")
            known.add("away")
        else:
            known.discard("away")


def wait_for_end(backend: Backend, run_id: str, seconds: float) -> Run:
    """The run, as soon as it has ended, or as it is after `seconds`."""
    end = time.monotonic() + seconds
    run = backend.run(run_id)
    while not run.ended and time.monotonic() < end:
        time.sleep(min(2.0, POLL_SECONDS))
        run = backend.run(run_id)
    return run


def task_lines(tasks: list[Task], events: Callable[[Task], str] = lambda _: "") -> list[str]:
    """One line for each task: its state, its attempts, and why it failed or waits."""
    lines = []
    for task in tasks:
        attempts = f", attempt {task.attempts}" if task.attempts > 1 else ""
        why = failed_text(task, events)
        lines.append(f"{task.name}: {task.state}{attempts}{': ' + why if why else ''}")
    return lines


def summary(run: Run) -> str:
    """The state of a run in one line."""
    error = f": {run.error}" if run.error and run.state != "SUCCEEDED" else ""
    return f"{run.name or 'run'} ({run.run_id}): {run.state}{error}"


def exit_status(run: Run) -> int:
    """Exit status for a run that has ended."""
    return _EXIT_STATUS.get(run.state, FAILED)
