"""The figures of an analysis, from its saved results.

Accuracies are points with 95 % CI; a hollow point does not differ significantly from the full network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from lhcnet.analysis import appendix_b
from lhcnet.analysis.ablation import KINDS
from lhcnet.analysis.necessity import Ablated
from lhcnet.analysis.results import BINS, Analysis, AnalysisReport
from lhcnet.protocol import paper
from lhcnet.report.page import Drawing

MAP_SIDE = 64  # larger attention maps are shown as means of blocks
COLOURS = {"off": "C0", "reset": "C1"}
LABELS = {"off": "off", "reset": "reset to initial weights"}


def figures(analysis: Analysis) -> list[Drawing]:
    """All figures, each with its title and caption."""
    return [
        Drawing("Modules off or reset", _ABLATED, _modules(analysis)),
        Drawing("Heads off or reset", "", _heads(analysis)),
        Drawing("Only the first heads kept", "", _kept(analysis)),
        Drawing("Correlation between heads", "", _correlation(analysis)),
        Drawing("Learnt scaling T", _SCALING, _scaling(analysis)),
        Drawing("Attention maps", _ATTENTION, _attention(analysis)),
        Drawing("Entropy of attention", _ENTROPY, _entropy(analysis)),
        Drawing("Figure A1", _A1, figure_a1()),
    ]


_ABLATED = "Hollow: the difference from the full network is not significant. This holds for the next two figures too."
_SCALING = (
    "Distribution of T over images and channels, on a logarithmic scale; the red line is the median. With a large T "
    "attention is even, with a small one selective."
)
_ATTENTION = (
    "Mean attention W over images: rows are the new channels, columns the channels they attend to, in multiples of "
    f"even attention 1/C. Modules with more than {MAP_SIDE} channels are shown as means of blocks of channels, "
    "which are more even than single channels."
)
_ENTROPY = (
    "0: attends to one channel, 1: to all equally. The two points are the same where attention does not depend on the "
    "image."
)
_A1 = "L1 and G1 as functions of A and B. The paper looks at C = 0 (left), where no slice is empty."


def _panels(report: AnalysisReport, height: float, ylabel: str) -> tuple[Figure, list[Axes]]:
    """One panel a module with equal y-axes; the widths are proportional to the numbers of heads."""
    figure = Figure(figsize=(12, height), layout="constrained")
    widths = [max(n, 2.5) for n in report.necessity.heads]
    axes = figure.subplots(1, len(widths), sharey=True, width_ratios=widths)
    for ax, module in zip(axes, report.modules, strict=True):
        n = len(module.heads)
        ax.set_title(module.slot)
        ax.set_xticks(range(1, n + 1))
        ax.set_xlim(0.4, n + 0.6)
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel(ylabel)
    figure.supxlabel("head")
    return figure, list(axes)


def _points(ax: Axes, x: Sequence[float], ablated: Sequence[Ablated], kind: str, fmt: str = "o") -> None:
    accuracy = 100 * np.array([c.score.accuracy for c in ablated])
    low, high = 100 * np.array([c.score.ci95 for c in ablated]).T
    fills = [COLOURS[kind] if c.significant else "white" for c in ablated]
    ax.errorbar(x, accuracy, [accuracy - low, high - accuracy], fmt="none", ecolor=COLOURS[kind], alpha=0.5, zorder=2)
    ax.scatter(x, accuracy, marker=fmt, c=fills, edgecolors=COLOURS[kind], s=30, zorder=3)


def _full(ax: Axes, report: AnalysisReport) -> None:
    full = report.necessity.full
    ax.axhline(100 * full.accuracy, color="black", linewidth=1, zorder=1)
    ax.axhspan(100 * full.ci95[0], 100 * full.ci95[1], color="black", alpha=0.07, zorder=0)


def _legend(figure: Figure, *more: Line2D) -> None:
    marks = [Line2D([], [], color=COLOURS[kind], marker="o", linestyle="", label=LABELS[kind]) for kind in KINDS]
    marks.append(
        Line2D([], [], color="grey", marker="o", linestyle="", markerfacecolor="white", label="not significant")
    )
    marks.append(Line2D([], [], color="black", linewidth=1, label="full network, 95 % CI"))
    marks.extend(more)
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks), frameon=False)


def _modules(analysis: Analysis) -> Figure:
    report = analysis.report
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    ax = figure.subplots()
    for shift, kind in zip((-0.1, 0.1), KINDS, strict=True):
        parts = [x for x in report.necessity.modules if x.kind == kind]
        _points(ax, [i + shift for i in range(len(parts))], parts, kind)
    labels = [f"{m.slot}\n{len(m.heads)} head{'s' if len(m.heads) > 1 else ''}" for m in report.modules]
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
        for shift, kind in zip((-0.15, 0.15), KINDS, strict=True):
            parts = [x for x in report.necessity.single if (x.slot, x.kind) == (module.slot, kind)]
            _points(ax, [i + shift for i in range(1, len(parts) + 1)], parts, kind)
        _full(ax, report)
    _legend(figure)
    return figure


def _kept(analysis: Analysis) -> Figure:
    report = analysis.report
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    ax = figure.subplots()
    for shift, kind in zip((-0.12, 0.12), KINDS, strict=True):
        kept = [k for k in report.necessity.kept if k.kind == kind]
        x = [k.heads + shift for k in kept]
        ax.plot(x, [100 * k.score.accuracy for k in kept], color=COLOURS[kind], linewidth=1, zorder=2)
        _points(ax, x, kept, kind)
    bounds = np.cumsum(report.necessity.heads).tolist()
    for bound, module in zip(bounds, report.modules, strict=True):
        ax.axvline(bound, color="grey", linestyle=":", linewidth=1, zorder=0)
        transform = ax.get_xaxis_transform()
        ax.text(bound, 0.02, f" {module.slot}", transform=transform, rotation=90, va="bottom", ha="right", color="grey")
    needed = f"paper: first {paper.MODULES_NEEDED} modules ({paper.HEADS_NEEDED} of {paper.HEADS} heads)"
    in_paper = ax.axvline(bounds[paper.MODULES_NEEDED - 1], color="C3", linestyle="--", label=needed)
    ax.set_xlabel("heads kept, counted from the input of the network")
    ax.set_ylabel("validation accuracy, per cent")
    ax.grid(axis="y", alpha=0.3)
    _full(ax, report)
    _legend(figure, in_paper)
    return figure


def _correlation(analysis: Analysis) -> Figure:
    modules = analysis.report.modules
    figure = Figure(figsize=(14, 3.2), layout="constrained")
    axes = figure.subplots(1, len(modules))
    for ax, module in zip(axes, modules, strict=True):
        matrix = analysis.arrays[f"correlation/{module.slot}"]
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
        ax.set_title(f"{module.slot}: {of}", fontsize=10)
    figure.colorbar(image, ax=list(axes), shrink=0.8, label="correlation (in the cells: per cent)")
    figure.supxlabel("head")
    return figure


def _scaling(analysis: Analysis) -> Figure:
    figure, axes = _panels(analysis.report, 4, "T")
    for ax, module in zip(axes, analysis.report.modules, strict=True):
        counts = analysis.arrays[f"scaling/{module.slot}"]  # (heads, BINS)
        coarse = counts.reshape(len(counts), 50, BINS // 50).sum(axis=2)
        share = 100 * (coarse / coarse.sum(axis=1, keepdims=True)).T
        box = (0.5, len(counts) + 0.5, 0, 1)
        image = ax.imshow(share, cmap="Blues", norm=LogNorm(0.1, 100), origin="lower", aspect="auto", extent=box)
        for head in module.heads:
            ax.plot([head.head - 0.35, head.head + 0.35], [head.scaling[2]] * 2, color="C3", linewidth=2)
        ax.set_title(f"{module.slot}\ng = {module.g:g}", fontsize=10)
    axes[0].set_ylim(-0.02, 1.02)
    bar = figure.colorbar(image, ax=axes, extend="min", label="per cent of the values of T")
    bar.set_ticks([0.1, 1, 10, 100], labels=["0.1", "1", "10", "100"])
    return figure


def _attention(analysis: Analysis) -> Figure:
    modules = analysis.report.modules
    columns = max(len(module.heads) for module in modules)
    figure = Figure(figsize=(1.5 * max(columns, 4) + 1, 1.7 * len(modules)), layout="constrained")
    axes = figure.subplots(len(modules), columns, squeeze=False)
    for row, module in zip(axes, modules, strict=True):
        maps = module.channels * analysis.arrays[f"attention/{module.slot}"]
        for ax in row:
            ax.set_axis_off()
        for h, (ax, W) in enumerate(zip(row, maps, strict=False), 1):
            image = ax.imshow(blocks(W, MAP_SIDE).clip(0.1, 10), cmap="RdBu_r", norm=LogNorm(0.1, 10))
            ax.set_title(f"{module.slot} head {h}", fontsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.5, extend="both", label="times even attention")
    bar.set_ticks([0.1, 1, 10], labels=["0.1", "1", "10"])
    return figure


def blocks(W: NDArray[Any], side: int) -> NDArray[Any]:
    """Reduce (C, C) to at most (side, side) by means of blocks of neighbours of nearly equal size."""
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
        ax.set_title(f"{module.slot}\nC = {module.channels}", fontsize=10)
    axes[0].set_ylim(-0.03, 1.03)
    figure.legend(handles=[mean, hollow], loc="outside upper center", ncols=2, frameon=False)
    return figure


def figure_a1() -> Figure:
    """Figure A1: L1 and G1 as functions of A and B; left for C = 0, as in the paper, right for every C."""
    H, W, d, n = appendix_b.H, appendix_b.W, appendix_b.D, appendix_b.N
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    line, grid = figure.subplots(1, 2)
    g1 = appendix_b.G1(H, W, d)

    A = list(range(n + 1))
    line.plot(A, [appendix_b.L1(H, W, d, n, a, n - a, 0) for a in A], "o-", label=f"L1, {n} local heads")
    line.axhline(g1, color="C1", label=f"G1 = {g1:.1f}, one global head")
    line.set_xticks(A, [f"{a}\n{n - a}" for a in A])
    line.set_xlabel(f"A (upper) and B (lower), C = 0, n = {n}")
    line.set_ylabel("parameters per dimension and constraint")
    line.set_title(f"H = {H}, W = {W}, d = {d}")
    line.legend()

    ratio = np.full((n + 1, n + 1), np.nan)  # rows A, columns B
    for a, b, c in appendix_b.combinations(n):
        ratio[a, b] = appendix_b.L1(H, W, d, n, a, b, c) / g1
    span = float(np.nanmax(np.abs(np.log2(ratio))))
    grid.imshow(np.log2(ratio), cmap="RdBu", vmin=-span, vmax=span, origin="lower")
    for a, b, _ in appendix_b.combinations(n):
        colour = "white" if abs(np.log2(ratio[a, b])) > 0.6 * span else "black"
        text = f"{round(ratio[a, b], 9):.2f}"
        grid.text(b, a, text, ha="center", va="center", fontsize=8, color=colour)
    grid.set_xlabel("B: slices with two possible activations")
    grid.set_ylabel("A: slices with one")
    grid.set_title("L1 / G1: blue favours local heads, red the global one")
    return figure
