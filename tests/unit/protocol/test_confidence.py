"""Temperature, calibration error and selective accuracy: against their definitions, and against what was drawn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from lhcnet.protocol.confidence import (
    BINS,
    COOLEST,
    HOTTEST,
    calibration_error,
    ece_interval,
    fit_temperature,
    nll,
    risk_coverage,
    scaled,
    selective,
)


def drawn(temperature: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, 7) float32 and labels of a model whose logits are too large by the factor `temperature`."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (n, 7))
    labels = (softmax(logits, axis=1).cumsum(1) > rng.random((n, 1))).argmax(1).astype(np.uint8)
    return softmax(temperature * logits, axis=1).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_the_temperature_of_a_model_is_found_and_calibrates_it(temperature: float) -> None:
    p, labels = drawn(temperature)
    found = fit_temperature(p, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    assert nll(p, labels, found) <= min(nll(p, labels, found * factor) for factor in (0.98, 1, 1.02))
    assert np.array_equal(scaled(p, found).argmax(1), p.argmax(1))
    correct = p.argmax(1) == labels
    assert calibration_error(scaled(p, found).max(1), correct) < 0.025
    if temperature == 2.5:
        assert calibration_error(p.max(1), correct) > 0.1


def test_zero_probabilities_and_perfect_models_have_a_finite_temperature() -> None:
    labels = np.array([0, 1, 2], np.uint8)
    assert COOLEST <= fit_temperature(np.eye(7, dtype=np.float32)[labels], labels) <= HOTTEST
    assert nll(np.eye(7, dtype=np.float32)[labels], labels + 1) == pytest.approx(87.3, abs=0.1)


def test_errors_are_those_of_scikit_learn() -> None:
    p, labels = drawn(2.0, 500)
    confidence, correct = p.max(1).astype(float), p.argmax(1) == labels
    accuracy, mean = calibration_curve(correct, confidence, n_bins=BINS, strategy="uniform")
    counts = np.histogram(confidence, np.linspace(0, 1, BINS + 1))[0]
    expected = (counts[counts > 0] * np.abs(accuracy - mean)).sum() / len(labels)
    assert calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-9)
    both = calibration_error(np.stack([confidence, confidence[::-1]]), np.stack([correct, correct[::-1]]))
    assert both == pytest.approx([expected, expected])
    assert nll(p, labels) == pytest.approx(log_loss(labels, p, labels=range(7)), abs=1e-6)
    with pytest.raises(ValueError, match="last axis"):
        calibration_error(p, p, axis=0)


def test_the_interval_of_the_error_holds_it_and_shrinks_with_the_images() -> None:
    widths = []
    for n in (200, 2000):
        p, labels = drawn(2.0, n)
        confidence, correct = p.max(1), p.argmax(1) == labels
        low, high = ece_interval(confidence, correct)
        assert (low, high) == ece_interval(confidence, correct)
        assert 0 <= low < calibration_error(confidence, correct) < high <= 1
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]
    assert ece_interval(confidence[:1], correct[:1]) == (0.0, 1.0)


def test_thresholds_come_from_validation_and_are_measured_on_test() -> None:
    sure, right = np.linspace(0.1, 1, 10), np.arange(10) >= 3
    confidence, correct = np.array([0.2, 0.25, 0.35, 0.9]), np.array([True, False, False, True])
    found = selective((sure, right), (confidence, correct), 0.8)
    assert (found.threshold, found.val_coverage, found.val_accuracy) == (pytest.approx(0.3), 0.8, 7 / 8)
    assert (found.answered, found.coverage, found.accuracy) == (2, 0.5, 0.5)
    assert found.accuracy_ci95 is not None
    assert found.accuracy_ci95[0] < 0.5 < found.accuracy_ci95[1]
    none = selective((sure, right), (confidence / 10, correct), 0.9)
    assert (none.answered, none.coverage, none.accuracy, none.accuracy_ci95) == (0, 0.0, None, None)
    coverage, risk = risk_coverage(confidence, correct)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 1 / 2, 2 / 3, 1 / 2])
