"""What each part of today's training recipe brings: trainings of one small network that differ in one part.

python benchmarks/recipe.py train runs data/raw/fer2013.zip                       # every arm once
python benchmarks/recipe.py train runs data/raw/fer2013.zip --arms plain,cpu,all --seeds 3
python benchmarks/recipe.py table runs --out docs/results/recipe.csv

Every training has the same network, images, augmentation, batches and number of epochs, and ends with the weights of
the best epoch on validation. `train` goes on where it was interrupted. Rates were fixed beforehand, from what is usual;
none was tuned, neither for an arm nor for the plain recipe.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from measure import machine
from numpy.typing import NDArray
from scipy.stats import ttest_1samp

from lhcnet.config import Compute, Config, Evaluation
from lhcnet.profiles import profile, to_yaml
from lhcnet.report.formatting import frame, markdown, percent, points, write_csv
from lhcnet.runtime import native_precision, open_device
from lhcnet.saved import open_model
from lhcnet.steps.scored_splits import ScoredSplits

NETWORK = {"input_size": 48, "depths": [2] * 4, "widths": [32, 64, 128, 256], "head": [], "weights": "none"}
AUGMENTATION = {"rotation": 10.0, "shift": 0.1, "zoom": 0.1, "flip": True, "brightness": 0.2}
PLAIN: dict[str, object] = {
    "network": NETWORK,
    "compute.threads": 1,  # the same figures with any number of cores, and two trainings fit on two
    "stage1.optimizer": "sgd",
    "stage1.learning_rate": 0.1,
    "stage1.batch_size": 128,
    "stage1.patience": None,
    "stage1.augmentation": AUGMENTATION,
}
MOMENTUM: dict[str, object] = {"stage1.momentum": 0.9, "stage1.nesterov": True, "stage1.learning_rate": 0.02}
ONE_CYCLE: dict[str, object] = {"stage1.schedule": "one_cycle", "stage1.warmup": 0.25, "stage1.learning_rate": 0.2}
PARTS: dict[str, dict[str, object]] = {
    "momentum": MOMENTUM,
    "cosine": {"stage1.schedule": "cosine"},
    "one_cycle": ONE_CYCLE,
    "ema": {"stage1.ema": 0.998},
    "weight_decay": {"stage1.weight_decay": 0.0005},
    "label_smoothing": {"stage1.label_smoothing": 0.1},
    "mixup": {"stage1.mixup": 0.2},
    "cutmix": {"stage1.cutmix": 1.0},
    "random_erasing": {"stage1.random_erasing": 0.25},
    "class_weights": {"stage1.class_weights": "balanced"},
    "leak_free": {"data.exclude": ["leaks", "blanks"]},
}
IN_CPU = ("ema", "weight_decay", "label_smoothing", "mixup", "random_erasing")  # with momentum and one-cycle
CPU: dict[str, object] = MOMENTUM | ONE_CYCLE | {key: value for part in IN_CPU for key, value in PARTS[part].items()}
ARMS: dict[str, dict[str, object]] = {
    "plain": {},
    **PARTS,
    "cpu": CPU,
    "cpu_leak_free": CPU | PARTS["leak_free"],
    "all": CPU | PARTS["class_weights"] | PARTS["leak_free"],
}
WORDS = {
    "plain": "SGD, constant rate",
    "cpu": "recipe of the profile cpu",
    "cpu_leak_free": "cpu, leak-free",
    "all": "cpu, class weights, leak-free",
}

Correct = dict[str, NDArray[np.bool]]  # by split
app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)


def settings(arm: str, seed: int, epochs: int, source: Path) -> Config:
    """Of one training."""
    changes = {"data.source": str(source.resolve()), "seeds.backbone": seed, "stage1.epochs": epochs}
    return profile("demo", PLAIN | ARMS[arm] | changes | {"compute.precision": native_precision()})


def command(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "lhcnet", *map(str, arguments)], check=True)


@app.command()
def train(
    folder: Annotated[Path, typer.Argument(help="Folder of all trainings.")],
    source: Annotated[Path, typer.Argument(help="FER2013.")],
    arms: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(ARMS),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm.")] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="Of every training.")] = 10,
) -> None:
    """Train what is not there yet."""
    for seed in range(seeds):
        for arm in arms.split(","):
            out, config = folder / arm / str(seed), settings(arm, seed, epochs, source)
            data = folder / ("leak_free_data" if config.data.exclude else "data")
            out.mkdir(parents=True, exist_ok=True)
            params = out / "params.yaml"
            params.write_text(to_yaml(config), encoding="utf-8")
            if not data.exists():
                stores = data / "trainval", data / "test", data / "report.json"
                command("prepare", *stores, "--params", params)
            if not (out / "model").exists():
                command("train", data / "trainval", out / "model", "--stage", 1, "--params", params)


@app.command()
def table(
    folder: Annotated[Path, typer.Argument(help="Folder of all trainings.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write.")] = None,
) -> None:
    """Score all trainings on validation and test, and print what each arm brings over the plain recipe."""
    splits, scored = ScoredSplits.open(folder / "data" / "trainval", folder / "data" / "test"), {}
    for arm in ARMS:
        models = sorted((folder / arm).glob("*/model"))
        if models:
            scored[arm] = [score(model, splits) for model in models]
    rows = frame([row(arm, found, scored["plain"], splits) for arm, found in scored.items()])
    print(f"{machine('torch')}\n\n{markdown(rows)}")
    if out:
        write_csv(out, rows)


def score(model: Path, splits: ScoredSplits) -> Correct:
    """Which images of validation and test a model classifies correctly."""
    saved = open_model(model)
    device = open_device(saved.info.provenance.compute or Compute(device="cpu"))
    size = saved.info.architecture.input_size
    predicted = splits.score(str(model), saved.network(), size, Evaluation(), device, tta=False).predicted
    return {name: p.argmax(1) == splits.splits[name][1] for name, p in predicted.items()}


def row(arm: str, found: list[Correct], plain: list[Correct], splits: ScoredSplits) -> dict[str, object]:
    """Means over the seeds. The gain is over the same seeds of the plain recipe.

    Its interval is that of a paired t-test over the images. What another seed would change is not in it; the column
    "test % of each seed" shows that.
    """
    right, n = np.mean([one["test"] for one in found], axis=0), min(len(found), len(plain))
    own = ~splits.train_duplicate["test"]
    values: dict[str, object] = {
        "recipe": WORDS.get(arm, f"+ {arm.replace('_', ' ')}"),
        "seeds": len(found),
        "val": float(np.mean([one["validation"] for one in found])),
        "test": float(right.mean()),
        "test % of each seed": ", ".join(percent(float(one["test"].mean())) for one in found),
        "test_distinct": float(right[own].mean()),
        "test duplicates %": percent(float(right[~own].mean()) if (~own).any() else None),
    }
    if arm != "plain":
        values |= gain([one["test"] for one in found[:n]], [one["test"] for one in plain[:n]])
    return values


def gain(right: list[NDArray[np.bool]], than: list[NDArray[np.bool]]) -> dict[str, object]:
    """Columns of a difference between two recipes with the same seeds, in the mean over the seeds."""
    gained = np.mean(right, axis=0) - np.mean(than, axis=0)
    tested = ttest_1samp(gained, 0)
    low, high = tested.confidence_interval(0.95)
    return {
        "difference": float(gained.mean()),
        "its 95 % CI": f"{points(float(low))}, {points(float(high))}",
        "p": float(tested.pvalue),
    }


if __name__ == "__main__":
    app()
