"""Trainings of the demo profile killed by SIGKILL at random moments, and what the same command makes of them.

    .venv/bin/python benchmarks/kills.py                    # 50 kills, about 20 minutes
    .venv/bin/python benchmarks/kills.py --kills 5 --seed 1

Each of the demo's trainings (stages 1-4, the fourth with and without LHC) is run once whole. Then one of them is
started, killed after a random time (anything from its start to its end), and started again by the same command. All
files of its model directory have to be those of the whole run, byte for byte, and no checkpoint may be left.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from measure import machine

from lhcnet.config import Checkpoints, profile, to_yaml

TRAININGS = {  # name -> arguments of `lhcnet train` behind the store
    "stage 1": ["out/1", "--stage", "1"],
    "stage 2": ["out/2", "--stage", "2", "--start", "whole/1"],
    "stage 3": ["out/3", "--stage", "3", "--start", "whole/2"],
    "stage 4 (set A)": ["out/a", "--stage", "4", "--start", "whole/3", "--seed", "0"],
    "stage 4 (LHC-Net)": ["out/b", "--stage", "4", "--start", "inserted", "--seed", "0"],
}


def lhcnet(*arguments: str, cwd: Path) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "lhcnet"), *arguments]
    with (cwd / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log, start_new_session=True)


def finished(process: subprocess.Popen[bytes], cwd: Path) -> None:
    if process.wait():
        raise SystemExit(f"{' '.join(map(str, process.args))} failed:\n{(cwd / 'log.txt').read_text()[-2000:]}")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def main(
    kills: int = 50, seed: int = 0, seconds: Annotated[float, typer.Option(help="Between checkpoints.")] = 0.5
) -> None:
    print(machine("torch"))
    with tempfile.TemporaryDirectory() as temporary:
        cwd = Path(temporary)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{cwd / 'mlflow.db'}"
        config = profile("demo", {"data.source": "faces.zip"})
        config = config.model_copy(update={"checkpoints": Checkpoints(seconds=seconds)})
        (cwd / "params.yaml").write_text(to_yaml(config))
        finished(lhcnet("faces", "faces.zip", cwd=cwd), cwd)
        finished(lhcnet("prepare", "trainval", "test", "data_report.json", cwd=cwd), cwd)
        took = {}
        for name, (out, *arguments) in TRAININGS.items():
            if name == "stage 4 (LHC-Net)":
                variant = next(iter(config.variants))
                finished(lhcnet("insert", "whole/3", "inserted", "--variant", variant, cwd=cwd), cwd)
            begun = time.monotonic()
            whole = out.replace("out", "whole")
            finished(lhcnet("train", "trainval", whole, *arguments, cwd=cwd), cwd)
            took[name] = time.monotonic() - begun
        chance = random.Random(seed)
        hit: Counter[str] = Counter()
        equal: Counter[str] = Counter()
        resumed: Counter[str] = Counter()
        while hit.total() < kills:
            name = chance.choice(list(TRAININGS))
            out, *arguments = TRAININGS[name]
            command = ("train", "trainval", out, *arguments)
            process = lhcnet(*command, cwd=cwd)
            time.sleep(chance.uniform(0, took[name]))
            os.killpg(process.pid, signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                continue  # it was faster
            hit[name] += 1
            resumed[name] += any((cwd / ".lhcnet" / "checkpoints").glob("*"))
            finished(lhcnet(*command, cwd=cwd), cwd)
            expected, found = contents(cwd / out.replace("out", "whole")), contents(cwd / out)
            left = list((cwd / ".lhcnet" / "checkpoints").iterdir()) if resumed[name] else []
            equal[name] += found == expected and not left
            print(f"{hit.total():3d} {name}: {'equal' if found == expected else 'DIFFERENT'}", flush=True)
    print("| training | kills | went on from a checkpoint | ended with the same bytes |\n| --- | --- | --- | --- |")
    for name in TRAININGS:
        print(f"| {name} | {hit[name]} | {resumed[name]} | {equal[name]} |")
    print(f"| all | {hit.total()} | {resumed.total()} | {equal.total()} |")
    raise SystemExit(equal.total() != hit.total())


if __name__ == "__main__":
    typer.run(main)
