"""Tables on the terminal."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from lhcnet.evaluation.score import Score

SHOWN = {  # the tables of a comparison that fit a terminal: the rest is in report.html
    "models": "Sets A, B and C (accuracy in per cent)",
    "table7": "Table 7 (test, no TTA)",
    "table_a2": "Table A2",
    "standalone": "After every stage (accuracy in per cent)",
    "comparisons": "Comparisons",
}


def print_rows(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


def print_scores(scores: Mapping[str, Score]) -> None:
    """One row a score: split, views, accuracy with its interval, n."""
    rows = []
    for s in scores.values():
        low, high = s.ci95
        interval = f"{low:.2%} to {high:.2%}"
        rows.append(
            {
                "split": s.split,
                "views": str(s.views),
                "accuracy": f"{s.accuracy:.2%}",
                "95 % interval": interval,
                "n": str(s.n),
            }
        )
    print_rows("Accuracy", rows)


def print_report(report: Path) -> None:
    """The main tables of a comparison, and why models were rejected."""
    files = {title: report / f"{name}.csv" for name, title in SHOWN.items() if (report / f"{name}.csv").is_file()}
    if not files:
        raise LhcnetError(f"{report}: expected the folder that a comparison wrote, with its tables (CSV)")
    for title, file in files.items():
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        print_rows(title, [{key: value for key, value in row.items() if key != "reason"} for row in rows])
        for row in rows:
            if row.get("kept") == "no":
                print(f"rejected {row['model']}: {row['reason']}")
    print(f"The whole report: {report / 'report.html'}")
