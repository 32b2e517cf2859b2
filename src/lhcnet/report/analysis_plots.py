"""The figures of an analysis, made from its saved results: (title, caption, figure).

Points with intervals, not bars: accuracies lie far from zero. A hollow point is within noise of the full network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from lhcnet.analysis.ablation import WAYS
from lhcnet.analysis.appendix_b import figure_a1
from lhcnet.analysis.necessity import PAPER_HEADS, PAPER_MODULES, PAPER_OF, Compared
from lhcnet.analysis.results import BINS, Analysis, AnalysisReport, read
from lhcnet.report.analysis_tables import comparison_note

MAP_SIDE = 64  # larger attention maps are shown as means of blocks
COLOURS = {"off": "C0", "reset": "C1"}
LABELS = {"off": "switched off", "reset": "at initial weights"}


def figures(folder: Path) -> list[tuple[str, str, Figure]]:
    """All figures of a folder that `report.write` wrote."""
    analysis = read(folder)
    noise = comparison_note(analysis.report)
    drawn: list[tuple[str, str, Callable[[Analysis], Figure]]] = [
        ("Modules switched off or set back", noise, _modules),
        ("Heads switched off or set back", noise, _heads),
        ("Only the first heads kept", noise, _kept),
        ("Correlation between heads", _CORRELATION, _correlation),
        ("Learnt scaling T", _SCALING, _scaling),
        ("Attention maps", _ATTENTION, _attention),
        ("Entropy of attention", _ENTROPY, _entropy),
        ("Figure A1", _A1, lambda _: figure_a1()),
    ]
    return [(title, caption, draw(analysis)) for title, caption, draw in drawn]


_CORRELATION = "Pearson's coefficient of the outputs A of two heads, over images, channels and the pixels of a slice."
_SCALING = (
    "How T is spread over images and channels, on a logarithmic scale; the red line is the median. Scores are divided "
    "by d^(g+T): a large T makes attention even, a small one selective."
)
_ATTENTION = (
    "Mean attention W over images: rows are the new channels, columns the channels they look at, in multiples of even "
    f"attention 1/C. Modules with more than {MAP_SIDE} channels are shown as means of blocks of channels, which are "
    "more even than single channels."
)
_ENTROPY = (
    "0 looks at one channel, 1 at all alike. The mean over the images and the entropy of the mean map are the same "
    "where attention does not depend on the image."
)
_A1 = "L1 and G1 as functions of A and B. The paper reads it where no slice is empty (C = 0)."


def _panels(report: AnalysisReport, height: float, ylabel: str) -> tuple[Figure, list[Axes]]:
    """The five modules side by side, as wide as they have heads."""
    figure = Figure(figsize=(12, height), layout="constrained")
    widths = [max(n, 2.5) for n in report.necessity.heads]
    axes = figure.subplots(1, len(widths), sharey=True, width_ratios=widths)
    for ax, module in zip(axes, report.modules, strict=True):
        n = len(module.heads)
        ax.set_title(module.place)
        ax.set_xticks(range(1, n + 1))
        ax.set_xlim(0.4, n + 0.6)
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel(ylabel)
    figure.supxlabel("head")
    return figure, list(axes)


def _points(ax: Axes, x: Sequence[float], compared: Sequence[Compared], way: str, fmt: str = "o") -> None:
    accuracy = 100 * np.array([c.score.accuracy for c in compared])
    low, high = 100 * np.array([c.score.ci95 for c in compared]).T
    fills = ["white" if c.verdict == "within noise" else COLOURS[way] for c in compared]
    ax.errorbar(x, accuracy, [accuracy - low, high - accuracy], fmt="none", ecolor=COLOURS[way], alpha=0.5, zorder=2)
    ax.scatter(x, accuracy, marker=fmt, c=fills, edgecolors=COLOURS[way], s=30, zorder=3)


def _full(ax: Axes, report: AnalysisReport) -> None:
    full = report.necessity.full
    ax.axhline(100 * full.accuracy, color="black", linewidth=1, zorder=1)
    ax.axhspan(100 * full.ci95[0], 100 * full.ci95[1], color="black", alpha=0.07, zorder=0)


def _legend(figure: Figure, *more: Line2D) -> None:
    marks = [Line2D([], [], color=COLOURS[way], marker="o", linestyle="", label=LABELS[way]) for way in WAYS]
    marks.append(Line2D([], [], color="grey", marker="o", linestyle="", markerfacecolor="white", label="within noise"))
    marks.append(Line2D([], [], color="black", linewidth=1, label="full network, 95 % interval"))
    marks.extend(more)
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks), frameon=False)


def _modules(analysis: Analysis) -> Figure:
    report = analysis.report
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    ax = figure.subplots()
    for shift, way in zip((-0.1, 0.1), WAYS, strict=True):
        parts = [x for x in report.necessity.modules if x.way == way]
        _points(ax, [i + shift for i in range(len(parts))], parts, way)
    labels = [f"{m.place}\n{len(m.heads)} head{'s' if len(m.heads) > 1 else ''}" for m in report.modules]
    ax.set_xticks(range(len(labels)), labels)
    ax.set_ylabel("validation accuracy, per cent")
    ax.grid(axis="y", alpha=0.3)
    _full(ax, report)
    _legend(figure)
    return figure


def _heads(analysis: Analysis) -> Figure:
    report = analysis.report
    figure, axes = _panels(report, 4.5, "validation accuracy, per cent")
    for ax, module in zip(axes, report.modules, strict=True):
        for shift, way in zip((-0.15, 0.15), WAYS, strict=True):
            parts = [x for x in report.necessity.single if (x.place, x.way) == (module.place, way)]
            _points(ax, [i + shift for i in range(1, len(parts) + 1)], parts, way)
        _full(ax, report)
    _legend(figure)
    return figure


def _kept(analysis: Analysis) -> Figure:
    report = analysis.report
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    ax = figure.subplots()
    for shift, way in zip((-0.12, 0.12), WAYS, strict=True):
        kept = [k for k in report.necessity.kept if k.way == way]
        x = [k.heads + shift for k in kept]
        ax.plot(x, [100 * k.score.accuracy for k in kept], color=COLOURS[way], linewidth=1, zorder=2)
        _points(ax, x, kept, way)
    bounds = np.cumsum(report.necessity.heads).tolist()
    for bound, module in zip(bounds, report.modules, strict=True):
        ax.axvline(bound, color="grey", linestyle=":", linewidth=1, zorder=0)
        beside = ax.get_xaxis_transform()
        ax.text(bound, 0.02, f" {module.place}", transform=beside, rotation=90, va="bottom", ha="right", color="grey")
    needed = f"paper: first {PAPER_MODULES} modules ({PAPER_HEADS} of {PAPER_OF} heads)"
    paper = ax.axvline(bounds[PAPER_MODULES - 1], color="C3", linestyle="--", label=needed)
    ax.set_xlabel("heads kept, counted from the input of the network")
    ax.set_ylabel("validation accuracy, per cent")
    ax.grid(axis="y", alpha=0.3)
    _full(ax, report)
    _legend(figure, paper)
    return figure


def _correlation(analysis: Analysis) -> Figure:
    modules = analysis.report.modules
    figure = Figure(figsize=(14, 3.2), layout="constrained")
    axes = figure.subplots(1, len(modules))
    for ax, module in zip(axes, modules, strict=True):
        matrix = analysis.arrays[f"correlation/{module.place}"]
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        n = len(matrix)
        ax.set_xticks(range(n), range(1, n + 1))
        ax.set_yticks(range(n), range(1, n + 1))
        for i, j in np.ndindex(n, n):
            colour = "white" if abs(matrix[i, j]) > 0.6 else "black"
            cell = f"{100 * matrix[i, j]:.0f}".replace("-0", "0")
            ax.text(j, i, cell, ha="center", va="center", fontsize=7, color=colour)
        mean, largest = module.correlation_mean, module.correlation_max
        of = "no pair" if mean is None else f"mean {100 * mean:.0f} %, largest {100 * (largest or 0):.0f} %"
        ax.set_title(f"{module.place}: {of}", fontsize=10)
    figure.colorbar(image, ax=list(axes), shrink=0.8, label="correlation (in the cells: per cent)")
    figure.supxlabel("head")
    return figure


def _scaling(analysis: Analysis) -> Figure:
    figure, axes = _panels(analysis.report, 4, "T")
    for ax, module in zip(axes, analysis.report.modules, strict=True):
        counts = analysis.arrays[f"scaling/{module.place}"]  # (heads, BINS)
        coarse = counts.reshape(len(counts), 50, BINS // 50).sum(axis=2)
        share = 100 * (coarse / coarse.sum(axis=1, keepdims=True)).T
        box = (0.5, len(counts) + 0.5, 0, 1)
        image = ax.imshow(share, cmap="Blues", norm=LogNorm(0.1, 100), origin="lower", aspect="auto", extent=box)
        for head in module.heads:
            ax.plot([head.head - 0.35, head.head + 0.35], [head.scaling[2]] * 2, color="C3", linewidth=2)
        ax.set_title(f"{module.place}\ng = {module.g:g}", fontsize=10)
    axes[0].set_ylim(-0.02, 1.02)
    bar = figure.colorbar(image, ax=axes, extend="min", label="per cent of T in a fiftieth")
    bar.set_ticks([0.1, 1, 10, 100], labels=["0.1", "1", "10", "100"])
    return figure


def _attention(analysis: Analysis) -> Figure:
    modules = analysis.report.modules
    columns = max(len(module.heads) for module in modules)
    figure = Figure(figsize=(1.5 * max(columns, 4) + 1, 1.7 * len(modules)), layout="constrained")
    axes = figure.subplots(len(modules), columns, squeeze=False)
    for row, module in zip(axes, modules, strict=True):
        maps = module.channels * analysis.arrays[f"attention/{module.place}"]
        for ax in row:
            ax.set_axis_off()
        for h, (ax, W) in enumerate(zip(row, maps, strict=False), 1):
            image = ax.imshow(blocks(W, MAP_SIDE).clip(0.1, 10), cmap="RdBu_r", norm=LogNorm(0.1, 10))
            ax.set_title(f"{module.place} head {h}", fontsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.5, extend="both", label="times even attention")
    bar.set_ticks([0.1, 1, 10], labels=["0.1", "1", "10"])
    return figure


def blocks(W: NDArray[Any], side: int) -> NDArray[Any]:
    """(C, C) to at most (side, side): means of blocks of neighbours, as equal as they can be."""
    for axis in (0, 1):
        parts = np.array_split(W, min(side, W.shape[axis]), axis=axis)
        W = np.concatenate([part.mean(axis=axis, keepdims=True) for part in parts], axis=axis)
    return W


def _entropy(analysis: Analysis) -> Figure:
    figure, axes = _panels(analysis.report, 3.6, "entropy, 1 = uniform")
    for ax, module in zip(axes, analysis.report.modules, strict=True):
        x = [head.head for head in module.heads]
        (mean,) = ax.plot(x, [head.entropy for head in module.heads], "o", color="C0", label="mean over the images")
        of_mean = [head.entropy_of_mean for head in module.heads]
        (hollow,) = ax.plot(x, of_mean, "o", color="C0", markerfacecolor="white", label="of the mean map")
        ax.set_title(f"{module.place}\nC = {module.channels}", fontsize=10)
    axes[0].set_ylim(-0.03, 1.03)
    figure.legend(handles=[mean, hollow], loc="outside upper center", ncols=2, frameon=False)
    return figure
