"""The three drivers of the flow (direct calls, DVC, Kubeflow's local runner), and comparison of their results."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from lhcnet import steps
from lhcnet.config import Config

ROOT = Path(__file__).parents[2]


def run_steps(config: Config, folder: Path) -> None:
    """The flow of `dvc.yaml` as direct calls, with its paths below `folder`."""
    context = steps.RunContext(compute=config.compute)
    trainval, test, backbone = folder / "trainval", folder / "test", folder / "backbone"
    steps.prepare(trainval, test, folder / "data_report.json", data=config.data)

    def train(start: Path, out: Path, stage_number: int, seed: int) -> Path:
        stage = config.stages[stage_number - 1]
        steps.train_stage(trainval, start, out, stage_number=stage_number, stage=stage, seed=seed, context=context)
        return out

    def insert(set_: str, name: str, variant: str, seed: int) -> Path:
        out = folder / "inserted" / set_ / name
        steps.insert_lhc(start, out, variant=config.variant(variant), set_=set_.upper(), seed=seed)
        return out

    first, seed = backbone / "stage1", config.seeds.backbone
    steps.train_backbone(trainval, first, network=config.network, stage=config.stage1, seed=seed, context=context)
    start = train(train(first, backbone / "stage2", 2, seed), backbone / "stage3", 3, seed)
    a = [train(start, folder / "a" / f"seed-{seed}", 4, seed) for seed in config.seeds.a]
    seed = config.seeds.b
    b = [train(insert("b", name, name, seed), folder / "b" / name, 4, seed) for name in config.variants]
    factor = config.selection.loss_factor
    best = steps.select(b, [start], folder / "best_of_b.json", loss_factor=factor).chosen_variant
    c = [
        train(insert("c", f"seed-{seed}", best, seed), folder / "c" / f"seed-{seed}", 4, seed)
        for seed in config.seeds.c
    ]
    models, selection, stages = [*a, *b, *c], folder / "selection.json", [backbone / f"stage{n}" for n in (1, 2, 3)]
    steps.select(models, stages, selection, loss_factor=factor)
    steps.control([*b, *c], selection, trainval, folder / "control", control=config.control, context=context)
    settings = {"evaluation": config.evaluation, "context": context}
    scores, analysis = folder / "evaluation", folder / "analysis"
    copies = {"control": folder / "control", "chosen": folder / "chosen"}
    steps.evaluate(models, selection, trainval, test, scores, **copies, **settings)
    steps.analyse(folder / "chosen", trainval, analysis, analysis=config.analysis, **settings)
    report = folder / "data_report.json"
    steps.compare(selection, scores, folder / "report", data_report=report, analysis=analysis)


def copy_project(folder: Path) -> None:
    """Copy what `dvc repro` needs: the graph, and the code it depends on; and what Git and DVC ignore."""
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "standalone", folder / "standalone", ignore=shutil.ignore_patterns("artifacts", "tmp", "cache")
    )
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))


def git(folder: Path, *arguments: str) -> str:
    """Run Git as a user who has a name; returns its output."""
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def dvc(folder: Path, environment: dict[str, str], *arguments: str, said: bool = False) -> str:
    """Run a DVC command; returns its output, with `said` also that of the steps (stderr)."""
    env = environment | {"DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(["dvc", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr if said else done.stdout


def kubeflow(folder: Path, environment: dict[str, str], *options: str) -> str:
    """Run the pipeline of the folder's params.yaml with kfp's local runner; returns its output."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "local", "--root", str(folder / "runs"), *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    logs = [p.read_text(errors="replace")[-5000:] for p in folder.glob("runs/*/log.txt")]
    assert done.returncode == 0, "\n".join([done.stderr[-3000:], *logs])
    return done.stdout


def assert_same_files(one: Path, other: Path) -> None:
    """Assert that two folders hold the same files with the same bytes."""
    contents = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in (one, other)]
    assert contents[0].keys() == contents[1].keys()
    assert [name for name in contents[0] if contents[0][name] != contents[1][name]] == []


def digest(report: Path) -> str:
    return str(json.loads((report / "statistics.json").read_text())["metrics_digest"])


def assert_same_analysis(one: Path, other: Path) -> None:
    assert (one / "analysis.json").read_bytes() == (other / "analysis.json").read_bytes()
