"""Figures of a comparison, from saved results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from pandas import DataFrame
from sklearn.calibration import calibration_curve
from sklearn.metrics import ConfusionMatrixDisplay

from lhcnet.data.fer2013 import CLASSES
from lhcnet.protocol.examples import EACH, IMAGES, ROWS
from lhcnet.protocol.paper import PAPER_TABLE_7, PAPER_TABLE_A2
from lhcnet.protocol.results import Results
from lhcnet.protocol.score import Score
from lhcnet.protocol.sizes import OTHER
from lhcnet.protocol.standalone import StandaloneReport
from lhcnet.saved import Epoch, ModelRecord

COLOURS = {"A": "#0072b2", "B": "#d55e00", "C": "#009e73", "control": "#aa4499"}
OF_NAME = {"ResNet34v2": "A", "LHC-Net": "C", "LHC-NetC": "control", OTHER: "B"}
REJECTED = "#999999"
TITLES = {"A": "A: no LHC", "B": "B: settings", "C": "C: seeds", "control": "LHC-NetC"}
CURVES = {"train_loss": "training loss", "val_loss": "validation loss", "val_accuracy": "validation accuracy"}
FEWEST = 30  # images in a bin of the calibration
WIDTH = 9.0  # inches; the report shows an inch as 96 pixels


def backbone_curves(backbone: Sequence[ModelRecord]) -> Figure:
    """Stages of the backbone, one column each: loss above, accuracy below; equal axes in a row."""
    figure = Figure(figsize=(max(4.0, WIDTH / 3 * len(backbone)), 4.8), layout="constrained")
    panels = figure.subplots(2, len(backbone), squeeze=False, sharex="col", sharey="row")
    for loss, accuracy, stage in zip(*panels, backbone, strict=True):
        for axes, of in ((loss, "loss"), (accuracy, "accuracy")):
            _curve(axes, stage.history, f"train_{of}", color="#d55e00", linestyle="--", label="training")
            _curve(axes, stage.history, f"val_{of}", color="#0072b2", label="validation")
            axes.axvline(stage.metrics.best_epoch, color="0.6", linestyle=":", linewidth=1)
            _tidy(axes)
        loss.set_title(stage.id)
        accuracy.set_xlabel("epoch")
    _limit(panels[0], [stage.history for stage in backbone], ("train_loss", "val_loss"))
    panels[0][0].set_ylabel("cross-entropy")
    panels[1][0].set_ylabel("accuracy")
    panels[1][-1].legend(loc="lower right")
    return figure


def set_curves(results: Results) -> Figure:
    """Stage 4 of the sets, and LHC-NetC: a row a set, a thin line a model, bold the best of the set on validation.

    Axes are equal in a column, so that the sets can be compared.
    """
    best = {*results.selection.best.values(), results.evaluation.chosen_control}
    kept = {record.id for record in results.selection.kept} | {one.record.id for one in results.evaluation.control}
    records = list(results.records.values())
    sets = [name for name in TITLES if any(record.set == name for record in records)]
    figure = Figure(figsize=(WIDTH, 2.0 * len(sets) + 0.4), layout="constrained")
    rows = figure.subplots(len(sets), len(CURVES), squeeze=False, sharex="row", sharey="col")
    for name, panels in zip(sets, rows, strict=True):
        members = sorted((record for record in records if record.set == name), key=lambda record: record.id in best)
        for axes, (value, title) in zip(panels, CURVES.items(), strict=True):
            for record in members:
                is_best = record.id in best
                style = {"linewidth": 2.5, "label": record.id} if is_best else {"linewidth": 0.9, "alpha": 0.7}
                _curve(axes, record.history, value, color=COLOURS[name] if record.id in kept else REJECTED, **style)
            _tidy(axes)
            if name == sets[0]:
                axes.set_title(title)
            if name == sets[-1]:
                axes.set_xlabel("epoch")
        panels[0].set_ylabel(TITLES[name])
        if panels[-1].get_legend_handles_labels()[0]:
            panels[-1].legend(loc="best", fontsize="x-small")
    for column, value in zip(rows.T, CURVES, strict=True):
        if value.endswith("loss"):
            of_set = [[row for record in records if record.set == name for row in record.history] for name in sets]
            _limit(column, of_set, (value,))
    return figure


def accuracies(results: Results, *, official: bool) -> Figure:
    """Test accuracy of every scored model with its 95 % interval, and the paper's where the data are `official`."""
    of_set = {model.id: results.records[model.id].set for model in results.evaluation.models}
    order = list(TITLES)
    ranked = sorted(results.evaluation.models, key=lambda m: (order.index(of_set[m.id]), m.test.accuracy))
    paper = {(row.model, row.tta): row.accuracy for row in PAPER_TABLE_A2}
    names = list(PAPER_TABLE_7) if official else []
    figure = Figure(figsize=(WIDTH, 0.3 * (len(ranked) + len(names)) + 1.5), layout="constrained")
    axes = figure.subplots()
    for y, model in enumerate(ranked):
        colour = COLOURS[of_set[model.id]]
        _dot(axes, model.test, y, colour, "o")
        if results.duplicates:
            axes.plot(100 * model.test_distinct.accuracy, y, "o", color=colour, fillstyle="none", markersize=9)
        if model.test_tta:
            _dot(axes, model.test_tta, y + 0.3, colour, "^")
    for y, name in enumerate(names, len(ranked)):
        axes.plot(paper[name, False], y, "D", color="black")
        axes.plot(paper[name, True], y, "^", color="black")
    bold = set(results.best.values())
    axes.set_yticks(range(len(ranked) + len(names)), [model.id for model in ranked] + [f"paper: {n}" for n in names])
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in bold else "normal")
    axes.set_ylim(len(ranked) + len(names) - 0.3, -0.7)
    axes.set_xlabel("test accuracy in per cent")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    without = "excluding duplicates"
    marks = {"without TTA": "o"} | ({without: "o"} if results.duplicates else {})
    marks |= {"with TTA": "^"} if any(model.test_tta for model in ranked) else {}
    marks |= {"paper, without TTA": "D"} if official else {}
    style = {"color": "0.2", "linestyle": ""}
    handles = [
        Line2D([], [], label=label, marker=mark, fillstyle="none" if label == without else "full", **style)  # type: ignore[arg-type]
        for label, mark in marks.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Rows (true class) in per cent of the row, from a (7, 7) matrix of counts."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    display = ConfusionMatrixDisplay(share, display_labels=list(classes))
    display.plot(ax=axes, cmap="Blues", values_format=".0f", xticks_rotation=45, colorbar=False)
    axes.set_title(f"Test split, n = {counts.sum()}: per cent of each true class")
    return figure


def class_scores(classes: DataFrame) -> Figure:
    """Precision, recall and F1 of each class, from the table of classes."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    labels = [f"{name}\nn = {n}" for name, n in zip(classes["class"], classes["n"], strict=True)]
    scores = 100 * classes[["precision", "recall", "f1"]].astype(float).rename(columns={"f1": "F1"})
    scores.set_axis(labels).plot.bar(ax=axes, rot=0, width=0.8, color=dict(zip(scores, COLOURS.values(), strict=False)))
    axes.set_ylim(0, 100)
    axes.set_ylabel("per cent")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", ncols=3, frameon=False)
    return figure


def examples(results: Results) -> Figure:
    """Test images of each class that the chosen model has right (left) and wrong (right), with what it says of them."""
    p, rows = results.predictions[f"{results.selection.chosen}/test"], results.predictions[ROWS]
    images = dict(zip(rows.tolist(), results.predictions[IMAGES], strict=True))
    figure = Figure(figsize=(WIDTH, 1.35 * len(CLASSES)), layout="constrained")
    panels = figure.subplots(len(CLASSES), 2 * EACH)
    for axes in panels.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_frame_on(False)
    for label, (name, row) in enumerate(zip(CLASSES, panels, strict=True)):
        row[0].set_ylabel(name)
        of_class = [i for i in images if results.labels[i] == label]
        for is_right, first in ((True, 0), (False, EACH)):
            found = [i for i in of_class if bool(p[i].argmax() == label) == is_right]
            for axes, i in zip(row[first:], found, strict=False):
                axes.imshow(images[i], cmap="gray", vmin=0, vmax=255)
                axes.set_title(f"{CLASSES[p[i].argmax()]} {p[i].max():.2f}", fontsize="small")
    return figure


def calibration(results: Results) -> Figure:
    """Accuracy against confidence, in at most ten bins of equally many images; below, a histogram of confidence."""
    predictions = results.predictions
    figure = Figure(figsize=(6.5, 6), layout="constrained")
    curve, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    curve.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="perfect calibration")
    bins = np.linspace(0, 1, 11)
    for name, id_ in results.best.items():
        for key, line in ((f"{id_}/test", "-"), (f"{id_}/test_tta", "--")):
            if key not in predictions:
                continue
            confidence = predictions[key].max(1)
            correct = results.correct(key)
            groups = max(1, min(10, len(correct) // FEWEST))
            accuracy, centre = calibration_curve(correct, confidence, n_bins=groups, strategy="quantile")
            style = {"color": COLOURS[OF_NAME[name]], "linestyle": line}
            curve.plot(centre, accuracy, marker="o", markersize=4, label=name + " TTA" * (line == "--"), **style)
            share = np.histogram(confidence, bins)[0] / len(confidence)
            histogram.stairs(100 * share, bins, **style)
    curve.set_ylabel("accuracy")
    curve.legend(loc="upper left", frameon=False)
    histogram.set_ylabel("images in per cent")
    histogram.set_xlabel("confidence (largest probability)")
    for axes in (curve, histogram):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def standalone_curves(report: StandaloneReport) -> Figure:
    """Validation accuracy, a column a stage: LHC-Net and ResNet34v2, a line a seed."""
    stages = sorted({model.record.provenance.stage for model in report.models})
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    for axes, stage in zip(figure.subplots(1, len(stages), squeeze=False, sharey=True)[0], stages, strict=True):
        labelled: set[str] = set()
        for model in (model for model in report.models if model.record.provenance.stage == stage):
            name = "ResNet34v2" if model.is_plain else "LHC-Net"
            label = None if name in labelled else name
            _curve(axes, model.record.history, "val_accuracy", color=COLOURS[OF_NAME[name]], label=label)
            labelled.add(name)
        axes.set_title(f"stage {stage}")
        axes.set_xlabel("epoch")
        _tidy(axes)
    figure.axes[0].set_ylabel("validation accuracy")
    figure.axes[-1].legend(loc="lower right")
    return figure


def _curve(axes: Axes, history: Iterable[Epoch], value: str, **style: object) -> None:
    points = [(row.epoch, y) for row in history if (y := getattr(row, value)) is not None]
    if points:
        # a single point, as of a training that ended at once, is only seen with a marker
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 4 else None, **style)  # type: ignore[arg-type]


def _limit(panels: Iterable[Axes], histories: Sequence[Iterable[Epoch]], values: Sequence[str]) -> None:
    """Cut the axes above losses far from the rest (an untrained start, a divergence), and write how high they go."""
    points = [
        [(row.epoch, y) for row in rows for v in values if (y := getattr(row, v)) is not None] for rows in histories
    ]
    losses = [loss for rows in points for _, loss in rows]
    limit = 10 * median([loss for rows in points for epoch, loss in rows if epoch > 0] or losses or [0])
    within = [loss for loss in losses if loss <= limit]
    if len(within) == len(losses):
        return
    for axes, rows in zip(panels, points, strict=True):
        axes.set_ylim(min(within) - 0.05 * max(within), 1.1 * max(within))
        if (highest := max((loss for _, loss in rows), default=0)) > limit:
            up = f"up to {highest:.4g}"
            axes.text(0.98, 0.97, up, transform=axes.transAxes, ha="right", va="top", fontsize="small")


def _dot(axes: Axes, score: Score, y: float, colour: str, marker: str) -> None:
    axes.hlines(y, 100 * score.ci95[0], 100 * score.ci95[1], color=colour, linewidth=1)
    axes.plot(100 * score.accuracy, y, marker, color=colour)


def _tidy(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
