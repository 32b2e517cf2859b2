"""Tables and figures of executions as they stand in MLflow, for the terminal and as one page."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lhcnet.report.formatting import Table, frame
from lhcnet.report.page import Chapter, Drawing, page
from lhcnet.report.plots import COLOURS, OF_NAME, WIDTH
from lhcnet.tracking.executions import Executions

MODEL = ["set", "model", "kept", "val", "test", "test_distinct", "val_tta", "test_tta"]
LINES = ("-", "--", ":", "-.")  # of executions, where a colour is a set


def means_table(found: Executions) -> Table:
    """Test accuracy of each set of each execution."""
    kept = found.models[found.models["kept"].ne(False).fillna(True)]
    rows = []
    for (execution, name), models in kept.groupby(["execution", "set"], sort=False):
        test = pd.to_numeric(models["test"], errors="coerce").dropna().astype(float)
        row = {"execution": execution, "set": name, "models": len(models), "val": _mean(models["val"])}
        figures = {"mean": test.mean(), "sd": test.std(), "lowest": test.min(), "highest": test.max()}
        rows.append(row | {key: None if np.isnan(value) else value for key, value in figures.items()})
    return Table("Test accuracy of the sets", "Kept models, without TTA; validation is their mean.", frame(rows))


def _mean(values: pd.Series[float]) -> float | None:
    numbers = pd.to_numeric(values, errors="coerce").dropna()
    return float(numbers.mean()) if len(numbers) else None


def models_table(found: Executions, execution: str) -> Table:
    """Every model of an execution, the best on validation first."""
    data = found.models[found.models["execution"] == execution]
    columns = [name for name in MODEL if name in data and (name == "test" or data[name].notna().any())]
    return Table(f"Models of {execution}", "", data[columns].sort_values("val", ascending=False).reset_index(drop=True))


def boxes(found: Executions) -> Figure:
    """Test accuracy by set: a box and all models, side by side for several executions."""
    data = found.models[found.models["test"].notna()]
    sets = list(dict.fromkeys(data["set"]))
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    axes, shift = figure.subplots(), 0.8 / len(found.names)
    for number, execution in enumerate(found.names):
        for place, name in enumerate(sets):
            chosen = data[(data["execution"] == execution) & (data["set"] == name)]
            values = 100 * chosen["test"].to_numpy(float)
            if not len(values):
                continue
            x, colour = place + shift * (number - (len(found.names) - 1) / 2), _colour(name)
            drawn = axes.boxplot([values], positions=[x], widths=0.7 * shift, showfliers=False, manage_ticks=False)
            for line in (line for lines in drawn.values() for line in lines):
                line.set(color=colour, linestyle=LINES[number % len(LINES)])
            axes.plot(x + shift * np.linspace(-0.15, 0.15, len(values)), values, ".", color=colour, alpha=0.7)
    axes.set_xticks(range(len(sets)), sets, rotation=30 if len(sets) > 5 else 0)
    axes.set_ylabel("test accuracy in per cent")
    _tidy(axes)
    return figure


def settings(found: Executions) -> Figure | None:
    """Parallel coordinates over the module settings that differ; None if none does."""
    data = found.models[found.models["test"].notna()]
    modules = [name for name in map(str, data) if name.startswith("lhc") and data[name].nunique() > 1]
    data = data.dropna(subset=modules) if modules else data.iloc[:0]
    if data.empty:
        return None
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    test = 100 * data["test"].to_numpy(float)
    columns = []
    for name in modules:
        values = pd.to_numeric(data[name], errors="coerce")
        known = values if values.notna().all() else data[name]
        levels = sorted(known.unique())
        columns.append([levels.index(value) / max(1, len(levels) - 1) for value in known])
        for place, level in enumerate(levels):
            text = f"{level:g}" if isinstance(level, int | float) else str(level)
            axes.text(
                len(columns) - 1, place / max(1, len(levels) - 1), text, fontsize="small", ha="right", va="bottom"
            )
    span = test.max() - test.min()
    columns.append(list((test - test.min()) / span) if span else [0.5] * len(test))
    import matplotlib as mpl

    norm = mpl.colors.Normalize(test.min(), test.max() if span else test.min() + 1)
    for row, value in zip(zip(*columns, strict=True), test, strict=True):
        axes.plot(row, color=mpl.colormaps["viridis"](norm(value)), alpha=0.8)
    axes.set_xticks(range(len(columns)), [*modules, "test"], rotation=45, ha="right")
    axes.set_yticks([])
    axes.grid(axis="x", alpha=0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.colorbar(mpl.cm.ScalarMappable(norm, "viridis"), ax=axes, label="test accuracy in per cent")
    return figure


def curves(found: Executions) -> Figure | None:
    """Validation accuracy of the best model of each set; None without curves."""
    if found.curves.empty:
        return None
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    axes = figure.subplots()
    for (execution, name, model), points in found.curves.groupby(["execution", "set", "model"], sort=False):
        line = LINES[found.names.index(str(execution)) % len(LINES)]
        label = f"{model} ({execution})" if len(found.names) > 1 else str(model)
        ordered = points.sort_values("epoch")
        axes.plot(ordered["epoch"], 100 * ordered["accuracy"], line, marker=".", color=_colour(str(name)), label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy in per cent")
    axes.legend(fontsize="small")
    _tidy(axes)
    return figure


def _colour(name: str) -> str:
    return COLOURS[name] if name in COLOURS else COLOURS[OF_NAME[name.partition(" ")[0]]]


def _tidy(axes: object) -> None:
    axes.grid(axis="y", alpha=0.3)  # type: ignore[attr-defined]
    axes.spines[["top", "right"]].set_visible(False)  # type: ignore[attr-defined]


def runs_page(found: Executions) -> str:
    """One HTML page: which set is better, with which settings, and how the best models were trained."""
    lines = ""
    if len(found.names) > 1:
        words = ("solid", "dashed", "dotted", "dash-dotted")
        named = (f"{words[number % len(words)]}: {name}" for number, name in enumerate(found.names))
        lines = f" Lines are {', '.join(named)}."
    drawn = [
        Drawing("Test accuracy by set", f"A box a set and execution, a point a model.{lines}", boxes(found)),
        *_drawing(
            "Settings of the modules",
            "A line a model; settings that are equal everywhere are left out.",
            settings(found),
        ),
        *_drawing("Training", "The best model of each set on validation.", curves(found)),
    ]
    chapters = [
        Chapter("Which set is better", [], [means_table(found)], drawn[:1]),
        Chapter("Settings and training", [], [], drawn[1:]),
        Chapter("Models", [], [models_table(found, name) for name in found.names]),
    ]
    return page("LHC-Net: " + ", ".join(found.names), chapters)


def _drawing(title: str, caption: str, figure: Figure | None) -> list[Drawing]:
    return [] if figure is None else [Drawing(title, caption, figure)]
