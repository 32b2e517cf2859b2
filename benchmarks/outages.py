"""MLflow that is down, killed, hanging or locked: how often a step ends well, and how often its record is complete.

python benchmarks/campaign.py outages             # each fault five times: some minutes
python benchmarks/campaign.py outages --times 20

The faults are those of tests/robustness/test_outages.py, with a real server process. A step logs three epochs, a file
and additions to other runs. Exit status 1 if a step did not end well, or if a record was incomplete after the replay.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from measure import RUNS, machine

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.outage import UNTOUCHED, Server, Step, lacking, one_epoch_written, record  # noqa: E402

from lhcnet.tracking.folder import pending_journals  # noqa: E402
from lhcnet.tracking.replay import replay  # noqa: E402

TIMES = RUNS
SHORT, LONG = 0.5, 300.0  # LHCNET_TRACKING_WAIT where MLflow comes back later, and where it comes back in time


def down_at_start(server: Server, folder: Path) -> tuple[Step, tuple[str, str]]:
    server.kill()
    step = Step(folder, server.uri, SHORT)
    said = step.go_to_the_end()
    server.start()
    return step, said


def killed(server: Server, folder: Path) -> tuple[Step, tuple[str, str]]:
    step = one_epoch_written(server, folder, SHORT)
    server.kill()
    said = step.go_to_the_end(since=0)
    server.start()
    return step, said


def killed_and_back(server: Server, folder: Path) -> tuple[Step, tuple[str, str]]:
    step = one_epoch_written(server, folder, LONG)
    server.kill()
    step.go()
    step.until(1)
    server.start()
    return step, step.go_to_the_end(since=1)


def hanging(server: Server, folder: Path) -> tuple[Step, tuple[str, str]]:
    step = one_epoch_written(server, folder, SHORT)
    with server.hanging():
        said = step.go_to_the_end(since=0)
    return step, said


def slow(server: Server, folder: Path) -> tuple[Step, tuple[str, str]]:
    """Hangs for a while after each epoch."""
    step = one_epoch_written(server, folder, LONG)
    for epoch in (1, 2):
        with server.hanging():
            step.go()
            step.until(epoch)
            time.sleep(0.5)
    step.go()
    return step, step.rest()


def locked(server: Server, folder: Path) -> tuple[Step, tuple[str, str]]:
    """The server's database is locked by another process."""
    step = one_epoch_written(server, folder, SHORT)
    with closing(sqlite3.connect(server.database, timeout=60)) as other:
        other.execute("begin exclusive")
        said = step.go_to_the_end(since=0)
        other.rollback()
    return step, said


def writer_killed(server: Server, folder: Path) -> tuple[Step, tuple[str, str]]:
    step = one_epoch_written(server, folder, LONG)
    step.kill_writer()
    return step, step.go_to_the_end(since=0)


FAULTS: dict[str, Callable[[Server, Path], tuple[Step, tuple[str, str]]]] = {
    "down at the start, back later": down_at_start,
    "killed in mid-run, back later": killed,
    "killed in mid-run, back before the end": killed_and_back,
    "hangs from mid-run on, back later": hanging,
    "hangs for a while after every epoch": slow,
    "its database locked from mid-run on, free later": locked,
    "the writing process killed in mid-run": writer_killed,
}


def outcome(fault: Callable[[Server, Path], tuple[Step, tuple[str, str]]], server: Server, folder: Path) -> list[str]:
    """Make one fault; returns which of COLUMNS came true."""
    if server.database.exists():
        server.start()
        server.forget()
    step, (printed, warned) = fault(server, folder)
    found = ["step ended well"] * (step.process.returncode == 0 and printed == UNTOUCHED)
    found += ["record complete at its end"] * (not lacking_now(server, step))
    found += ["warned"] * ("lhcnet tracking replay" in warned)
    list(replay(step.journals))
    first = record(server.database, server.artifacts)
    found += ["complete after replay"] * (
        not lacking(server.database, server.artifacts) and not pending_journals(step.journals)
    )
    list(replay(step.journals))
    return found + ["a second replay changes nothing"] * (record(server.database, server.artifacts) == first)


def lacking_now(server: Server, step: Step) -> bool:
    return bool(pending_journals(step.journals) or lacking(server.database, server.artifacts))


# the first and the last two must come true every time
COLUMNS = (
    "step ended well",
    "record complete at its end",
    "warned",
    "complete after replay",
    "a second replay changes nothing",
)


def main(times: Annotated[int, typer.Option(help="Of each fault.")] = TIMES) -> None:
    """Make each fault several times and count what came of it."""
    failed = False
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    print(machine("mlflow", "sqlalchemy"))
    print(f"| MLflow | times | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 2)}")
    with tempfile.TemporaryDirectory() as temporary:
        server = Server(Path(temporary))
        try:
            for name, fault in FAULTS.items():
                counted: Counter[str] = Counter()
                for repetition in range(times):
                    folder = Path(temporary) / f"{fault.__name__}-{repetition}"
                    counted.update(outcome(fault, server, folder))
                failed = failed or any(counted[column] < times for column in (COLUMNS[0], *COLUMNS[-2:]))
                cells = [str(counted[column]) for column in COLUMNS]
                print(f"| {name} | {times} | {' | '.join(cells)} |", flush=True)
        finally:
            server.kill()
    raise typer.Exit(failed)


if __name__ == "__main__":
    typer.run(main)
