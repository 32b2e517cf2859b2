"""Time and memory of `lhcnet prepare` on FER2013's 35,887 images, from PNGs in a zip and from a CSV.

python benchmarks/prepare.py data/raw/fer2013.zip     # without a file: on as many drawn faces

The whole command in a fresh process is measured: start, imports, reading, both stores, the data report, and the record
in MLflow. "without MLflow" calls the same step outside an execution.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from measure import RUNS, Row, machine

from lhcnet.data.drawn_faces import draw, write_csv, write_zip
from lhcnet.data.fer2013 import OFFICIAL_COUNTS, Faces
from lhcnet.data.sources import read
from lhcnet.profiles import profile, to_yaml

IMAGES = int(OFFICIAL_COUNTS.sum())
SIZES = (1_000, 4_000, 12_000, IMAGES)
TARGETS = ("trainval", "test", "data_report.json")
RECORDED = (str(Path(sys.executable).with_name("lhcnet")), "prepare", *TARGETS)
UNRECORDED = (
    sys.executable,
    "-c",
    "from pathlib import Path; from lhcnet import cli, steps; from lhcnet.config import load; "
    f"steps.prepare(*map(Path, {TARGETS}), data=load(Path('params.yaml')).data)",
)
Candidates = dict[str, tuple[tuple[str, ...], Path]]  # command and working directory by name
WRITERS: Mapping[str, Callable[[Faces, Path], None]] = {"zip": write_zip, "CSV": write_csv}
ASKED = {"zip": "<= 10 s", "CSV": "<= 8 s"}


# A process between this one and the measured one: on Linux a child's peak memory starts with its parent's.
LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.stderr if done.returncode else 0)
"""


def child(command: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """Run a command in `folder`; returns seconds and peak memory in MB."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    launched = (sys.executable, "-c", LAUNCHER, *command)
    done = subprocess.run(launched, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    taken, peak = map(float, done.stdout.split())
    return taken, peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def measured(candidates: Candidates, runs: int) -> dict[str, tuple[float, float]]:
    """(median seconds, peak MB) of each, in turns, after one run that is not counted: it creates MLflow's database."""
    for command, folder in candidates.values():
        child(command, folder)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(runs):
        for name, (command, folder) in candidates.items():
            found[name].append(child(command, folder))
    return {
        name: (statistics.median(taken for taken, _ in each), max(peak for _, peak in each))
        for name, each in found.items()
    }


def all_faces(source: Path | None) -> Faces:
    return draw(IMAGES, seed=0) if source is None else read(source)


@contextmanager
def folders(faces: Faces, original: Path | None = None) -> Iterator[dict[str, Path]]:
    """A working directory with params.yaml for the zip and one for the CSV; a zip `original` is copied unchanged."""
    with tempfile.TemporaryDirectory() as temporary:
        made: dict[str, Path] = {}
        for name, write in WRITERS.items():
            made[name] = Path(temporary, name)
            made[name].mkdir()
            target = made[name] / f"fer2013.{name.lower()}"
            if original and name == "zip":
                shutil.copy(original, target)
            else:
                write(faces, target)
            config = profile("paper", {"data.source": str(target)})
            (made[name] / "params.yaml").write_text(to_yaml(config), encoding="utf-8")
        yield made


def some(faces: Faces, n: int) -> Faces:
    """`n` images at equal distances: every class stays in every split."""
    rows = np.linspace(0, len(faces.labels) - 1, n).round().astype(int)
    return replace(faces, images=faces.images[rows], labels=faces.labels[rows], splits=faces.splits[rows])


def rows(source: Path | None) -> list[Row]:
    """Seconds and memory of the whole command on all images."""
    faces = all_faces(source)
    with folders(faces, source if source and source.suffix == ".zip" else None) as made:
        candidates: Candidates = {name: (RECORDED, folder) for name, folder in made.items()}
        candidates |= {f"{name}, without MLflow": (UNRECORDED, folder) for name, folder in made.items()}
        found = measured(candidates, RUNS)
    kind = f"{len(faces.labels):,} {'drawn faces' if source is None else 'images'}"
    table = [
        Row(f"prepare {kind}, {name}, median of {RUNS}", "-", ASKED.get(name, "-"), f"{taken:.1f} s")
        for name, (taken, _) in found.items()
    ]
    return table + [
        Row(f"prepare {kind}, {name}, peak memory", "-", "<= 700 MB", f"{found[name][1]:.0f} MB") for name in made
    ]


def growth(source: Path | None, runs: int = RUNS) -> list[tuple[int, float, float]]:
    """(images, seconds from the zip, seconds from the CSV), without MLflow, whose part does not grow."""
    faces, table = all_faces(source), []
    for n in SIZES:
        with folders(some(faces, n)) as made:
            found = measured({name: (UNRECORDED, folder) for name, folder in made.items()}, runs)
        table.append((n, found["zip"][0], found["CSV"][0]))
    return table


def main(source: Annotated[Path | None, typer.Argument(help="FER2013; without it, faces are drawn.")] = None) -> None:
    print(machine("numpy", "pillow", "mlflow"))
    print("\n| what | elsewhere | asked for | here |\n| --- | --- | --- | --- |")
    for row in rows(source):
        print(f"| {row.what} | {row.elsewhere} | {row.asked} | {row.here} |")
    print("\nThe step without MLflow, by images (in brackets: ms an image more)\n")
    print("| images | zip | CSV |\n| --- | --- | --- |")
    table = growth(source)
    print("| {:,} | {:.2f} s | {:.2f} s |".format(*table[0]))
    for (fewer, *before), (images, *taken) in pairwise(table):
        cells = [f"{s:.2f} s ({1000 * (s - b) / (images - fewer):.3f})" for s, b in zip(taken, before, strict=True)]
        print(f"| {images:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    typer.run(main)
