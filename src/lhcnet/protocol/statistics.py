"""Confidence intervals, paired tests, permutation tests, and the spread over seeds; all of them from scipy and numpy.

The p of a test is the probability of a difference at least as large if there were none. It is significant below ALPHA.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lhcnet.config import FrozenModel

ALPHA = 0.05
EXACT = 200_000  # up to this many divisions of the models into two sets, the permutation test is exact
RESAMPLES = 9_999  # else this many divisions are drawn, with a fixed seed


class Difference(FrozenModel):
    """A difference of two accuracies (first minus second, 0..1), its p, and the smallest p that the test can give."""

    difference: float
    p: float
    smallest_p: float

    @property
    def significant(self) -> bool:
        return self.p < ALPHA


class Paired(Difference):
    """McNemar's exact test on the same n images: `b` are right by the first model alone, `c` by the second alone."""

    kind: Literal["McNemar"] = "McNemar"
    n: int
    accuracy_a: float
    accuracy_b: float
    b: int
    c: int


class Permuted(Difference):
    """Permutation test of two sets of models; `exact` if all divisions into sets of these sizes were counted."""

    kind: Literal["permutation"] = "permutation"
    n_a: int
    n_b: int
    mean_a: float
    mean_b: float
    exact: bool


class SeedSpread(FrozenModel):
    """Mean and sample standard deviation (null for one value) of the accuracies of a set.

    `n` models with different weights count; `models` says how many there are with those of equal weights.
    """

    n: int
    models: int
    mean: float
    sd: float | None
    min: float
    max: float


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of the proportion hits / n."""
    from scipy.stats import binomtest  # takes a second to load, and most steps never score

    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(correct_a: NDArray[np.bool], correct_b: NDArray[np.bool]) -> Paired:
    """McNemar's exact test of two models on the same images.

    Args:
        correct_a, correct_b: (n,) which images the models classify correctly.

    Raises:
        ValueError: the two do not belong to the same images, or there are no images.
    """
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
        difference=(b - c) / correct_a.size,
        p=float(binomtest(b, b + c).pvalue) if b + c else 1.0,
        smallest_p=min(1.0, 2 * 0.5 ** (b + c)),
    )


def paired_interval(correct_a: NDArray[np.bool], correct_b: NDArray[np.bool]) -> tuple[float, float]:
    """95 % confidence interval of the difference of two accuracies (first minus second) on the same images.

    Adjusted Wald interval of Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data", Journal of Educational and Behavioral Statistics 37 (2012).

    Args:
        correct_a, correct_b: as in `mcnemar`, which also raises for other values.
    """
    from scipy.stats import norm

    paired = mcnemar(correct_a, correct_b)
    b, c = (paired.b + 1) / (paired.n + 2), (paired.c + 1) / (paired.n + 2)
    half = float(norm.ppf(0.975)) * math.sqrt((b + c - (b - c) ** 2) / (paired.n + 2))
    return b - c - half, b - c + half


def permutation(a: Sequence[float], b: Sequence[float]) -> Permuted:
    """Permutation test of the difference of the means of two sets of models.

    Args:
        a, b: accuracies (0..1) of the models of each set, at least two.

    Raises:
        ValueError: a set has fewer than two models.
    """
    from scipy.stats import permutation_test

    if min(len(a), len(b)) < 2:
        raise ValueError(f"expected at least two models in each set, not {len(a)} and {len(b)}")
    divisions = math.comb(len(a) + len(b), len(a))
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
        difference=mean_a - mean_b,
        p=float(tested.pvalue),
        smallest_p=min(1.0, 2 / divisions),
        exact=divisions <= EXACT,
    )


def seed_spread(values: Sequence[float], models: int | None = None) -> SeedSpread:
    """Spread of at least one accuracy; `models` is the number of models before those of equal weights were merged."""
    return SeedSpread(
        n=len(values),
        models=len(values) if models is None else models,
        mean=float(np.mean(values)),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        min=min(values),
        max=max(values),
    )
