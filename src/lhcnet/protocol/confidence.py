"""Confidence: temperature scaling, expected calibration error, and accuracy of the surest images.

What is fitted or chosen (temperature, thresholds) comes from validation; test images only say how well it holds.

Sources: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (temperature, ECE); Geifman and El-Yaniv,
"Selective Classification for Deep Neural Networks", NeurIPS 2017 (risk and coverage).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lhcnet.config import Count, FrozenModel
from lhcnet.protocol.statistics import wilson

BINS = 15  # of the calibration error, all equally wide
RESAMPLES = 999  # of the bootstrap, drawn with a fixed seed
COVERAGES = (0.8, 0.9)  # shares of the images that are answered
COOLEST, HOTTEST = 0.05, 20.0  # bounds of a temperature; a model without a mistake on validation has no smallest one
Probabilities = NDArray[np.floating[Any]]


class Selective(FrozenModel):
    """Accuracy of the images whose confidence reaches a threshold.

    The threshold is the one with which the share `wanted` of the validation images is answered. `coverage` is the share
    of the test images that it answers, `accuracy` theirs (null if it answers none), both with Wilson's interval.
    """

    wanted: float
    threshold: float
    val_coverage: float
    val_accuracy: float
    coverage: float
    coverage_ci95: tuple[float, float]
    answered: int
    accuracy: float | None
    accuracy_ci95: tuple[float, float] | None


class Confidence(FrozenModel):
    """Confidence of a model on all n test images, before and after temperature scaling.

    `ece` is the expected calibration error with `bins` equally wide bins, with its interval from `ece_interval`; `nll`
    the mean negative log-likelihood in nats. `selective` is measured after scaling.
    """

    model: str
    tta: bool
    n: Count
    temperature: float
    bins: Count = BINS
    ece_before: float
    ece_before_ci95: tuple[float, float]
    ece_after: float
    ece_after_ci95: tuple[float, float]
    nll_before: float
    nll_after: float
    selective: tuple[Selective, ...]


def _logarithms(p: Probabilities) -> NDArray[np.float64]:
    """Of probabilities in float32, which may have become zero."""
    found: NDArray[np.float64] = np.log(np.maximum(p.astype(np.float64), np.finfo(np.float32).tiny))
    return found


def nll(p: Probabilities, labels: NDArray[np.uint8], temperature: float = 1.0) -> float:
    """Mean negative log-likelihood (NLL) in nats.

    Args:
        p: (n, classes) probabilities.
        labels: (n,) true classes.
        temperature: T; p becomes p^(1/T), normalised. That is softmax(logits / T), for TTA of the mean's logarithm.
    """
    from scipy.special import logsumexp

    scores = _logarithms(p) / temperature
    return float(np.mean(logsumexp(scores, axis=1) - scores[np.arange(len(labels)), labels]))


def scaled(p: Probabilities, temperature: float) -> NDArray[np.float64]:
    """Probabilities (n, classes) after temperature scaling; the most probable class stays the same."""
    from scipy.special import softmax

    found: NDArray[np.float64] = softmax(_logarithms(p) / temperature, axis=1)
    return found


def fit_temperature(p: Probabilities, labels: NDArray[np.uint8]) -> float:
    """The temperature with the lowest NLL, from 0.05 to 20; above 1 the model was overconfident.

    The NLL is convex in 1/T, so there is one minimum.

    Args:
        p: (n, classes) probabilities of the validation images.
        labels: (n,) their true classes.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda logarithm: nll(p, labels, exp(logarithm)),
        bounds=(log(COOLEST), log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return exp(found.x)


def calibration_error(confidence: NDArray[Any], correct: NDArray[Any], axis: int = -1) -> Any:
    """Expected calibration error (ECE), 0..1: mean difference of accuracy and confidence in equally wide bins.

    Args:
        confidence: (..., n) largest probability of each image.
        correct: (..., n) whether the prediction is right.
        axis: of the images: the last one; `scipy.stats.bootstrap` names it.

    Returns:
        (...) the errors.
    """
    if axis not in (-1, confidence.ndim - 1):
        raise ValueError(f"expected the images on the last axis, not on {axis}")
    n = confidence.shape[-1]
    gap = (correct - confidence).reshape(-1, n)
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence).reshape(-1, n)
    bins += BINS * np.arange(len(gap))[:, None]  # a row of bins for each sample
    sums = np.bincount(bins.ravel(), gap.ravel(), BINS * len(gap)).reshape(*confidence.shape[:-1], BINS)
    return np.abs(sums).sum(axis=-1) / n


def ece_interval(confidence: NDArray[Any], correct: NDArray[np.bool]) -> tuple[float, float]:
    """95 % interval of the calibration error by the basic bootstrap over images.

    The error of a sample is too large on average, that of a resample again by as much; the basic interval reflects the
    resamples at the estimate, and so corrects what the percentile interval would double.
    """
    from scipy.stats import bootstrap

    if len(confidence) < 2:
        return 0.0, 1.0
    low, high = bootstrap(
        (confidence, correct.astype(np.float64)),
        calibration_error,
        paired=True,
        vectorized=True,
        method="basic",
        n_resamples=RESAMPLES,
        batch=100,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return max(0.0, float(low)), min(1.0, float(high))


def risk_coverage(confidence: NDArray[Any], correct: NDArray[np.bool]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Error of the surest images.

    Args:
        confidence: (n,) largest probability of each image.
        correct: (n,) whether the prediction is right.

    Returns:
        (n,) share of the images that are answered, surest first; (n,) share of wrong predictions among them.
    """
    order, count = np.argsort(-confidence, kind="stable"), np.arange(1, len(confidence) + 1)
    return count / len(confidence), np.cumsum(~correct[order]) / count


def selective(
    validation: tuple[NDArray[Any], NDArray[np.bool]], test: tuple[NDArray[Any], NDArray[np.bool]], wanted: float
) -> Selective:
    """Choose the threshold for a coverage on validation, and measure it on test.

    Args:
        validation, test: (n,) confidence and (n,) whether the prediction is right.
        wanted: share of the validation images to answer.
    """
    (sure, right), (confidence, correct) = validation, test
    threshold = float(np.sort(sure)[-ceil(wanted * len(sure))])
    known, answered = sure >= threshold, confidence >= threshold
    n, hits = int(answered.sum()), int(correct[answered].sum())
    return Selective(
        wanted=wanted,
        threshold=threshold,
        val_coverage=float(known.mean()),
        val_accuracy=float(right[known].mean()),
        coverage=n / len(confidence),
        coverage_ci95=wilson(n, len(confidence)),
        answered=n,
        accuracy=hits / n if n else None,
        accuracy_ci95=wilson(hits, n) if n else None,
    )


def measure(
    model: str,
    validation: tuple[Probabilities, NDArray[np.uint8]],
    test: tuple[Probabilities, NDArray[np.uint8]],
    temperature: float,
    *,
    tta: bool,
    coverages: Sequence[float] = COVERAGES,
) -> Confidence:
    """Confidence of a model on test, with a temperature that was fitted on validation.

    Args:
        model: its id.
        validation, test: (n, classes) probabilities and (n,) labels.
        temperature: of `fit_temperature`.
        tta: whether the probabilities are means over views.
        coverages: shares of the validation images that thresholds are chosen for.
    """
    (p, labels), (known, known_labels) = test, validation
    correct, known_correct = p.argmax(1) == labels, known.argmax(1) == known_labels
    before, after = p.max(1).astype(np.float64), scaled(p, temperature).max(1)
    sure = scaled(known, temperature).max(1)
    return Confidence(
        model=model,
        tta=tta,
        n=len(labels),
        temperature=temperature,
        ece_before=float(calibration_error(before, correct)),
        ece_before_ci95=ece_interval(before, correct),
        ece_after=float(calibration_error(after, correct)),
        ece_after_ci95=ece_interval(after, correct),
        nll_before=nll(p, labels),
        nll_after=nll(p, labels, temperature),
        selective=tuple(selective((sure, known_correct), (after, correct), wanted) for wanted in coverages),
    )
