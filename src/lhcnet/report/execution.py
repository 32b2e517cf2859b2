"""The report of one pipeline execution: its chapters and their order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lhcnet.analysis.results import Analysis, Skipped
from lhcnet.data.audit import DataReport
from lhcnet.data.fer2013 import CLASSES
from lhcnet.protocol.comparisons import Statistics
from lhcnet.protocol.confidence import BINS
from lhcnet.protocol.examples import ROWS
from lhcnet.protocol.results import Results, Summary
from lhcnet.protocol.score import Score, confusion
from lhcnet.report import confidence_plots, plots
from lhcnet.report.analysis_plots import figures
from lhcnet.report.analysis_tables import analysis_tables, how_compared
from lhcnet.report.formatting import Table, frame, interval, percent
from lhcnet.report.page import Chapter, Drawing, page
from lhcnet.report.protocol_chapter import data_chapter, differing, official, protocol_chapter
from lhcnet.report.tables import differences_table
from lhcnet.report.wording import QUESTIONS, chosen, comparison, equal_weights, main_comparisons, missing, not_the_best


def write_report(
    file: Path,
    *,
    data_report: DataReport,
    results: Results,
    summary: Summary,
    statistics: Statistics,
    tables: Mapping[str, Table],
    analysis: Analysis | Skipped | None = None,
    execution: str | None = None,
    origin: Mapping[str, str],
    seconds: Mapping[str, float],
) -> None:
    """Write the report as one HTML file.

    Args:
        file: to write.
        data_report: as the step prepare wrote it.
        results: of the execution; `summary` and `statistics` are made from them.
        tables: of `all_tables`.
        analysis: of the chosen model, if there is one.
        execution: name of the execution, if it has one.
        origin: date, commit, hardware and versions of the report.
        seconds: wall time of each step.
    """
    same_images = official(data_report)

    def of(*names: str) -> list[Table]:
        return [tables[name] for name in names if name in tables]

    chapters = [
        Chapter("Summary", _summary(results, statistics), [*of("best"), _means(tables["spread"])]),
        Chapter(
            "Models", [_rule(results)], [*_models(tables["models"]), *of("spread")], [_accuracies(results, same_images)]
        ),
        Chapter("Comparison with the paper", [_with_paper(results, same_images)], of("table7", "table_a2")),
        Chapter(
            "Comparisons", _how_to_read(statistics), [*_differences(statistics), *of("tta", "views", "single_views")]
        ),
        Chapter("LHC-NetC", _control(results), of("control")),
        Chapter("Classes", [], of("classes"), _classes(results, tables["classes"])),
        Chapter(
            "Calibration",
            [],
            of("calibration", "temperature", "selective"),
            [_calibration(results), *confidence_figures(results, statistics)],
        ),
        _analyses(analysis),
        _training(results),
        data_chapter(data_report),
        protocol_chapter(results),
        _origin(origin, seconds),
    ]
    html = page(
        f"LHC-Net: {execution or results.selection.chosen}",
        chapters,
        lead=chosen(summary),
        facts=_facts(results, execution, origin),
        notices=notices(results, summary, data_report),
    )
    file.write_text(html, encoding="utf-8")


def notices(results: Results, summary: Summary, data_report: DataReport) -> list[str]:
    """What a reader must know before the figures."""
    found = [missing(results), not_the_best(summary), equal_weights(results)]
    if not official(data_report):
        found.append(
            f"These are not FER2013's official splits ({data_report.images:,} images, read as "
            f"{data_report.shape}): the paper's figures are of other images, and nothing is compared with them."
        )
    if different := differing(results):
        found.append(f"{different} settings differ from the paper's: see Protocol.")
    architecture = results.selection.chosen_model.architecture
    if (network := architecture.plain_name) != "ResNet34v2":
        found.append(
            f"The backbone is {architecture.full_name}, not the paper's network: what this report calls ResNet34v2 is "
            f"{network} without modules, and LHC-Net is it with LHC modules. Only the columns and rows "
            "of the paper, and the counts of Table A2, are of ResNet34v2."
        )
    if not architecture.has_lhc:
        found.append("The chosen network has other attention than LHC: it has no counterpart in the paper's tables.")
    return [text for text in found if text]


def _facts(results: Results, execution: str | None, origin: Mapping[str, str]) -> dict[str, str]:
    model, selection = results.evaluation.chosen_model(), results.selection
    rejected = len(selection.entries) - len(selection.kept)
    facts = {
        "Execution": execution or "not tracked",
        "Chosen model": selection.chosen,
        "Validation accuracy": _stated(model.validation),
        "Test accuracy": _stated(model.test),
        "Test accuracy with TTA": _stated(model.test_tta),
    }
    if results.duplicates:
        facts["Test accuracy excluding duplicates"] = _stated(model.test_distinct)
        facts["Test accuracy with TTA, excluding duplicates"] = _stated(model.test_distinct_tta)
    facts |= {"Models": f"{len(selection.kept)} kept, {rejected} rejected", "Data digest": results.evaluation.data[:12]}
    return facts | {"Date of this report": origin["date"], "Commit": origin["commit"]}


def _stated(score: Score | None) -> str:
    if score is None:
        return "not computed"
    return f"{percent(score.accuracy)} %\n95 % CI {interval(score.ci95)}\nn = {score.n:,}"


def _summary(results: Results, statistics: Statistics) -> list[str]:
    test = results.evaluation.chosen_model().test
    low, high = test.ci95
    first = (
        f"One test image is {100 / test.n:.3f} points. The 95 % confidence interval of the chosen model is "
        f"{100 * (high - low):.1f} points wide; a paired test on the same images can find smaller differences."
    )
    return [first, *map(comparison, main_comparisons(statistics)), *statistics.untested]


def _rule(results: Results) -> str:
    selection = results.selection
    limit = selection.loss_factor * (selection.start.metrics.train_loss or 0.0)
    return (
        f"{len(selection.kept)} of {len(selection.entries)} models were kept. A network with LHC is kept if its "
        f"training loss is below {limit:.4f}, which is {selection.loss_factor:g} times that of its start "
        f"{selection.start.id}. The rule does not apply to set A: there, only a training that diverged is rejected."
    )


def _means(spread: Table) -> Table:
    """The means on test alone; the others follow in the chapter on the models."""
    data = spread.data
    return Table(f"{spread.title} on test", "", data[data["score"] == "test"].drop(columns="score"))


def _models(table: Table) -> list[Table]:
    """The table of models in two parts: why a model was kept, and its scores."""
    data = table.data
    why = [name for name in ("model", "kept", "weights", "train_loss", "val", "reason") if name in data]
    scores = [name for name in data if name not in ("set", "kept", "weights", "train_loss", "reason")]
    return [
        Table("Kept and rejected models", "", data.loc[data["kept"].notna(), why]),
        Table("Scores", "", data.loc[data["test"].notna(), scores]),
    ]


def _accuracies(results: Results, same_images: bool) -> Drawing:
    caption = "Lines are 95 % confidence intervals (Wilson). Bold names are the best of their network on validation."
    return Drawing("Test accuracy of every kept model", caption, plots.accuracies(results, official=same_images))


def _with_paper(results: Results, same_images: bool) -> str:
    n = results.evaluation.chosen_model().test.n
    if same_images:
        return f"The paper's figures are of the same {n:,} test images."
    return "The data are not FER2013's official splits, so that these tables have no rows of the paper."


def _how_to_read(statistics: Statistics) -> list[str]:
    """One note for all comparisons."""
    n = len(statistics.comparisons)
    return [
        "First minus second, in points of test accuracy. McNemar's exact test counts the images that only one of the "
        "two classifies correctly; the permutation test compares the mean accuracies of two sets. The p are not "
        f"corrected for their number: of {n} tests, {statistics.alpha * n:.1f} can be expected to be significant "
        f"(p < {statistics.alpha:g}) by chance alone.",
        *statistics.untested,
    ]


def _differences(statistics: Statistics) -> list[Table]:
    found = [differences_table(statistics, question) for question in QUESTIONS if question != "tta"]
    return [table for table in found if len(table.data)]


def _control(results: Results) -> list[str]:
    best = results.evaluation.chosen_control
    if best is None and results.evaluation.control_missing:
        return ["No LHC-NetC was trained to its end: see the notice above."]
    if best is None:
        return ["No LHC-NetC was trained (control.models: none)."]
    return [
        "The output of each module is multiplied by 1 + tanh(w): x + (1 + tanh(w)) LHC(x). Only the five w are "
        f"trained. Best on validation: {best}."
    ]


def _classes(results: Results, classes: Table) -> list[Drawing]:
    counts = confusion(results.predictions[f"{results.selection.chosen}/test"], results.labels)
    found = [
        Drawing("Confusion matrix", "Rows are true classes.", plots.confusion_matrix(counts, CLASSES)),
        Drawing("Precision, recall and F1", "", plots.class_scores(classes.data)),
    ]
    if ROWS not in results.predictions:  # of an earlier version
        return found
    caption = (
        "Test images, drawn at random among the right ones (left half) and the wrong ones (right half) of each class; "
        "above each the predicted class and its probability before temperature scaling."
    )
    return [*found, Drawing("Images right and wrong", caption, plots.examples(results))]


def _calibration(results: Results) -> Drawing:
    caption = (
        f"At most ten bins of equally many test images, at least {plots.FEWEST}. Below the diagonal a model is "
        "overconfident. The lower panel is the histogram of the confidence."
    )
    return Drawing("Confidence and accuracy", caption, plots.calibration(results))


def confidence_figures(results: Results, statistics: Statistics) -> list[Drawing]:
    """Figures of what was scaled by a temperature; none if no temperature is known."""
    if not statistics.confidence:
        return []
    diagram = (
        f"{results.selection.chosen} on test, before and after temperature scaling; {BINS} equally wide bins. The "
        "lower panels are the histograms of the confidence."
    )
    curve = (
        "Images are answered in the order of their confidence after temperature scaling, surest first; the curve "
        f"begins with {plots.FEWEST} images. Dotted: the coverages of the table."
    )
    return [
        Drawing("Reliability diagram", diagram, confidence_plots.reliability(results, statistics)),
        Drawing("Risk and coverage", curve, confidence_plots.risk(results, statistics)),
    ]


def _analyses(analysis: Analysis | Skipped | None) -> Chapter:
    if analysis is None:
        return Chapter("Analyses", ["No analysis was made in this execution."])
    if isinstance(analysis, Skipped):
        return Chapter("Analyses", [f"Nothing was analysed: {analysis.skipped}."])
    report = analysis.report
    return Chapter("Analyses", [how_compared(report)], list(analysis_tables(report).values()), figures(analysis))


def _training(results: Results) -> Chapter:
    return Chapter(
        "Training",
        [
            "Validation figures are of the weights after each epoch; training figures are running means with "
            "augmentation and dropout. Epoch 0 is the start of a stage. A loss far above the rest is cut off, and the "
            "panel says how high it goes."
        ],
        figures=[
            Drawing(
                "Stages 1-3 of the backbone",
                "Dotted: the epoch that was kept, best on validation.",
                plots.backbone_curves(results.selection.backbone),
            ),
            Drawing(
                "Stage 4 of every model, and LHC-NetC",
                "A thin line a model, grey if rejected; bold the best of its set on validation.",
                plots.set_curves(results),
            ),
        ],
    )


def _origin(origin: Mapping[str, str], seconds: Mapping[str, float]) -> Chapter:
    made = frame([{"what": what, "value": value} for what, value in origin.items()])
    times = frame([{"step": step, "seconds": value} for step, value in seconds.items()])
    note = "Of the last run of each step, on the machine that ran it; of a resumed training only the time since then."
    return Chapter(
        "Hardware, versions and times",
        [] if seconds else ["No wall times of this execution are known on this machine."],
        [Table("The machine that made this report", "", made)]
        + [Table("Wall time of each step", note, times)] * bool(seconds),
    )
