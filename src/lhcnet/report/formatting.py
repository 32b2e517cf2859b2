"""How tables are made of words: a table is (title, note, rows), a figure is per cent, what is not known is a dash."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path

from lhcnet.protocol.score import Score

Row = Mapping[str, str]
Table = tuple[str, str, Sequence[Row]]


def markdown(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """A table of at least one row, its keys as the header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def points(score: Score | None) -> str:
    return percent(score.accuracy if score else None)


def bounds(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.2f}-{100 * interval[1]:.2f}"


def percent(value: float | None) -> str:
    return "-" if value is None or isnan(value) else f"{100 * value:.2f}"
