"""Tables as data frames of numbers, and the only place where they become text: HTML cells, Markdown, terminal, CSV.

`COLUMNS` says for each column how its header reads and how its values are written. A missing value is written as a
dash, two columns `x_low` and `x_high` as one interval. CSV files hold the numbers as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lhcnet.errors import LhcnetError
from lhcnet.io.files import read_text
from lhcnet.protocol.score import Score

LONG = 40  # characters; a column with a longer text wraps its lines, other columns do not
MISSING = "-"


@dataclass(frozen=True)
class Table:
    """A data frame with a title and a note, which says what the numbers are."""

    title: str
    note: str
    data: pd.DataFrame


@dataclass(frozen=True)
class Column:
    """Header and format of a column; `marked` values that hold are emphasised."""

    header: str
    text: Callable[[Any], str] | None = None
    marked: bool = False


@dataclass(frozen=True)
class ShownColumn:
    """A column as text."""

    name: str
    header: str
    style: Literal["number", "words", "short"]
    cells: list[str]
    marked: list[bool]


def percent(value: float | None) -> str:
    """A proportion 0..1 in per cent."""
    return MISSING if value is None or pd.isna(value) else f"{100 * value:.2f}"


def interval(bounds: tuple[float, float]) -> str:
    """A confidence interval of a proportion, in per cent."""
    return f"{percent(bounds[0])}–{percent(bounds[1])}"  # an en dash


def points(value: float) -> str:
    """A difference of two proportions, in percentage points."""
    return f"{100 * value:+.2f}"


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _digits(form: str) -> Callable[[Any], str]:
    return lambda value: format(value, form)


COLUMNS: Mapping[str, Column] = {
    # accuracies, 0..1
    "val": Column("validation %", percent),
    "val_tta": Column("validation TTA %", percent),
    "test": Column("test %", percent),
    "test_tta": Column("test TTA %", percent),
    "test_distinct": Column("test excluding duplicates %", percent),
    "test_distinct_tta": Column("test TTA excluding duplicates %", percent),
    "accuracy": Column("accuracy %", percent),
    "accuracy_distinct": Column("excluding duplicates %", percent),
    "confidence": Column("confidence %", percent),
    "ci95": Column("95 % CI", percent),
    "ci95_tta": Column("95 % CI with TTA", percent),
    "val_accuracy": Column("accuracy on validation %", percent),
    "wanted": Column("wanted coverage %", percent),
    "val_coverage": Column("coverage on validation %", percent),
    "coverage": Column("coverage on test %", percent),
    "coverage_ci95": Column("95 % CI of coverage", percent),
    "ece_before": Column("ECE before %", percent),
    "ece_before_ci95": Column("95 % CI before", percent),
    "ece_after": Column("ECE after %", percent),
    "ece_after_ci95": Column("95 % CI after", percent),
    "recall_ci95": Column("95 % CI of recall", percent),
    "mean": Column("mean %", percent),
    "sd": Column("standard deviation %", percent),
    "lowest": Column("lowest %", percent),
    "highest": Column("highest %", percent),
    "precision": Column("precision %", percent),
    "recall": Column("recall %", percent),
    "f1": Column("F1 %", percent),
    "recall_distinct": Column("recall excluding duplicates %", percent),
    "f1_distinct": Column("F1 excluding duplicates %", percent),
    "top_40": Column("top 40 %", percent),
    "top_40_without_best": Column("top 40 % without best", percent),
    "top_25": Column("top 25 %", percent),
    "top_25_without_best": Column("top 25 % without best", percent),
    "best": Column("best", percent),
    "paper_accuracy": Column("paper's accuracy %", percent),
    # differences of accuracies, and tests
    "difference": Column("difference (points)", points),
    "difference_distinct": Column("difference excluding duplicates (points)", points),
    "p": Column("p", p_value),
    "p_distinct": Column("p excluding duplicates", p_value),
    "significant": Column("significant", marked=True),
    "significant_distinct": Column("significant excluding duplicates", marked=True),
    "gain": Column("gain over plain (points)", points),
    "paper_in_ci": Column("paper's figure in our 95 % CI"),
    "first_alone": Column("right by the first alone"),
    "second_alone": Column("right by the second alone"),
    "tta_alone": Column("right by TTA alone"),
    "plain_alone": Column("right by plain alone"),
    "n_first": Column("models of the first"),
    "n_second": Column("models of the second"),
    # other
    **{f"factor{i}": Column(f"1 + tanh(w{i})") for i in range(1, 6)},
    "compared": Column("compared with the paper", marked=True),
    "train_loss": Column("training loss"),
    "learning_rate": Column("learning rate", _digits("g")),
    "mean_grey": Column("mean grey value", _digits(".2f")),
    "n_distinct": Column("n excluding duplicates"),
    "different": Column("different weights"),
    "tta": Column("TTA"),
    "brier": Column("Brier score"),
    "nll": Column("NLL"),
    "nll_gain": Column("NLL minus plain", _digits("+.4f")),
    "nll_before": Column("NLL before"),
    "nll_after": Column("NLL after"),
    "params": Column("parameters (millions)", _digits(".4g")),
    "paper_params": Column("parameters, paper (millions)", _digits(".4g")),
    "attention": Column("attention %", _digits(".3g")),
    "paper_attention": Column("attention, paper %", _digits(".3g")),
    "seconds": Column("wall time", duration),
    "correlation": Column("mean correlation"),
    "correlation_max": Column("largest correlation"),
    "entropy_of_mean": Column("entropy of the mean map"),
    **{f"T_{q:02d}": Column(f"T {q} %") for q in (5, 25, 50, 75, 95)},
    "T_mean": Column("mean of T"),
    "exponent": Column("mean of g + T"),
}


def frame(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """A data frame of rows, with integers, booleans and missing values as they are."""
    return pd.DataFrame(rows).convert_dtypes()


def score_columns(score: Score | None, name: str) -> dict[str, float | None]:
    """The accuracy of a score and its confidence interval as columns."""
    low, high = score.ci95 if score else (None, None)
    return {name: score.accuracy if score else None, "ci95_low": low, "ci95_high": high}


def shown(data: pd.DataFrame) -> list[ShownColumn]:
    """The columns as text."""
    columns = []
    for name in data.columns:
        if name.endswith("_high"):
            continue
        values = data[name].tolist()
        if name.endswith("_low"):
            name = name.removesuffix("_low")
            column = COLUMNS[name]
            both = zip(values, data[f"{name}_high"].tolist(), strict=True)
            cells = [MISSING if pd.isna(low) else interval((low, high)) for low, high in both]
        else:
            column = COLUMNS.get(name, Column(name.replace("_", " ")))
            cells = [_cell(value, column) for value in values]
        marked = [column.marked and cell not in (MISSING, "no", "same") for cell in cells]
        columns.append(ShownColumn(name, column.header, _style(data, name, cells), cells, marked))
    return columns


def _cell(value: Any, column: Column) -> str:
    if pd.isna(value):
        return MISSING
    if column.text is not None:
        return column.text(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _style(data: pd.DataFrame, name: str, cells: Sequence[str]) -> Literal["number", "words", "short"]:
    kind = data[name] if name in data else data[f"{name}_low"]
    if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind):
        return "number"
    return "words" if any(len(cell) > LONG and " " in cell for cell in cells) else "short"


def markdown(data: pd.DataFrame) -> str:
    """A table in Markdown."""
    columns = shown(data)
    lines = ["| " + " | ".join(column.header for column in columns) + " |"]
    lines += ["|" + "|".join(" ---: " if column.style == "number" else " --- " for column in columns) + "|"]
    for row in zip(*(column.cells for column in columns), strict=True):
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def write_csv(file: Path, data: pd.DataFrame) -> None:
    """The numbers as they are; missing values are empty."""
    data.to_csv(file, index=False, lineterminator="\n", encoding="utf-8")


def read_csv(file: Path) -> pd.DataFrame:
    """What `write_csv` wrote. Raises `LhcnetError` if the file is no CSV in UTF-8."""
    try:
        return pd.read_csv(StringIO(read_text(file)), encoding="utf-8").convert_dtypes()
    except (OSError, ValueError) as error:  # pandas' errors of empty files and damaged rows are ValueErrors
        line = " ".join(str(error).split())
        raise LhcnetError(f"{file}: expected a table (CSV) that a comparison wrote: {line}") from None
