"""Memory and time of `lhcnet predict` on folders with 1,000, 10,000 and 100,000 pictures.

python benchmarks/many_files.py              # all three
python benchmarks/many_files.py 1000 10000

The pictures are hard links to 200 drawn faces in a temporary folder. The network is tiny: the question is what grows
with the number of files. Each folder is predicted by a process of its own, and its most bytes in main memory (VmHWM,
Linux) are printed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from measure import machine, seconds
from PIL import Image

from lhcnet.config import parse
from lhcnet.data.drawn_faces import draw
from lhcnet.saved import Architecture, Epoch, Metrics, ModelInfo, Provenance, save

SIZES = (1_000, 10_000, 100_000)
DRAWN = 200
TINY = {"depths": [1] * 4, "widths": [4] * 4, "head": [8], "modules": [{"heads": 1, "d": 2}] * 5, "input_size": 32}
REST = {"dropout": 0.2, "bn_momentum": 0.1}
# getrusage would give this process's peak: the kernel keeps it when a child starts
COMMAND = """
import atexit, sys
from pathlib import Path
from lhcnet.__main__ import main
peak = sys.argv.pop(1)
atexit.register(lambda: Path(peak).write_text(Path("/proc/self/status").read_text()))
main()
"""


def write_model(folder: Path) -> None:
    """A model directory with a tiny LHC-Net, and random weights."""
    architecture = parse(Architecture, TINY | REST, "tiny")
    provenance = Provenance(id="C/seed-0", set="C", stage=4, seed=0, variant="tiny", data="0" * 64, start="none")
    info, history = ModelInfo(architecture=architecture, provenance=provenance), [Epoch(epoch=0, val_accuracy=0.5)]
    save(folder, architecture.build(seed=1), info, Metrics(status="trained", train_loss=1.0), history)


def link(faces: list[Path], folder: Path, n: int) -> None:
    """Fill a folder with `n` hard links to the faces."""
    folder.mkdir()
    for number in range(n):
        os.link(faces[number % len(faces)], folder / f"{number:06}.png")


def main(sizes: Annotated[list[int] | None, typer.Argument(min=1, help="Numbers of pictures.")] = None) -> None:
    print(machine("torch", "pillow"))
    print("| pictures | time | most main memory |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_model(work / "model")
        (work / "drawn").mkdir()
        faces = [work / "drawn" / f"{number}.png" for number in range(DRAWN)]
        for face, pixels in zip(faces, draw(DRAWN, seed=0).images, strict=True):
            Image.fromarray(pixels).save(face)
        for n in sizes or SIZES:
            folder, rows = work / str(n), work / f"{n}.csv"
            link(faces, folder, n)
            words = ("predict", work / "model", folder, "--format", "csv", "--out", rows)
            command = [sys.executable, "-c", COMMAND, str(work / "status"), *map(str, words)]
            taken = seconds(partial(subprocess.run, command, check=True))
            status = dict(line.split(":", 1) for line in (work / "status").read_text().splitlines())
            with rows.open() as file:
                if (found := sum(1 for _ in file) - 1) != n:
                    raise SystemExit(f"{n:,} pictures, but {found:,} answers")
            print(f"| {n:,} | {taken:.1f} s | {int(status['VmHWM'].split()[0]) / 1024:.0f} MiB |", flush=True)


if __name__ == "__main__":
    typer.run(main)
