"""Comparison with the paper: tables, statistics, report."""

from __future__ import annotations

import logging
from pathlib import Path

from lhcnet.data.audit import DataReport
from lhcnet.data.fer2013 import CLASSES
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.files import write_json
from lhcnet.protocol.results import Results, Summary, summarise
from lhcnet.protocol.score import confusion
from lhcnet.steps.outputs import REPORT_FOLDER, check_outputs
from lhcnet.tracking.names import summary_metrics
from lhcnet.tracking.record import tracked
from lhcnet.tracking.source import NOTE
from lhcnet.tracking.timings import wall_times
from lhcnet.versioned import read_versioned

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
        What was written to `summary.json`.

    Raises:
        LhcnetError: the files are damaged, or do not belong to one execution.
    """
    from lhcnet.analysis.results import Analysis, read
    from lhcnet.protocol.comparisons import statistics
    from lhcnet.report.analysis_tables import analysis_tables
    from lhcnet.report.execution import confidence_figures, notices, write_report
    from lhcnet.report.formatting import write_csv
    from lhcnet.report.origin import origin
    from lhcnet.report.plots import confusion_matrix
    from lhcnet.report.protocol_chapter import official
    from lhcnet.report.tables import all_tables, write_tables
    from lhcnet.report.wording import chosen, note

    check_outputs((out, REPORT_FOLDER), inputs=[selection, evaluation, data_report, analysis], execution=execution)
    results = Results.read(selection, evaluation)
    model, digest = results.selection.chosen, results.selection.data
    data = read_versioned(DataReport, data_report)
    if data.digest != digest:
        raise LhcnetError(f"{data_report}: expected the report on the data {digest[:12]} of {selection}")
    analysed = read(analysis) if analysis else None
    if isinstance(analysed, Analysis) and analysed.report.weights != results.selection.chosen_model.weights:
        raise LhcnetError(f"{analysis}: analysed {analysed.report.model} with other weights than the chosen {model}")

    with tracked(execution, digest, "compare") as run:
        summary, found = summarise(results), statistics(results)
        tables = all_tables(results, found, official=official(data))
        with atomic_directory(out, REPORT_FOLDER) as folder:
            write_json(folder / "summary.json", summary.to_dict())
            write_json(folder / "statistics.json", found.to_dict())
            write_tables(folder, tables, [chosen(summary), *notices(results, summary, data)])
            if isinstance(analysed, Analysis):
                for name, table in analysis_tables(analysed.report).items():
                    write_csv(folder / f"analysis_{name}.csv", table.data)
            write_report(
                folder / "report.html",
                data_report=data,
                results=results,
                summary=summary,
                statistics=found,
                tables=tables,
                analysis=analysed,
                execution=execution,
                origin=origin(),
                seconds=wall_times(execution) if execution else {},
            )
        if run:
            from lhcnet.report.analysis_plots import figures

            for file in sorted(out.iterdir()):
                run.file(file)
            for drawing in figures(analysed) if isinstance(analysed, Analysis) else ():
                run.figure(drawing.figure, f"analyses/{drawing.title.lower().replace(' ', '_')}.png")
            parent = run.parent()
            counts = confusion(results.predictions[f"{model}/test"], results.labels)
            parent.figure(confusion_matrix(counts, CLASSES), "confusion_matrix.png")
            for drawing in confidence_figures(results, found):
                parent.figure(drawing.figure, f"{drawing.title.lower().replace(' ', '_')}.png")
            parent.metrics(summary_metrics(summary, found))
            parent.tags({"chosen": model, "metrics_digest": found.metrics_digest, NOTE: note(results, summary, found)})
            parent.file(out / "report.html")
    return summary
