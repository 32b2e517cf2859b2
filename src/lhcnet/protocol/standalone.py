"""The stand-alone pipeline after every stage: LHC-Net beside ResNet34v2 with the same data seeds (section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lhcnet.config import PLAIN, FrozenModel
from lhcnet.protocol.score import Score
from lhcnet.protocol.statistics import Paired, mcnemar, sentence, verdict
from lhcnet.saved import Epoch

PAPER = (
    "The paper trained both with the same data seeds and found LHC-Net above ResNet34v2 at the end of every stage, "
    "without figures."
)


class StandaloneModel(FrozenModel):
    """One network at the end of one stage. `variant` is null for the ResNet34v2."""

    id: str
    variant: str | None
    seed: int
    stage: int
    best_epoch: int
    val_accuracy: float | None
    train_loss: float | None
    test: Score
    test_distinct: Score
    history: tuple[Epoch, ...]


class StagePair(FrozenModel):
    """LHC-Net (first) against ResNet34v2 of the same seed at the end of a stage, on the same test images."""

    stage: int
    seed: int
    paired: Paired
    distinct: Paired
    sentence: str


class StandaloneReport(FrozenModel):
    """`standalone.json`."""

    data: str
    models: tuple[StandaloneModel, ...]
    pairs: tuple[StagePair, ...]


def pair(
    models: Sequence[StandaloneModel], right: Mapping[str, NDArray[np.bool]], own: NDArray[np.bool]
) -> list[StagePair]:
    """Compare the two networks of every stage and seed; `right` says which test images each id had right.

    Args:
        own: (n,) the test images without a twin in train.
    """
    by_place = {(model.stage, model.seed, model.variant is None): model for model in models}
    pairs = []
    for (stage, seed, plain), model in sorted(by_place.items()):
        if plain or (other := by_place.get((stage, seed, True))) is None:
            continue
        first, second = right[model.id], right[other.id]
        paired = mcnemar(first, second)
        pairs.append(
            StagePair(
                stage=stage,
                seed=seed,
                paired=paired,
                distinct=mcnemar(first[own], second[own]),
                sentence=f"Stage {stage}, seed {seed}: {sentence('LHC-Net', 'ResNet34v2', paired)}",
            )
        )
    return pairs


def rows(report: StandaloneReport) -> list[dict[str, str]]:
    """One row a network and stage, accuracies in per cent."""
    return [
        {
            "stage": str(model.stage),
            "seed": str(model.seed),
            "network": model.variant or PLAIN,
            "best epoch": str(model.best_epoch),
            "train loss": "-" if model.train_loss is None else f"{model.train_loss:.4f}",
            "val": "-" if model.val_accuracy is None else f"{100 * model.val_accuracy:.2f}",
            "test": f"{100 * model.test.accuracy:.2f}",
            "test 95 %": f"{100 * model.test.ci95[0]:.2f}-{100 * model.test.ci95[1]:.2f}",
            "test, no twin": f"{100 * model.test_distinct.accuracy:.2f}",
        }
        for model in sorted(report.models, key=lambda m: (m.stage, m.seed, m.variant is not None))
    ]


def pair_rows(report: StandaloneReport) -> list[dict[str, str]]:
    """One row a stage and seed: the difference and whether it is within noise."""
    return [
        {
            "stage": str(p.stage),
            "seed": str(p.seed),
            "LHC-Net - ResNet34v2": f"{p.paired.difference:+.2f}",
            "discordant": f"{p.paired.b} / {p.paired.c}",
            "p": f"{p.paired.p:.3f}",
            "verdict": verdict(p.paired),
            "no twin": f"{p.distinct.difference:+.2f}",
            "verdict, no twin": verdict(p.distinct),
        }
        for p in report.pairs
    ]
