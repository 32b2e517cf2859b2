"""Trainings of the demo profile killed by SIGKILL at random moments, and what the same command makes of them.

    .venv/bin/python benchmarks/kills.py                    # 50 kills, about 20 minutes
    .venv/bin/python benchmarks/kills.py --kills 5 --seed 1
    .venv/bin/python benchmarks/kills.py --kubeflow         # a whole pipeline, about 10 minutes

Each of the demo's trainings (stages 1-4, the fourth with and without LHC) is run once whole. Then one of them is
started, killed after a random time (anything from its start to its end), and started again by the same command. All
files of its model directory have to be those of the whole run, byte for byte, and no checkpoint may be left.

With --kubeflow the demo's pipeline runs twice through kfp's local runner, the second time with retries, and every
training of it is killed up to three times once it has begun. All models and the final metrics have to be the same.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer
from measure import machine, medians

from lhcnet.config import Checkpoints, Stage
from lhcnet.models.lhcnet import LHCNet
from lhcnet.profiles import profile, to_yaml
from lhcnet.training.checkpoint import Checkpoint
from lhcnet.training.optimizer import make_optimizer
from lhcnet.training.state import EpochTotals, TrainingState

ROOT = Path(__file__).parents[1]
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


def cost() -> str:
    """Of a checkpoint of the paper's LHC-Net with Adam, the largest that a training of the profile `paper` writes."""
    network = LHCNet(seed=0)
    state = TrainingState(
        network, make_optimizer(network, Stage(optimizer="adam")), EpochTotals.zero(torch.device("cpu")), epoch=1
    )
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    state.optimizer.step()
    state.best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    seconds = Checkpoints().seconds
    with tempfile.TemporaryDirectory(dir=".") as folder:  # on a disk: the temporary folder may lie in memory
        checkpoint = Checkpoint(Path(folder), "cost", {}, seconds)
        took = medians({"write": lambda: checkpoint.write(state.tensors(), state.progress())})["write"]
        size = checkpoint.path.stat().st_size / 1e6
    return f"a checkpoint of the paper's LHC-Net: {size:.0f} MB, {took:.2f} s, {took / seconds:.2%} of {seconds:.0f} s"


TASK = re.compile(r'"outputFile": ?"([^"]*/(?:train[^/]*|control)/)')  # in the command of a task that trains
MOST, LONGEST = 3, 2.0  # kills of one task; seconds from its first checkpoint, or that of one beside it, to a kill


def pipeline(cwd: Path, root: str, chance: random.Random | None) -> tuple[dict[str, bytes], Counter[str]]:
    """Files of the models and the report's metrics, by their places in the run; and the kills of each task."""
    command = [sys.executable, "-m", "pipeline", "local", "--root", root, "--retries", str(MOST)]
    at: dict[int, float] = {}  # process -> when it is killed
    kills: Counter[str] = Counter()
    checkpoints = cwd / ".lhcnet" / "checkpoints"
    with (cwd / "log.txt").open("ab") as log:
        process = psutil.Popen(command, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(0.1)
            for child in process.children(recursive=True) if chance else ():
                try:
                    task = TASK.search(" ".join(child.cmdline()))
                    if task is None or child.name() == "sh" or kills[task[1]] == MOST:
                        continue
                    written = [file.stat().st_mtime for file in checkpoints.glob("*.safetensors")]
                    if child.pid not in at and max(written, default=0.0) > child.create_time():
                        at[child.pid] = time.monotonic() + chance.uniform(0, LONGEST)
                    if time.monotonic() > at.get(child.pid, math.inf):
                        child.kill()
                        kills[task[1]] += 1
                except (psutil.NoSuchProcess, FileNotFoundError):
                    continue
    finished(process, cwd)
    (run,) = (cwd / root).glob("*/*/")
    models = [folder for name in ("model", "models/*", "chosen") for folder in run.glob(f"**/{name}/")]
    found = {str(file.relative_to(run)): file.read_bytes() for folder in models for file in folder.glob("*.*")}
    (summary,) = run.glob("compare/report/summary.json")
    return found | {"metrics": json.loads(summary.read_text())["metrics_digest"].encode()}, kills


def kubeflow(cwd: Path, seed: int) -> None:
    whole, _ = pipeline(cwd, "whole", None)
    found, kills = pipeline(cwd, "killed", random.Random(seed))
    resumed = (cwd / "killed").glob("*/log.txt")
    on = sum(file.read_text(errors="replace").count(": resuming at epoch") for file in resumed)
    different = sorted(name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name))
    print(f"{kills.total()} kills of {len(kills)} trainings, {on} went on from a checkpoint")
    print(f"{len(whole)} files compared, {len(different)} different: {', '.join(different) or '-'}")
    raise SystemExit(bool(different))


def main(
    kills: int = 50,
    seed: int = 0,
    seconds: Annotated[float, typer.Option(help="Between checkpoints.")] = 0.5,
    through_kubeflow: Annotated[bool, typer.Option("--kubeflow", help="A whole pipeline, with retries.")] = False,
) -> None:
    print(machine("torch"))
    if not through_kubeflow:
        print(cost())
    if not kills:
        return
    with tempfile.TemporaryDirectory() as temporary:
        cwd = Path(temporary)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{cwd / 'mlflow.db'}"
        config = profile("demo", {"data.source": "faces.zip"})
        config = config.model_copy(update={"checkpoints": Checkpoints(seconds=seconds)})
        (cwd / "params.yaml").write_text(to_yaml(config))
        finished(lhcnet("faces", "faces.zip", cwd=cwd), cwd)
        if through_kubeflow:
            kubeflow(cwd, seed)
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
