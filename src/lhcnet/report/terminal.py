"""Tables on the terminal. No name and no number is cut: columns that do not fit are left out, and named below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table as RichTable

    from lhcnet.protocol.score import Score
    from lhcnet.report.formatting import ShownColumn, Table

# CSV file -> title, and the columns in the order of their importance (none: all of them)
SHOWN: Mapping[str, tuple[str, str]] = {
    "best": ("Best models on validation", "model test ci95 val test_tta test_distinct"),
    "spread": ("Means of the sets (test)", "set models different mean sd lowest highest"),
    "models": ("Models", "model kept val test ci95 weights test_tta test_distinct"),
    "table7": ("Table 7", "network source top_40 top_25 best top_40_without_best top_25_without_best paper_in_ci"),
    "table_a2": ("Table A2, own results", "network tta accuracy ci95 difference paper_in_ci"),
    "standalone": ("Accuracy after every stage", ""),
    "comparisons": ("LHC-Net against ResNet34v2", ""),
}
WORDS = 24  # characters; the least width of a column of long texts
GAP = 3  # between two columns


def print_table(table: Table) -> None:
    """Print a table with as many of its columns as fit."""
    _print(table.title, table.data)


def _print(title: str, data: DataFrame, file: str = "") -> None:
    from rich.console import Console

    from lhcnet.report.formatting import shown

    console, columns = Console(highlight=False), shown(data)
    widths = [_least_width(column) for column in columns]
    fitting = len(columns)
    while fitting > 1 and sum(widths[:fitting]) + GAP * (fitting - 1) > console.width:
        fitting -= 1
    console.print(_rich(title, columns[:fitting], widths))
    if left_out := [column.header for column in columns[fitting:]]:
        console.print(f"More columns{f' in {file}' if file else ' on a wider terminal'}: {', '.join(left_out)}")
    console.print()


def _least_width(column: ShownColumn) -> int:
    """Of the longest word of the header and the longest cell; long texts may wrap."""
    header = max((len(word) for word in column.header.split()), default=1)
    return max(header, WORDS) if column.style == "words" else max(header, *map(len, column.cells), 1)


def _rich(title: str, columns: Sequence[ShownColumn], widths: Sequence[int]) -> RichTable:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column, width in zip(columns, widths, strict=False):
        justify: Literal["left", "right"] = "right" if column.style == "number" else "left"
        limit = None if column.style == "words" else width
        table.add_column(column.header, justify=justify, overflow="fold", min_width=width, max_width=limit)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def print_scores(scores: Mapping[str, Score]) -> None:
    """One row a score: split, views, accuracy with its interval, n."""
    from lhcnet.report.formatting import Table, frame, score_columns

    rows = [{"split": s.split, "views": s.views} | score_columns(s, "accuracy") | {"n": s.n} for s in scores.values()]
    print_table(Table("Accuracy", "", frame(rows)))


def print_report(report: Path) -> None:
    """The chosen model, the tables of a comparison, why models were rejected, and the main comparisons."""
    files = [name for name in SHOWN if (report / f"{name}.csv").is_file()]
    if not files:
        raise LhcnetError(f"{report}: expected the folder that a comparison wrote, with its tables (CSV)")
    if (report / "summary.json").is_file():
        from lhcnet.protocol.results import Summary
        from lhcnet.report.wording import chosen, not_the_best
        from lhcnet.versioned import read_versioned

        summary = read_versioned(Summary, report / "summary.json")
        _say(chosen(summary), not_the_best(summary) or "", "")
    for name in files:
        try:
            _print_file(report / f"{name}.csv")
        except (KeyError, TypeError, ValueError, OverflowError) as error:  # other columns, text instead of numbers
            raise LhcnetError(
                f"{report / f'{name}.csv'}: expected the table that a comparison wrote: {error!r}"
            ) from None
    if (report / "statistics.json").is_file():
        from lhcnet.protocol.comparisons import Statistics
        from lhcnet.report.wording import comparison, main_comparisons
        from lhcnet.versioned import read_versioned

        found = read_versioned(Statistics, report / "statistics.json")
        _say(*map(comparison, main_comparisons(found)), *found.untested)
    print(f"The whole report: {report / 'report.html'}")


def _print_file(file: Path) -> None:
    from lhcnet.report.formatting import read_csv

    title, wanted = SHOWN[file.stem]
    data = read_csv(file)
    if file.stem == "table_a2":  # the rows of the paper are in the report
        data = data[data["source"] == "here"]
    if file.stem == "spread":
        data = data[data["score"] == "test"]
    parts = [f"{name}{end}" for name in wanted.split() or data for end in ("", "_low", "_high")]
    _print(title, data[[name for name in parts if name in data]], file.name)
    if file.stem == "models":
        _say(*(f"rejected {row['model']}: {row['reason']}" for _, row in data[data["kept"].eq(False)].iterrows()))
        if "weights" in data:
            same = [f"{row['model']} {row['weights']}" for _, row in data[data["weights"].notna()].iterrows()]
            _say(f"weights (equal ones count once): {', '.join(same)}")
        _say("")


def _say(*lines: str) -> None:
    """Print sentences, wrapped between words."""
    from rich.console import Console

    for line in lines:
        Console(highlight=False, markup=False).print(line)
