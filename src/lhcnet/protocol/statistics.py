"""What a difference is worth: intervals, paired tests, permutation tests, spread.

A test says how often a difference as large would come about if there were none; under ALPHA it is called beyond noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lhcnet.config import FrozenModel

ALPHA = 0.05
EXACT = 200_000  # up to this many divisions of the models into two sets are all gone through
RESAMPLES = 9_999  # beyond that, so many are drawn (seeded)


class Paired(FrozenModel):
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


class Permuted(FrozenModel):
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


class Spread(FrozenModel):
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
