"""Comparison with the paper: tables, statistics, report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lhcnet.config import parse
from lhcnet.data.fer2013 import CLASSES
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.files import read_json, write_json
from lhcnet.protocol.comparisons import Predictions
from lhcnet.protocol.results import EvaluationReport, Summary, summarise
from lhcnet.protocol.score import confusion
from lhcnet.protocol.selection import SelectionReport
from lhcnet.tracking.record import tracked

if TYPE_CHECKING:
    from lhcnet.report.page import Chapter
log = logging.getLogger("lhcnet")


def compare(
    selection: Path,
    evaluation: Path,
    out: Path,
    *,
    data_report: Path,
    analysis: Path | None = None,
    execution: str | None = None,
) -> Summary:
    """Compare an execution with the paper: tables, statistics and one HTML report.

    Args:
        selection: `selection.json`.
        evaluation: the folder that `evaluate` wrote.
        out: folder to write: `summary.json`, `statistics.json`, tables (CSV, Markdown) and `report.html`.
        data_report: the data report of `prepare`.
        analysis: the folder that `analyse` wrote, if any.
        execution: name of the pipeline execution in MLflow; None logs nothing.

    Returns:
        Summary with the digest of all metrics.

    Raises:
        LhcnetError: the files are damaged, or do not belong to one execution.
    """
    from lhcnet.protocol.comparisons import statistics
    from lhcnet.report.execution import write_report
    from lhcnet.report.plots import confusion_matrix
    from lhcnet.report.protocol_chapter import official
    from lhcnet.report.tables import all_tables, write_tables

    chosen = parse(SelectionReport, read_json(selection), str(selection))
    scored = parse(EvaluationReport, read_json(evaluation / "evaluation.json"), str(evaluation / "evaluation.json"))
    if (scored.chosen, scored.data) != (chosen.chosen, chosen.data):
        raise LhcnetError(f"{evaluation}: was made for {scored.chosen}, but {selection} chose {chosen.chosen}")
    data = read_json(data_report)
    if not isinstance(data, dict) or data.get("digest") != chosen.data:
        raise LhcnetError(f"{data_report}: expected the report on the data {chosen.data[:12]} of {selection}")
    predictions = _predictions(evaluation / "predictions.npz", scored)
    analyses = _analyses(analysis) if analysis else None

    with tracked(execution, chosen.data, "compare") as run:
        summary = summarise(chosen, scored)
        found = statistics(chosen, scored, predictions)
        tables = all_tables(chosen, scored, predictions, found, official=official(data))
        with atomic_directory(out, "summary.json") as folder:
            write_json(folder / "summary.json", summary.to_dict())
            write_json(folder / "statistics.json", found.to_dict())
            write_tables(folder, tables)
            write_report(
                folder / "report.html",
                data_report=data,
                selection=chosen,
                evaluation=scored,
                predictions=predictions,
                statistics=found,
                tables=tables,
                analyses=analyses,
                execution=execution,
            )
        if run:
            for file in sorted(out.iterdir()):
                run.file(file)
            for title, _, figure in analyses.figures if analyses else ():
                run.figure(figure, f"analyses/{title.lower().replace(' ', '_')}.png")
            parent = run.parent()
            counts = confusion(predictions[f"{chosen.chosen}/test"], predictions["labels/test"])
            parent.figure(confusion_matrix(counts, CLASSES), "confusion_matrix.png")
            parent.metrics(scored.chosen_model().accuracies())
            parent.tags({"chosen": chosen.chosen, "metrics_digest": summary.metrics_digest})
    return summary


def _analyses(folder: Path) -> Chapter:
    from lhcnet.analysis.results import MARKER
    from lhcnet.report.analysis_plots import figures
    from lhcnet.report.analysis_tables import tables
    from lhcnet.report.page import Chapter

    found = read_json(folder / MARKER)
    if isinstance(found, dict) and "skipped" in found:
        return Chapter("Analyses", [f"Nothing was analysed: {found['skipped']}."])
    chosen_on = "Made on validation images with the chosen model, so that the test images stay unseen."
    return Chapter("Analyses", [chosen_on], tables(folder), figures(folder))


def _predictions(file: Path, scored: EvaluationReport) -> Predictions:
    try:
        with np.load(file) as arrays:  # no pickles, unless asked for
            predictions = dict(arrays)
    except Exception as error:  # whatever numpy and zipfile raise on damaged bytes
        raise LhcnetError(f"{file}: expected the predictions that evaluate wrote: {error}") from None
    wanted = {"labels/test", "twin/test", *(f"{model.id}/test" for model in scored.models)}
    if lost := sorted(wanted - set(predictions)):
        raise LhcnetError(f"{file}: lacks {', '.join(lost)}, which evaluation.json beside it speaks of")
    return predictions
