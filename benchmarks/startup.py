"""Time of everything but the computation: help, imports, logging, DVC, and each step in Kubeflow's local runner.

python benchmarks/startup.py quick       # help, imports, logging: two minutes
python benchmarks/startup.py steps       # the overhead of every step: three minutes
python benchmarks/startup.py demo        # the demo through Kubeflow's local runner and DVC: ten minutes
python benchmarks/startup.py             # all of it

No data are needed: the faces are drawn. The machine should be idle.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TypeVar

from measure import RUNS, Row, machine, medians, seconds

from lhcnet import steps
from lhcnet.config import Config, Data
from lhcnet.data.fer2013 import OFFICIAL_COUNTS
from lhcnet.profiles import profile, to_yaml
from lhcnet.saved import Epoch, SavedModel
from lhcnet.tracking.journal import Execution, journaled
from lhcnet.tracking.names import curve

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
}
T = TypeVar("T")
PACKAGES = ("torch", "kfp", "mlflow", "dvc")


def call(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}")


def quick() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return [*starts(Path(folder)), *logged(Path(folder))]


def starts(folder: Path) -> list[Row]:
    """Start of a process: what a command or a step loads before it begins, and what the writer of its record loads."""
    client = "from lhcnet.tracking.store import open_client; open_client()"
    programs = {  # as the executor of a component, which needs little of kfp
        "what every step loads (kfp's executor, lhcnet.steps)": "import kfp.dsl.executor_main, lhcnet.steps",
        "and torch": "import kfp.dsl.executor_main, lhcnet.steps, torch",
        "in a second process, the writer of its record: MLflow with its local store": client,
    }
    tune_gc = "from lhcnet.runtime import tune_gc; tune_gc()"
    runtime = {"_KFP_RUNTIME": "true", "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'starts.db'}"}

    def python(program: str) -> Callable[[], object]:
        command = [sys.executable, "-c", f"{tune_gc}; {program}"]
        return lambda: subprocess.run(command, env=ENVIRONMENT | runtime, check=True, capture_output=True)

    taken = medians(
        {"lhcnet --help": lambda: call("lhcnet", "--help", cwd=folder)}
        | {what: python(program) for what, program in programs.items()}
    )
    asked = {"lhcnet --help": "<= 0.3 s"}
    return [Row(what, "-", asked.get(what, "-"), f"{value:.2f} s") for what, value in taken.items()]


def logged(folder: Path) -> list[Row]:
    """Time to log an epoch, compared with the epoch itself.

    Epochs on drawn faces are timed by the training's log lines. Those of the profile cpu are scaled to the number of
    FER2013's training images: an epoch of stage 1 computes the same for every image.
    """
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'logged.db'}"
    os.environ["LHCNET_JOURNAL"] = str(folder / "journal")
    values = curve(Epoch(epoch=1, train_loss=1.0, train_accuracy=0.5, val_loss=1.0, val_accuracy=0.5))
    with journaled(Execution("logging", "0" * 64), "train", tags={}) as run:
        taken = median(seconds(partial(run.metrics, values, step=step)) for step in range(50))

    call("lhcnet", "faces", "faces.zip", cwd=folder)
    source = Data(source=str(folder / "faces.zip"))
    report = steps.prepare(folder / "trainval", folder / "test", folder / "report.json", data=source)
    drawn = sum(report.counts["train"].values())
    rows = []
    for name, images in (("demo", drawn), ("cpu", int(OFFICIAL_COUNTS[0].sum()))):
        config = profile(name, {"stage1.epochs": 4, "stage1.sizes": [], "network.weights": "none"})
        epoch = median(epochs(config, folder / "trainval", folder / name)[1:]) * images / drawn
        here = f"{1000 * taken:.1f} ms of {epoch:.1f} s, {taken / epoch:.2%}"
        rows.append(Row(f"logging an epoch, profile {name} ({images:,} images)", "-", "<= 1 %", here))
    return rows


def epochs(config: Config, trainval: Path, out: Path) -> list[float]:
    """Seconds of each epoch of stage 1."""
    finished: list[float] = []

    class Clock(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if " epoch " in record.getMessage():
                finished.append(record.created)

    clock, log = Clock(), logging.getLogger("lhcnet")
    log.addHandler(clock)
    log.setLevel(logging.INFO)
    try:
        context = steps.RunContext(compute=config.compute)
        steps.train_backbone(trainval, out, network=config.network, stage=config.stage1, seed=0, context=context)
    finally:
        log.removeHandler(clock)
    return [later - sooner for sooner, later in pairwise(finished)]


def overhead() -> list[Row]:
    """Overhead of each component: its time minus the time of its computation.

    A pipeline with one epoch a stage, few faces and one model in each loop, so that no two tasks run at once. A task is
    timed by the runner's log, from its start to its end. Its computation is the same call of `lhcnet.steps` in this
    process, which has loaded everything, without MLflow. The rest is the process, imports, MLflow and files of kfp.
    """
    module = {"heads": 4, "d": 3}
    changes = {f"stage{number}.epochs": 1 for number in (1, 2, 3, 4)} | {
        "control.training.epochs": 1,
        "seeds.a": [0],
        "seeds.c": [1],
        "variants": {"small": [module, module, *[{"heads": 1, "d": 3}] * 3]},
        "standalone.variant": "small",
        "evaluation.tta": "best",
        "analysis.images": 20,
        "selection.loss_factor": 100.0,  # one epoch may end anywhere
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        call("lhcnet", "faces", "faces.zip", "--images", "250", cwd=folder)
        config = profile("demo", changes | {"data.source": str(folder / "faces.zip")})
        (folder / "params.yaml").write_text(to_yaml(config))
        call(sys.executable, "-m", "pipeline", "local", cwd=folder)
        (log,) = folder.glob("runs/*/log.txt")
        whole = task_seconds(log.read_text())
        computation(config, folder / "first")
        own = computation(config, folder / "second")
    rows = []
    for name, computing in own.items():
        here = f"{whole[name] - computing:.1f} s ({whole[name]:.1f} s, {computing:.1f} s of it computing)"
        rows.append(Row(f"overhead of a step: {name}", "-", "<= 5 s", here))
    return rows


def task_seconds(log: str) -> dict[str, float]:
    """Seconds by name of task, from the runner's log; the median of tasks with a number after their name (train-2)."""
    plain = re.sub(r"\x1b\[\d+m", "", log)
    line = re.compile(r"^([\d:.]+) - INFO - (?:Executing task|Task) '([a-z-]+?)(-\d+)?'(.*)$", re.MULTILINE)
    begun: dict[str, datetime] = {}
    taken: dict[str, list[float]] = {}
    for at, name, number, end in line.findall(plain):
        now = datetime.strptime(at, "%H:%M:%S.%f")
        if not end:
            begun[name + number] = now
        elif end.startswith(" finished"):
            past = now - begun[name + number]
            taken.setdefault(name, []).append((past % timedelta(days=1)).total_seconds())  # midnight may be in between
    return {name: median(values) for name, values in taken.items()}


def computation(config: Config, at: Path) -> dict[str, float]:
    """Seconds of the steps, named as the components, called one after the other without tracking."""
    taken: dict[str, list[float]] = {}
    trainval, test, report = at / "trainval", at / "test", at / "data_report.json"
    context = steps.RunContext(compute=config.compute)
    stages = config.stages

    def timed(name: str, step: Callable[..., T], *places: object, **settings: object) -> T:
        begun = time.perf_counter()
        result = step(*places, **settings)
        taken.setdefault(name, []).append(time.perf_counter() - begun)
        return result

    def further(stage_number: int, start: SavedModel, seed: int = 0) -> SavedModel:
        out, settings = at / f"{stage_number}-{start.path.name}", {"context": context, "seed": seed}
        settings |= {"stage_number": stage_number, "stage": stages[stage_number - 1]}
        return timed("train", steps.train_stage, trainval, start.path, out, **settings)

    timed("prepare", steps.prepare, trainval, test, report, data=config.data)
    timed("start-weights", steps.start_weights, at / "start_weights", network=config.network)
    new = {"stage": config.stage1, "network": config.network, "seed": 0, "context": context}
    first = timed("train-backbone", steps.train_backbone, trainval, at / "1", **new)
    second = further(2, first)
    start = further(3, second)
    variant = config.variant("small")
    inserted = timed("insert-lhc", steps.insert_lhc, start.path, at / "inserted", variant=variant, set_="B", seed=0)
    settings = {"variant": variant, "set_": "C", "stage": stages[3], "seed": 1, "context": context}
    best = timed("train-best", steps.supervised.train_inserted, trainval, start.path, at / "best", **settings)
    trained = further(4, start), further(4, inserted), best
    models = [saved.path for saved in trained]
    rule = {"loss_factor": config.selection.loss_factor}
    timed("best-of-b", steps.select, models[1:2], [start.path], at / "best.json", **rule)
    selection, chosen = at / "selection.json", at / "chosen"
    timed("select", steps.select, models, [s.path for s in (first, second, start)], selection, **rule)
    gates, scores, settings = at / "control", at / "scores", {"evaluation": config.evaluation, "context": context}
    timed("control", steps.control, models[1:], selection, trainval, gates, control=config.control, context=context)
    timed(
        "evaluate", steps.evaluate, models, selection, trainval, test, scores, control=gates, chosen=chosen, **settings
    )
    timed("analyse", steps.analyse, chosen, trainval, at / "analysis", analysis=config.analysis, **settings)
    timed("compare", steps.compare, selection, scores, at / "out", data_report=report, analysis=at / "analysis")
    taken["register"] = taken["finish"] = [0.0]  # all of it is tracking
    return {name: median(values) for name, values in taken.items()}


def pipelines() -> list[Row]:
    """The demo from end to end in both drivers, and `dvc repro` when nothing has changed."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("dvc.yaml", "standalone", "src", ".dvcignore"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(source, folder)
        faces = seconds(lambda: call("lhcnet", "faces", "data/raw/faces.zip", cwd=folder))
        demo = seconds(lambda: call(sys.executable, "-m", "pipeline", "local", "--profile", "demo", cwd=folder))
        (folder / "params.yaml").write_text(to_yaml(profile("demo")))
        call("dvc", "init", "--no-scm", "-q", cwd=folder)
        shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
        with (folder / ".dvc" / "config").open("a") as file:
            file.write("    no_scm = true\n")
        first = seconds(lambda: call("dvc", "repro", cwd=folder))
        again = medians({"dvc": lambda: call("dvc", "repro", cwd=folder)})["dvc"]
    return [
        Row("draw 2,000 faces", "-", "-", f"{faces:.1f} s"),
        Row("demo, Kubeflow's local runner", "-", "< 240 s", f"{demo:.0f} s"),
        Row("demo, dvc repro", "-", "-", f"{first:.0f} s"),
        Row(f"no-op dvc repro, median of {RUNS}", "-", "<= 1.5 s", f"{again:.2f} s"),
    ]


PARTS: dict[str, Callable[[], list[Row]]] = {"quick": quick, "steps": overhead, "demo": pipelines}


def rows() -> list[Row]:
    return [row for part in PARTS.values() for row in part()]


def main() -> None:
    wanted = sys.argv[1:]
    if len(wanted) > 1 or not set(wanted) <= set(PARTS):
        raise SystemExit(__doc__)
    print(machine(*PACKAGES))
    found = PARTS[wanted[0]]() if wanted else rows()
    print("| what | target | here |\n| --- | --- | --- |")
    for row in found:
        print(f"| {row.what} | {row.asked} | {row.here} |")


if __name__ == "__main__":
    main()
