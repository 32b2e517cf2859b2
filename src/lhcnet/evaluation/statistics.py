"""What a difference is worth: intervals, paired tests, permutation tests, spread; and the paper's Table 7.

A test says how often a difference as large would come about if there were none; under ALPHA it is called beyond noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lhcnet.config import Section

ALPHA = 0.05
EXACT = 200_000  # up to this many divisions of the models into two sets are all gone through
RESAMPLES = 9_999  # beyond that, so many are drawn (seeded)

COLUMNS = ("top 40%", "top 40% w/o best", "top 25%", "top 25% w/o best", "best")

# Table 7 of the paper, in per cent
PAPER_TABLE_7: Mapping[str, tuple[float, ...]] = {
    "ResNet34v2": (72.69, 72.65, 72.75, 72.69, 72.81),
    "LHC-Net": (72.89, 72.77, 73.02, 72.83, 73.39),
    "LHC-NetC": (73.04, 72.79, 73.21, 72.89, 73.53),
}


@dataclass(frozen=True)
class PaperRow:
    """One row of Table A2: per cent, millions, per cent; None where the paper has a dash."""

    model: str
    accuracy: float
    tta: bool
    params: float | None = None
    share: float | None = None


PAPER_TABLE_A2 = (
    PaperRow("BoW Repr. [37]", 67.48, False),
    PaperRow("Human [37]", 70.00, False),
    PaperRow("CNN [39]", 70.02, False),
    PaperRow("VGG19 [38]", 70.80, True, 143.7),
    PaperRow("EffNet [38] *", 70.80, True, 9.18),
    PaperRow("SVM [37]", 71.16, False),
    PaperRow("Inception [40]", 71.60, True, 23.85),
    PaperRow("Incep.v1 [38] *", 71.97, True, 5),
    PaperRow("ResNet34 [40]", 72.40, True, 27.6),
    PaperRow("ResNet34 [38]", 72.42, True, 27.6),
    PaperRow("VGG [40]", 72.70, True, 143.7),
    PaperRow("SE-Net50 [41]", 72.70, True, 27, 5.18),
    PaperRow("Incep.v3 [38] *", 72.72, True, 23.85),
    PaperRow("ResNet34v2", 72.81, False, 27.6),
    PaperRow("BAMRN50 [38] *", 73.14, True, 24.07, 1.62),
    PaperRow("Dense121 [38]", 73.16, True, 8.06),
    PaperRow("ResNet50 [41]", 73.20, True, 25.6),
    PaperRow("ResNet152 [38]", 73.22, True, 60.38),
    PaperRow("VGG [42]", 73.28, True, 143.7),
    PaperRow("CBAMRN50 [38]", 73.39, True, 28.09, 9),
    PaperRow("LHC-Net", 73.39, False, 32.4, 14.8),
    PaperRow("LHC-NetC", 73.53, False, 32.4, 14.8),
    PaperRow("ResNet34v2", 73.92, True, 27.6),
    PaperRow("RM-Net [38]", 74.14, True, 142.9, 80.7),
    PaperRow("LHC-NetC", 74.28, True, 32.4, 14.8),
    PaperRow("LHC-Net", 74.42, True, 32.4, 14.8),
)


class Paired(Section):
    """McNemar's exact test on n images: `b` only the first had right, `c` only the second.

    `difference` is in points; `least` is the smallest p that b + c discordant images could give.
    """

    kind: Literal["McNemar"] = "McNemar"
    n: int
    accuracy_a: float
    accuracy_b: float
    b: int
    c: int
    difference: float
    p: float
    least: float


class Permuted(Section):
    """Permutation test of two sets of models; `exact` if all divisions were gone through. The rest as in `Paired`."""

    kind: Literal["permutation"] = "permutation"
    n_a: int
    n_b: int
    mean_a: float
    mean_b: float
    difference: float
    p: float
    least: float
    exact: bool


class Spread(Section):
    """Mean and sample standard deviation (None for one value) of n models."""

    n: int
    mean: float
    sd: float | None
    min: float
    max: float


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of hits / n."""
    from scipy.stats import binomtest  # takes a second to load, and most steps never score

    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(correct_a: NDArray[np.bool], correct_b: NDArray[np.bool]) -> Paired:
    """Two models on the same images, (n,) which of them each had right: is b as likely as c?"""
    from scipy.stats import binomtest

    if correct_a.shape != correct_b.shape or not correct_a.size:
        raise ValueError(f"expected two models on the same images, not {correct_a.shape} and {correct_b.shape}")
    b, c = int((correct_a & ~correct_b).sum()), int((~correct_a & correct_b).sum())
    return Paired(
        n=correct_a.size,
        accuracy_a=float(correct_a.mean()),
        accuracy_b=float(correct_b.mean()),
        b=b,
        c=c,
        difference=100 * (b - c) / correct_a.size,
        p=float(binomtest(b, b + c).pvalue) if b + c else 1.0,
        least=min(1.0, 2 * 0.5 ** (b + c)),
    )


def permutation(a: Sequence[float], b: Sequence[float]) -> Permuted:
    """Two sets of accuracies (0..1): would a random division of the models give means as far apart?

    Raises ValueError for a set of fewer than two.
    """
    from scipy.stats import permutation_test

    if min(len(a), len(b)) < 2:
        raise ValueError(f"expected at least two models in each set, not {len(a)} and {len(b)}")
    divisions = comb(len(a) + len(b), len(a))
    tested = permutation_test(
        (np.asarray(a), np.asarray(b)),
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        vectorized=True,
        n_resamples=np.inf if divisions <= EXACT else RESAMPLES,
        batch=10_000,
        rng=np.random.default_rng(0),
    )
    mean_a, mean_b = float(np.mean(a)), float(np.mean(b))
    return Permuted(
        n_a=len(a),
        n_b=len(b),
        mean_a=mean_a,
        mean_b=mean_b,
        difference=100 * (mean_a - mean_b),
        p=float(tested.pvalue),
        least=min(1.0, 2 / divisions),
        exact=divisions <= EXACT,
    )


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(n=len(values), mean=float(np.mean(values)), sd=sd, min=min(values), max=max(values))


def verdict(test: Paired | Permuted) -> str:
    return "beyond noise" if test.p < ALPHA else "within noise"


def p_text(p: float, equals: str = "", below: str = "") -> str:
    return f"{equals}{p:.3f}" if p >= 0.001 else f"{below}< 0.001"


def sentence(first: str, second: str, test: Paired | Permuted) -> str:
    """The comparison in words, with its verdict; says so when the test could not have come out otherwise."""
    p = p_text(test.p, "p = ", "p ")
    if isinstance(test, Paired):
        figures = (
            f"{first} {100 * test.accuracy_a:.2f} against {second} {100 * test.accuracy_b:.2f} on the same "
            f"{test.n:,} images: {test.difference:+.2f} points, {test.b} against {test.c} discordant, {p}"
        )
        few = f"{test.b + test.c} discordant images are"
    else:
        figures = (
            f"{first} {100 * test.mean_a:.2f} (mean of {test.n_a}) against {second} {100 * test.mean_b:.2f} "
            f"(mean of {test.n_b}): {test.difference:+.2f} points, {'exact' if test.exact else 'seeded'} "
            f"permutation test {p}"
        )
        few = f"{test.n_a} against {test.n_b} models are"
    if test.least >= ALPHA:
        return f"{figures}: within noise; {few} too few for any difference to reach p < {ALPHA:g}."
    return f"{figures}: {verdict(test)}."


def table_7_row(accuracies: Sequence[float]) -> tuple[float | None, ...]:
    """Accuracies (any order, any unit) of one set -> the five columns of Table 7, in the same unit.

    The top p % of n models are the round(p n) best, at least one. Without the best, one model leaves no mean: None.
    """
    if not accuracies:
        return (None,) * len(COLUMNS)
    ranked = sorted(accuracies, reverse=True)
    row: list[float | None] = []
    for share in (0.40, 0.25):
        top = ranked[: max(1, round(share * len(ranked)))]
        row += [sum(top) / len(top), sum(top[1:]) / len(top[1:]) if len(top) > 1 else None]
    return (*row, ranked[0])
