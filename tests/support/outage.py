"""Faults of MLflow made with the real thing: a server process, its database, and a step in a process of its own.

`tests/robustness/test_outages.py` and `benchmarks/outages.py` use it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

TABLES = ("params", "tags", "metrics", "latest_metrics", "input_tags", "inputs", "datasets", "runs")
EXECUTION = "demo-dddddddd"
STEP = "train/A/seed-0"
OTHER = "train/backbone/stage1"
NAME, OTHER_NAME = "A seed 0", "backbone stage 1"  # of their runs
# A step that logs all there is to log. It prints after each epoch and goes on when it is told to; at its end it says
# whether it loaded MLflow or spoke to anybody.
PROGRAM = f"""
import logging, sys
from pathlib import Path

connected = []
sys.addaudithook(lambda event, _: connected.append(event) if event.startswith("socket.") else None)

from lhcnet.tracking.journal import Execution, journaled

logging.basicConfig(format="%(message)s")
with journaled(Execution("demo", "d" * 64), "{STEP}", tags={{"set": "A"}}) as run:
    run.params({{"stage": {{"epochs": 3}}}})
    run.dataset("FER2013", "d" * 64, "/data", "training")
    for epoch in range(3):
        run.metrics({{"val_accuracy": 0.5 + epoch / 10}}, step=epoch)
        print("epoch", epoch, flush=True)
        sys.stdin.readline()
    report = Path("report.csv")
    report.write_text("a,b\\n")
    run.file(report)
    report.unlink()  # the record has it all the same
    run.other("{OTHER}", {{"kept": True}}).metrics({{"test_accuracy": 0.7}})
    run.parent().tags({{"chosen": "A/seed-0"}})
    run.end_parent()
print("mlflow" in sys.modules, connected)
"""
UNTOUCHED = "False []"


class Step:
    """The step, in `folder`; it waits `patience` seconds at its end for MLflow at `uri`."""

    def __init__(self, folder: Path, uri: str, patience: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.journals = folder / "journal"
        changes = {
            "MLFLOW_TRACKING_URI": uri,
            "LHCNET_JOURNAL": str(self.journals),
            "LHCNET_TRACKING_WAIT": str(patience),
            "LHCNET_COMMIT": "c0ffee",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=folder,
            env=os.environ | changes,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, epoch: int) -> None:
        """Until the epoch is over; the step then waits for `go`."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == f"epoch {epoch}\n", line + self.rest()[1]

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def rest(self) -> tuple[str, str]:
        """(what it printed since, its warnings) after it has ended."""
        printed, warned = self.process.communicate()
        return printed.strip(), warned.strip()

    def kill_writer(self) -> None:
        """Kill the process that writes the step's journal: its only child."""
        (child,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)

    def go_to_the_end(self, *, since: int = -1) -> tuple[str, str]:
        """From the epoch `since` on, after which it waits."""
        for epoch in range(since + 1, 3):
            if epoch > 0:
                self.go()
            self.until(epoch)
        self.go()
        return self.rest()


class Server:
    """`mlflow server` on a database and a folder of artifacts of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database, self.artifacts, self._output = folder / "server.db", folder / "artifacts", folder / "server.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it answers; nothing if it runs already."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.database}", "--artifacts-destination", str(self.artifacts)]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=60).close()
                return
            except (urllib.error.URLError, ConnectionError):
                assert self._process.poll() is None, self._output.read_text()[-3000:]
                time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def forget(self) -> None:
        """Empty the record; the tables stay, and the server with them."""
        with closing(sqlite3.connect(self.database, timeout=60)) as connection, connection:
            for table in TABLES:
                connection.execute(f"delete from {table}")
        shutil.rmtree(self.artifacts, ignore_errors=True)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """It answers nothing until the block ends."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)


def one_epoch_written(server: Server, folder: Path, patience: float) -> Step:
    """A step whose first epoch is in the record; it waits for `go`."""
    step = Step(folder, server.uri, patience)
    step.until(0)
    while not points(server.database):
        time.sleep(0.02)
    return step


def record(database: Path, artifacts: Path) -> dict[str, list[Any]]:
    """Every row of every table of the record, and every artifact's bytes."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows: dict[str, list[Any]] = {
            table: sorted(connection.execute(f"select * from {table}").fetchall(), key=str) for table in TABLES
        }
    files = sorted(path for path in artifacts.rglob("*") if path.is_file())
    return rows | {"artifacts": [(str(path.relative_to(artifacts)), path.read_bytes()) for path in files]}


def points(database: Path) -> list[tuple[str, int, float, int]]:
    """(name, step, value, timestamp) of every point of the step's run that is there by now."""
    if not database.exists():
        return []
    query = """
        select m.key, m.step, m.value, m.timestamp from metrics m join runs r using (run_uuid)
        where r.name = ? and r.lifecycle_stage = 'active' order by m.key, m.step
    """
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as connection:
        return connection.execute(query, [NAME]).fetchall()


def entries(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (journal / "journal.jsonl").read_text().splitlines()]


def lacking(database: Path, artifacts: Path) -> list[str]:
    """What the record lacks, or has too much, of what the step said; runs that were replaced do not count."""
    query = "select name, status, run_uuid from runs where lifecycle_stage = 'active' order by name"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        runs = connection.execute(query).fetchall()
        tags = {(id_, key): value for id_, key, value in connection.execute("select run_uuid, key, value from tags")}
        params = connection.execute("select run_uuid, key, value from params").fetchall()
        added = connection.execute("select key, value, run_uuid from metrics where key = 'test_accuracy'").fetchall()
        datasets = connection.execute(
            "select d.name, i.destination_id from datasets d join inputs i on i.source_id = d.dataset_uuid"
        ).fetchall()
    names = [(name, status) for name, status, _ in runs]
    if names != [(NAME, "FINISHED"), (OTHER_NAME, "FINISHED"), (EXECUTION, "FINISHED")]:
        return [f"runs: {names}"]
    own, other, parent = ids = [id_ for _, _, id_ in runs]
    found = {
        "curve": [p[:3] for p in points(database)] == [("val_accuracy", n, 0.5 + n / 10) for n in range(3)],
        "parameter": [row for row in params if row[0] in ids] == [(own, "stage.epochs", "3")],
        "parents": [tags.get((id_, "mlflow.parentRunId")) for id_ in (own, other)] == [parent, parent],
        "tags": (tags.get((own, "set")), tags.get((own, "mlflow.source.git.commit"))) == ("A", "c0ffee"),
        "parent's tag": tags.get((parent, "chosen")) == "A/seed-0",
        "addition": added == [("test_accuracy", 0.7, other)] and tags.get((other, "kept")) == "True",
        "data set": [row for row in datasets if row[1] in ids] == [("FER2013", own)],
        "artifact": [path.read_text() for path in artifacts.rglob(f"{own}/artifacts/report.csv")] == ["a,b\n"],
    }
    return [what for what, good in found.items() if not good]
