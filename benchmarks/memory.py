"""How much of the accuracy is memory: trainings with and without the training images that test repeats.

python benchmarks/recipe.py train longer data/raw/fer2013.zip --arms cpu,cpu_leak_free --seeds 3 --epochs 30
python benchmarks/memory.py longer --out docs/results/memory.csv

The trainings differ in `data.exclude: [leaks, blanks]` alone. "Twins" are the test images that are byte-identical to a
training image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from measure import machine
from recipe import gain, score

from lhcnet.report.formatting import frame, markdown, percent, write_csv
from lhcnet.steps.scored_splits import ScoredSplits


def main(
    folder: Annotated[Path, typer.Argument(help="Of the trainings, written by recipe.py.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write.")] = None,
) -> None:
    """Print accuracy on all test images, on the twins and on the others, and the paired differences."""
    splits = ScoredSplits.open(folder / "data" / "trainval", folder / "data" / "test")
    arms = {
        title: [score(model, splits)["test"] for model in sorted((folder / arm).glob("*/model"))]
        for title, arm in (("trained on all", "cpu"), ("trained without leaks", "cpu_leak_free"))
    }
    every, less = arms.values()
    if len(every) != len(less) or not every:
        raise SystemExit(f"{folder}: expected as many trainings of cpu as of cpu_leak_free")
    twins = splits.train_duplicate["test"]
    parts = {"all": np.ones_like(twins), "without twins": ~twins} | ({"twins": twins} if twins.any() else {})
    table = frame(
        [
            {"test images": name, "n": int(rows.sum()), "seeds": len(every)}
            | {f"{title} %": percent(float(np.mean([one[rows] for one in found]))) for title, found in arms.items()}
            | gain([one[rows] for one in every], [one[rows] for one in less])
            for name, rows in parts.items()
        ]
    )
    print(f"{machine('torch')}\n\n{markdown(table)}")
    if out:
        write_csv(out, table)


if __name__ == "__main__":
    typer.run(main)
