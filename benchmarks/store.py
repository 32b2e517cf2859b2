"""A store with many runs: how long `lhcnet runs compare` and MLflow's own search take.

python benchmarks/store.py                       # 500 child runs, on SQLite, about three minutes
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from measure import machine, medians

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the runs are drawn by tests/support

RUNS = 500


def draw(runs: int) -> str:
    """Draw an execution with so many child runs; returns its name."""
    from support.drawn_runs import DrawnRuns

    from lhcnet.tracking.store import open_client

    name, others = "cpu-01234567-89abcdef", 8  # four steps, three stages, one LHC-NetC
    third = (runs - others) // 3
    DrawnRuns(*open_client()).execution(name, a=third, b=third, c=runs - others - 2 * third)
    return name


def candidates(name: str, out: Path) -> dict[str, Callable[[], object]]:
    """What is timed."""
    from mlflow import MlflowClient

    from lhcnet.report.runs import runs_page
    from lhcnet.tracking.executions import read

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    found_experiment = client.get_experiment_by_name("lhcnet")
    if found_experiment is None:
        raise SystemExit("expected the experiment lhcnet, there is none")
    experiment = found_experiment.experiment_id
    command = [str(Path(sys.executable).with_name("lhcnet")), "runs", "compare", name, "--out", str(out)]
    found = read([name])
    return {
        f"`lhcnet runs compare --out`, {len(found.models)} models, whole process": lambda: subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL
        ),
        "of this: reading from MLflow": lambda: read([name]),
        "of this: tables and figures": lambda: runs_page(found),
        "MLflow's search_runs, 1000 a page": lambda: client.search_runs([experiment], max_results=1000),
        "MLflow's search_runs, 100 a page, sorted by val/accuracy, as its page asks": lambda: client.search_runs(
            [experiment], "params.`set` != 'backbone'", order_by=["metrics.`val/accuracy` DESC"], max_results=100
        ),
    }


def main(runs: Annotated[int, typer.Option(min=20, help="Child runs.")] = RUNS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        name = draw(runs)
        taken = medians(candidates(name, Path(folder) / "runs.html"))
    print(f"{machine('mlflow', 'sqlalchemy', 'pandas', 'matplotlib')}; {runs} child runs in SQLite, median of five")
    print("| what | seconds |\n| --- | --- |")
    for what, seconds in taken.items():
        print(f"| {what} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
