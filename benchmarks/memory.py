"""How much of the accuracy is memory: one training with, one without the training images that test repeats.

python benchmarks/memory.py artifacts/backbone/stage1 without/backbone/stage1 artifacts/trainval artifacts/test

Both models have the same settings and seed, but for `data.exclude: [leaks, blanks]`. The stores are those of the first
model, from which "twins" are known: the test images that are byte-identical to a training image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from measure import machine
from recipe import score

from lhcnet.protocol.statistics import mcnemar, paired_interval, wilson
from lhcnet.report.formatting import frame, interval, markdown, percent, points, write_csv
from lhcnet.steps.scored_splits import ScoredSplits


def main(
    model: Annotated[Path, typer.Argument(help="Trained on all training images.")],
    without: Annotated[Path, typer.Argument(help="Trained without those that test repeats.")],
    trainval: Annotated[Path, typer.Argument(help="Store with all training images.")],
    test: Annotated[Path, typer.Argument(help="Store with the test split.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write.")] = None,
) -> None:
    """Print accuracy on all test images, on the twins and on the others, and the paired differences."""
    splits = ScoredSplits.open(trainval, test)
    right = [score(folder, splits)["test"] for folder in (model, without)]
    twins = splits.train_duplicate["test"]
    parts = {"all": np.ones_like(twins), "without twins": ~twins} | ({"twins": twins} if twins.any() else {})
    table = frame([row(name, *(one[rows] for one in right)) for name, rows in parts.items()])
    print(f"{machine('torch')}\n\n{markdown(table)}")
    if out:
        write_csv(out, table)


def row(name: str, all_: np.ndarray, less: np.ndarray) -> dict[str, object]:
    paired, (low, high) = mcnemar(all_, less), paired_interval(all_, less)
    return {
        "test images": name,
        "n": len(all_),
        **{
            f"{title} % (95 % CI)": f"{percent(one.mean())} ({interval(wilson(int(one.sum()), len(one)))})"
            for title, one in (("trained on all", all_), ("trained without leaks", less))
        },
        "difference, points (95 % CI)": f"{points(paired.difference)} ({points(low)}, {points(high)})",
        "p": paired.p,
    }


if __name__ == "__main__":
    typer.run(main)
