"""Tables on the terminal."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from lhcnet.protocol.score import Score

SHOWN: Mapping[str, tuple[str, tuple[str, ...]]] = {  # title and columns (none: all): the rest is in report.html
    "models": (
        "Sets A, B and C, and LHC-NetC (accuracy in per cent)",
        ("model", "kept", "val", "test", "ci95", "no twin", "test TTA"),
    ),
    "table7": ("Table 7 (test, no TTA)", ()),
    "table_a2": (
        "Beside Table A2 (test, per cent)",
        ("model", "tta", "accuracy", "ci95", "no twin", "compared with", "difference", "which is"),
    ),
    "standalone": ("After every stage (accuracy in per cent)", ()),
    "comparisons": ("Comparisons", ()),
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
    """The main tables of a comparison, why models were rejected, and the main differences with their verdicts."""
    files = [name for name in SHOWN if (report / f"{name}.csv").is_file()]
    if not files:
        raise LhcnetError(f"{report}: expected the folder that a comparison wrote, with its tables (CSV)")
    for name in files:
        title, columns = SHOWN[name]
        with (report / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if name == "table_a2":  # the paper's 26 rows are in the report
            rows = [row for row in rows if row["source"] == "here"]
        print_rows(title, [{key: row[key] for key in columns or row} for row in rows])
        for row in rows:
            if row.get("kept") == "no":
                print(f"rejected {row['model']}: {row['reason']}")
    if (report / "statistics.json").is_file():
        from lhcnet.config import parse
        from lhcnet.io.files import read_json
        from lhcnet.protocol.comparisons import ALL_KEPT, BEST, Statistics

        found = parse(Statistics, read_json(report / "statistics.json"), str(report / "statistics.json"))
        for one in found.comparisons:
            if one.how_chosen in (BEST, ALL_KEPT):
                print(one.sentence)
    print(f"The whole report: {report / 'report.html'}")
