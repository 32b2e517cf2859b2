"""Figures of confidence: reliability diagram of the chosen model, risk and coverage of the best models."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve

from lhcnet.protocol.comparisons import Statistics
from lhcnet.protocol.confidence import BINS, COVERAGES, risk_coverage, scaled
from lhcnet.protocol.results import Results
from lhcnet.report.formatting import percent
from lhcnet.report.plots import COLOURS, FEWEST, OF_NAME, WIDTH

BEFORE, AFTER = "#d55e00", "#0072b2"


def reliability(results: Results, statistics: Statistics) -> Figure:
    """Accuracy against confidence of the chosen model on test, before and after scaling; below, the histograms.

    Columns: without TTA, and with TTA where there is one. The bins are those of the calibration error.
    """
    shown = [one for one in statistics.confidence if one.model == results.selection.chosen]
    figure = Figure(figsize=(WIDTH if len(shown) > 1 else 5.5, 5.6), layout="constrained")
    panels = figure.subplots(2, len(shown), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1))
    edges = np.linspace(0, 1, BINS + 1)
    for one, curve, histogram in zip(shown, *panels, strict=True):
        key = f"{one.model}/test{'_tta' if one.tta else ''}"
        curve.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="perfect calibration")
        before, after = results.predictions[key].max(1), scaled(results.predictions[key], one.temperature).max(1)
        parts = (("before", before, one.ece_before, BEFORE), ("after", after, one.ece_after, AFTER))
        for name, confidence, error, colour in parts:
            accuracy, centre = calibration_curve(results.correct(key), confidence, n_bins=BINS, strategy="uniform")
            label = f"{name}: ECE {percent(error)} %"
            curve.plot(centre, accuracy, marker="o", markersize=4, color=colour, label=label)
            share = np.histogram(confidence, edges)[0] / len(confidence)
            histogram.stairs(100 * share, edges, color=colour)
        curve.set_title(f"{'with' if one.tta else 'without'} TTA, T = {one.temperature:.2f}")
        curve.legend(loc="upper left", frameon=False)
        histogram.set_xlabel("confidence (largest probability)")
        for axes in (curve, histogram):
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("accuracy")
    panels[1][0].set_ylabel("images in per cent")
    return figure


def risk(results: Results, statistics: Statistics) -> Figure:
    """Error of the surest test images against their share, of the best model of each network."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    names = {id_: name for name, id_ in results.best.items()}
    for one in statistics.confidence:
        key = f"{one.model}/test{'_tta' if one.tta else ''}"
        confidence = scaled(results.predictions[key], one.temperature).max(1)
        coverage, error = risk_coverage(confidence, results.correct(key))
        first = min(FEWEST, len(coverage)) - 1  # an error of fewer images says nothing
        points = np.unique(np.linspace(first, len(coverage) - 1, 200).astype(int))  # of thousands
        axes.plot(
            100 * coverage[points],
            100 * error[points],
            color=COLOURS[OF_NAME[names[one.model]]],
            linestyle="--" if one.tta else "-",
            label=names[one.model] + " TTA" * one.tta,
        )
    for wanted in COVERAGES:
        axes.axvline(100 * wanted, color="0.6", linestyle=":", linewidth=1)
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("coverage: share of the test images that are answered, in per cent")
    axes.set_ylabel("wrong answers in per cent")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False)
    return figure
