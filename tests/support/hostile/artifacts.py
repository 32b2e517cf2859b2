"""What one step hands to the next: selection, scores, predictions and data report; and the tables of a report."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lhcnet.data.audit import DataReport
from lhcnet.io.files import write_json
from lhcnet.profiles import profile
from lhcnet.protocol.comparisons import statistics
from lhcnet.protocol.results import Results, summarise
from lhcnet.report.protocol_chapter import official
from lhcnet.report.tables import all_tables, write_tables
from lhcnet.report.terminal import print_report
from lhcnet.versioned import read_versioned
from support.drawn_results import draw_results
from support.hostile.choices import Choices, altered_json, answer, damaged, demand, special

SEEDS = {"seeds.a": [0, 1], "seeds.c": [1, 2]}
COUNTS = [[2] * 7] * 3


@cache
def artifact_files() -> dict[str, bytes]:
    """The files that `compare` reads, and the tables that it writes, by name."""
    work = Path(tempfile.gettempdir(), f"hostile-artifacts-{os.getpid()}")
    work.mkdir()
    drawn = draw_results(profile("demo", SEEDS), counts=COUNTS)
    results = drawn.results
    write_json(work / "selection.json", results.selection.to_dict())
    write_json(work / "evaluation.json", results.evaluation.to_dict())
    write_json(work / "data_report.json", drawn.data_report.to_dict())
    np.savez(work / "predictions.npz", **results.predictions)
    summary, found = summarise(results), statistics(results)
    write_json(work / "summary.json", summary.to_dict())
    write_json(work / "statistics.json", found.to_dict())
    write_tables(work, all_tables(results, found, official=official(drawn.data_report)), [])
    files = {path.name: path.read_bytes() for path in work.iterdir() if path.suffix in (".json", ".npz", ".csv")}
    shutil.rmtree(work)
    return files


def altered_arrays(c: Choices, content: bytes) -> bytes:
    """Predictions with one array cut, reshaped, retyped, shifted or taken away; or damaged bytes."""
    if c.one_in(4):
        return damaged(c, content)
    with np.load(io.BytesIO(content)) as opened:
        arrays: dict[str, Any] = dict(opened)
    name = c.pick(sorted(arrays))
    a, kind = arrays[name], c.number(10)
    if kind == 9:
        del arrays[name]
    else:
        arrays[name] = [
            a[:3], a[:0], a.astype("f8") * np.nan, a.reshape(-1), np.array(3), np.array(["x"] * len(a)), a[..., None],
            a.astype("f4") - 1, np.zeros_like(a),
        ][kind]  # fmt: skip
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def altered_csv(c: Choices, content: bytes) -> bytes:
    kind, lines = c.number(8), content.split(b"\n")
    if kind == 0:
        return damaged(c, content)
    if kind == 1:
        return c.pick([b"", b"a,b\n", b"\xff\xfe", b'"', b"model\n" * 9, lines[0] + b"\n"])
    if kind == 2:
        del lines[c.number(len(lines))]
    elif kind == 3:
        row = c.number(len(lines))
        cells = lines[row].split(b",")
        cells[c.number(len(cells))] = c.pick(
            [b"", b"x", b"1e400", b"nan", b"True", b"9" * 400, b'"', b"\x1b[2J", b"-1"]
        )
        lines[row] = b",".join(cells)
    elif kind == 4:
        column = c.number(lines[0].count(b",") + 1)
        lines = [b",".join(cell for i, cell in enumerate(line.split(b",")) if i != column) for line in lines]
    return b"\n".join(lines)


def artifacts(c: Choices, folder: Path) -> bool:
    """Everything that is computed from them is computed, or one of the four files is refused."""
    source, names = folder / "in", ("selection.json", "evaluation.json", "data_report.json", "predictions.npz")
    for name in names:
        (source / name).write_bytes(artifact_files()[name])
    name = c.pick(names)
    if not special(c, source):
        content = artifact_files()[name]
        (source / name).write_bytes(
            (altered_arrays if name.endswith("npz") else altered_json)(c, content) if c.number(64) else content
        )

    def compute() -> object:
        results = Results.read(source / "selection.json", source)
        data = read_versioned(DataReport, source / "data_report.json")
        return summarise(results), all_tables(results, statistics(results), official=official(data))

    return answer(compute, str(source)) is not None


def report_tables(c: Choices, folder: Path) -> bool:
    """The finished report is shown, or the file that cannot be shown is named."""
    source = folder / "in"
    shown = ["summary.json", "statistics.json", *(name for name in artifact_files() if name.endswith(".csv"))]
    for name in shown:
        (source / name).write_bytes(artifact_files()[name])
    name = c.pick(sorted(shown))
    content = artifact_files()[name]
    (source / name).write_bytes(
        (altered_csv if name.endswith("csv") else altered_json)(c, content) if c.number(64) else content
    )
    demand((source / "models.csv").is_file(), "no tables")
    return answer(lambda: print_report(source) or True, str(source)) is not None
