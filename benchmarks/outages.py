"""MLflow away, killed, hanging, locked, over and over: how often a step ends well and its record is whole in the end.

python benchmarks/outages.py       # each fault five times: some minutes
python benchmarks/outages.py 20

The faults are those of tests/test_outages.py, made with a real server process. A step logs three epochs, a file and
additions to other runs; at its end it waits for MLflow so long as the fault leaves it time to.
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

from measure import RUNS, machine

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.outage import UNTOUCHED, Server, Step, lacking, one_epoch_written, record  # noqa: E402

from lhcnet.tracking.delivery import pending_journals, replay  # noqa: E402

SHORT, LONG = 0.5, 300.0  # seconds at a step's end, where MLflow does not come back meanwhile and where it does


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
    """Hangs for a while, over and over."""
    step = one_epoch_written(server, folder, LONG)
    for epoch in (1, 2):
        with server.hanging():
            step.go()
            step.until(epoch)
            time.sleep(0.5)
    step.go()
    return step, step.rest()


def locked(server: Server, folder: Path) -> tuple[Step, tuple[str, str]]:
    """The database of the server, by somebody else."""
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
    """What can be said of this time: each of it is counted."""
    if server.database.exists():
        server.start()
        server.forget()
    step, (printed, warned) = fault(server, folder)
    found = ["step ended well"] * (step.process.returncode == 0 and printed == UNTOUCHED)
    found += ["record whole at its end"] * (not lacking_now(server, step))
    found += ["warned"] * ("lhcnet tracking replay" in warned)
    replay(step.journals)
    first = record(server.database, server.artifacts)
    found += ["whole after replay"] * (
        not lacking(server.database, server.artifacts) and not pending_journals(step.journals)
    )
    replay(step.journals)
    return found + ["a second replay changes nothing"] * (record(server.database, server.artifacts) == first)


def lacking_now(server: Server, step: Step) -> bool:
    return bool(pending_journals(step.journals) or lacking(server.database, server.artifacts))


COLUMNS = (
    "step ended well",
    "record whole at its end",
    "warned",
    "whole after replay",
    "a second replay changes nothing",
)


def main() -> None:
    if len(sys.argv) > 2 or not all(argument.isdigit() for argument in sys.argv[1:]):
        raise SystemExit(__doc__)
    times = int(sys.argv[1]) if sys.argv[1:] else RUNS
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    print(machine("mlflow", "sqlalchemy"))
    print(f"| MLflow | times | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 2)}")
    with tempfile.TemporaryDirectory() as temporary:
        server = Server(Path(temporary))
        try:
            for name, fault in FAULTS.items():
                counted: Counter[str] = Counter()
                for time_ in range(times):
                    folder = Path(temporary) / f"{fault.__name__}-{time_}"
                    counted.update(outcome(fault, server, folder))
                cells = [str(counted[column]) for column in COLUMNS]
                print(f"| {name} | {times} | {' | '.join(cells)} |", flush=True)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
