"""Tables of confidence: temperature, calibration error before and after it, and accuracy of the surest images."""

from __future__ import annotations

from lhcnet.protocol.comparisons import Statistics
from lhcnet.protocol.confidence import BINS
from lhcnet.report.formatting import Table, frame


def temperature_table(statistics: Statistics) -> Table:
    """Temperature of the best models, ECE and NLL on test before and after scaling."""
    rows = [
        {
            "model": one.model,
            "tta": one.tta,
            "n": one.n,
            "temperature": one.temperature,
            "ece_before": one.ece_before,
            "ece_before_ci95_low": one.ece_before_ci95[0],
            "ece_before_ci95_high": one.ece_before_ci95[1],
            "ece_after": one.ece_after,
            "ece_after_ci95_low": one.ece_after_ci95[0],
            "ece_after_ci95_high": one.ece_after_ci95[1],
            "nll_before": one.nll_before,
            "nll_after": one.nll_after,
        }
        for one in statistics.confidence
    ]
    note = (
        "A probability p becomes p^(1/T), normalised; T is fitted on validation, and above 1 if the model was "
        f"overconfident. ECE: expected calibration error on test, {BINS} equally wide bins, with the 95 % interval of "
        "the basic bootstrap over images. NLL: mean negative log-likelihood on test in nats."
    )
    return Table("Temperature", note, frame(rows))


def selective_table(statistics: Statistics) -> Table:
    """Accuracy of the best models on the images that they are surest of."""
    rows = [
        {
            "model": one.model,
            "tta": one.tta,
            "wanted": part.wanted,
            "threshold": part.threshold,
            "val_coverage": part.val_coverage,
            "val_accuracy": part.val_accuracy,
            "coverage": part.coverage,
            "coverage_ci95_low": part.coverage_ci95[0],
            "coverage_ci95_high": part.coverage_ci95[1],
            "n": part.answered,
            "accuracy": part.accuracy,
            "ci95_low": part.accuracy_ci95[0] if part.accuracy_ci95 else None,
            "ci95_high": part.accuracy_ci95[1] if part.accuracy_ci95 else None,
        }
        for one in statistics.confidence
        for part in one.selective
    ]
    note = (
        "Only images with a confidence (after temperature scaling) of at least the threshold are answered. The "
        "threshold is chosen on validation for the wanted coverage; coverage and accuracy are then measured on test, "
        "with Wilson's 95 % intervals."
    )
    return Table("Accuracy of the surest images", note, frame(rows))
