"""Trainings killed by SIGKILL at random moments, then repeated by the same command: do they give the same bytes?

python benchmarks/campaign.py kills                    # 50 kills, about 20 minutes
python benchmarks/campaign.py kills --kills 5 --seed 1
python benchmarks/campaign.py kills --kubeflow         # a whole pipeline, about 10 minutes

Each training of the demo profile (stages 1-4, the fourth with and without LHC) runs once without interruption. Then one
of them is started, killed after a random time between its start and its end, and started again by the same command. All
files of its model directory have to equal those of the uninterrupted run, and no checkpoint may be left.

With --kubeflow the demo pipeline runs twice through kfp's local runner. The second time each training is killed up to
three times after it has begun, and retried by the runner. All models and the final metrics have to be equal.
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
KILLS = 50
TRAININGS = {  # name -> arguments of `lhcnet train` after the store
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


def wait_for(process: subprocess.Popen[bytes], cwd: Path) -> None:
    if process.wait():
        raise SystemExit(f"{process.args!r} failed:\n{(cwd / 'log.txt').read_text()[-2000:]}")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def cost() -> str:
    """Size and time of a checkpoint of the paper's LHC-Net with Adam, the largest one of the profile `paper`."""
    network = LHCNet(seed=0)
    state = TrainingState(
        network, make_optimizer(network, Stage(optimizer="adam")), EpochTotals.zero(torch.device("cpu")), epoch=1
    )
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    state.optimizer.step()
    state.best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    seconds = Checkpoints().seconds
    with tempfile.TemporaryDirectory(dir=".") as folder:  # on a disk: the temporary folder may be in memory
        checkpoint = Checkpoint(Path(folder), "cost", {}, seconds)
        took = medians({"write": lambda: checkpoint.write(state.tensors(), state.progress())})["write"]
        size = checkpoint.path.stat().st_size / 1e6
    return f"a checkpoint of the paper's LHC-Net: {size:.0f} MB, {took:.2f} s, {took / seconds:.2%} of {seconds:.0f} s"


TASK = re.compile(r'"outputFile": ?"([^"]*/(?:train[^/]*|control)/)')  # in the command of a task that trains
MAX_KILLS, MAX_DELAY = 3, 2.0  # kills of one task; seconds from a first checkpoint to a kill


def pipeline(cwd: Path, root: str, chance: random.Random | None) -> tuple[dict[str, bytes], Counter[str]]:
    """Run the demo pipeline.

    Args:
        cwd: working directory.
        root: folder for the runs.
        chance: decides when trainings are killed; None: none is.

    Returns:
        files of the models and the metrics digest, by path; and the number of kills of each task.
    """
    command = [sys.executable, "-m", "pipeline", "local", "--root", root, "--retries", str(MAX_KILLS)]
    at: dict[int, float] = {}  # process -> when it is killed
    kills: Counter[str] = Counter()
    checkpoints = cwd / ".lhcnet" / "checkpoints"
    with (cwd / "log.txt").open("ab") as log:
        process = psutil.Popen(command, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(0.1)
            for child in process.children(recursive=True):
                try:
                    task = TASK.search(" ".join(child.cmdline()))
                    if task is None or child.name() == "sh" or kills[task[1]] == MAX_KILLS:
                        continue
                    written = [file.stat().st_mtime for file in checkpoints.glob("*.safetensors")]
                    if chance and child.pid not in at and max(written, default=0.0) > child.create_time():
                        at[child.pid] = time.monotonic() + chance.uniform(0, MAX_DELAY)
                    if time.monotonic() > at.get(child.pid, math.inf):
                        child.kill()
                        kills[task[1]] += 1
                except (psutil.NoSuchProcess, FileNotFoundError):
                    continue
    wait_for(process, cwd)
    (run,) = (cwd / root).glob("*/*/")
    models = [folder for name in ("model", "models/*", "chosen") for folder in run.glob(f"**/{name}/")]
    found = {str(file.relative_to(run)): file.read_bytes() for folder in models for file in folder.glob("*.*")}
    (statistics,) = run.glob("compare/report/statistics.json")
    return found | {"metrics": json.loads(statistics.read_text())["metrics_digest"].encode()}, kills


def kubeflow(cwd: Path, seed: int) -> None:
    """Compare a pipeline whose trainings are killed with an uninterrupted one; ends the process."""
    whole, _ = pipeline(cwd, "whole", None)
    found, kills = pipeline(cwd, "killed", random.Random(seed))
    resumed = (cwd / "killed").glob("*/log.txt")
    on = sum(file.read_text(errors="replace").count(": resuming at epoch") for file in resumed)
    different = sorted(name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name))
    print(f"{kills.total()} kills of {len(kills)} trainings, {on} went on from a checkpoint")
    print(f"{len(whole)} files compared, {len(different)} different: {', '.join(different) or '-'}")
    raise SystemExit(bool(different))


def main(
    kills: int = KILLS,
    seed: int = 0,
    seconds: Annotated[float, typer.Option(help="Between checkpoints.")] = 0.5,
    through_kubeflow: Annotated[bool, typer.Option("--kubeflow", help="A whole pipeline, with retries.")] = False,
) -> None:
    """Kill trainings, repeat them, and compare their files with those of uninterrupted runs."""
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
        wait_for(lhcnet("faces", "faces.zip", cwd=cwd), cwd)
        if through_kubeflow:
            kubeflow(cwd, seed)
        wait_for(lhcnet("prepare", "trainval", "test", "data_report.json", cwd=cwd), cwd)
        took = {}
        for name, (out, *arguments) in TRAININGS.items():
            if name == "stage 4 (LHC-Net)":
                variant = next(iter(config.variants))
                wait_for(lhcnet("insert", "whole/3", "inserted", "--variant", variant, cwd=cwd), cwd)
            begun = time.monotonic()
            whole = out.replace("out", "whole")
            wait_for(lhcnet("train", "trainval", whole, *arguments, cwd=cwd), cwd)
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
            wait_for(lhcnet(*command, cwd=cwd), cwd)
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
