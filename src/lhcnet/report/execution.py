"""The report of one pipeline execution."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lhcnet import __version__
from lhcnet.data.fer2013 import CLASSES
from lhcnet.protocol.comparisons import ALL_KEPT, BEST, SAME_MODEL, SAME_START, Comparison, Predictions, Statistics
from lhcnet.protocol.results import EvaluationReport
from lhcnet.protocol.score import Score, confusion
from lhcnet.protocol.selection import SelectionReport
from lhcnet.protocol.statistics import Paired, p_text
from lhcnet.report.formatting import Row, Table, bounds, percent
from lhcnet.report.page import Chapter, page
from lhcnet.report.protocol_chapter import data_chapter, differing, official, protocol_chapter


def write_report(
    file: Path,
    *,
    data_report: Mapping[str, Any],
    selection: SelectionReport,
    evaluation: EvaluationReport,
    predictions: Predictions,
    statistics: Statistics,
    tables: Mapping[str, Table],
    analyses: Chapter | None = None,
    execution: str | None = None,
) -> None:
    """One HTML file with everything in it.

    `data_report` is what prepare wrote, `tables` come from `all_tables`.
    """
    from lhcnet.report import plots

    same_images = official(data_report)
    labels, predicted = predictions["labels/test"], predictions[f"{evaluation.chosen}/test"]
    counts = confusion(predicted, labels)

    def of(*names: str) -> list[Table]:
        return [tables[name] for name in names if name in tables]

    chapters = [
        Chapter("In short", _in_short(evaluation, statistics)),
        data_chapter(data_report),
        protocol_chapter(selection, evaluation),
        Chapter(
            "Training",
            [
                "Validation figures are of the weights after each epoch, training figures running means under "
                "augmentation and dropout. Epoch 0 is the start of a stage. A loss far above the rest leaves the "
                "panel, which then says how high it goes."
            ],
            figures=[
                (
                    "Stages 1-3 of the backbone",
                    "Dotted: the epoch that was kept, best on validation.",
                    plots.backbone_curves(selection),
                ),
                (
                    "Stage 4 of every model, and LHC-NetC",
                    "A thin line a model, grey if rejected; bold the best of its set on validation.",
                    plots.set_curves(selection, evaluation),
                ),
            ],
        ),
        Chapter("Kept and rejected", [_rule(selection)], [_kept(tables["models"])]),
        Chapter(
            "Accuracy",
            [],
            [_scores(tables["models"]), *of("spread")],
            [
                (
                    "Test accuracy of every kept model",
                    "Lines are 95 % intervals (Wilson); hollow: without the images that have a twin in train. Bold "
                    "names are the best on validation. "
                    + ("" if same_images else "The paper's figures are of other images."),
                    plots.accuracies(selection, evaluation, official=same_images),
                )
            ],
        ),
        Chapter("Beside the paper", [_beside(evaluation, same_images)], of("table7", "table_a2")),
        Chapter("Comparisons", list(statistics.untested), _grouped(*of("differences"))),
        Chapter("LHC-NetC", _control(evaluation, statistics), of("control")),
        Chapter(
            "Classes",
            [],
            of("classes"),
            [
                (
                    "Confusion matrix",
                    f"Rows are true classes; {evaluation.chosen}, no TTA.",
                    plots.confusion_matrix(counts, CLASSES),
                ),
                (
                    "Scores of each class",
                    f"{evaluation.chosen}, no TTA, on all test images.",
                    plots.class_scores(predicted.argmax(1), labels, CLASSES),
                ),
            ],
        ),
        Chapter(
            "Calibration",
            [],
            of("calibration"),
            [
                (
                    "Confidence and accuracy",
                    f"Bins of equally many of the {len(labels):,} test images, at most ten and of at least "
                    f"{plots.FEWEST}: below the diagonal a model is surer than right. Below, how many are how sure.",
                    plots.calibration(selection, evaluation, predictions),
                )
            ],
        ),
        analyses or Chapter("Analyses", ["No analyses were made in this execution."]),
    ]
    html = page(
        f"LHC-Net: {execution or selection.chosen}",
        chapters,
        lead=_lead(selection, evaluation),
        facts=_facts(selection, evaluation, execution),
        notices=_notices(selection, evaluation, data_report, same_images),
    )
    file.write_text(html, encoding="utf-8")


GROUPS = {
    BEST: "The best LHC-Net against the best ResNet34v2",
    ALL_KEPT: "B u C against A",
    SAME_START: "LHC-NetC against the LHC-Net it was trained from",
    SAME_MODEL: "TTA against plain inference",
}


def _kept(models: Table) -> Table:
    rows = [_only(row, "model", "kept", "train loss", "val", "reason") for row in models[2] if row["kept"] != "-"]
    return "Sets A, B and C", "Training loss decides who is kept; validation accuracy is in per cent.", rows


def _scores(models: Table) -> Table:
    title, note, rows = models
    names = [name for name in rows[0] if name not in ("set", "kept", "train loss", "reason")]
    return title, note, [_only(row, *names) for row in rows if row["test"] != "-"]


def _grouped(*comparisons: Table) -> list[Table]:
    """A table for each way of choosing who is compared."""
    groups: list[Table] = []
    for _, note, rows in comparisons:
        for how_chosen, title in GROUPS.items():
            members = [row for row in rows if row["how chosen"] == how_chosen]
            names = [name for name in rows[0] if name not in ("test", "how chosen")]
            kind = "Permutation" if how_chosen == ALL_KEPT else "McNemar"
            told = f"{kind} test; {how_chosen}."
            groups.append((title, told, [_only(row, *names) for row in members]))
        groups[0] = (groups[0][0], f"{groups[0][1]} {note}", groups[0][2])
    return groups


def _only(row: Row, *names: str) -> Row:
    return {name: row[name] for name in names}


def _lead(selection: SelectionReport, evaluation: EvaluationReport) -> str:
    test = evaluation.chosen_model().test
    candidates = sum(entry.kept and entry.set != "A" for entry in selection.entries)
    return (
        f"{selection.chosen} is the best on validation of the {candidates} kept networks with attention. On the test "
        f"images, which chose nothing, its accuracy is {percent(test.accuracy)} % (95 % interval {bounds(test.ci95)}, "
        f"n = {test.n:,})."
    )


def _stated(score: Score | None) -> str:
    if score is None:
        return "not computed"
    return f"{percent(score.accuracy)} %\n95 %: {bounds(score.ci95)}, n = {score.n:,}"


def _facts(selection: SelectionReport, evaluation: EvaluationReport, execution: str | None) -> dict[str, str]:
    model, kept = evaluation.chosen_model(), sum(entry.kept for entry in selection.entries)
    return {
        "Execution": execution or "not tracked",
        "Chosen model": selection.chosen,
        "Test accuracy": _stated(model.test),
        "Test, no twin in train": _stated(model.test_distinct),
        "Test with TTA": _stated(model.test_tta),
        "Test with TTA, no twin": _stated(model.test_distinct_tta),
        "Validation accuracy": _stated(model.validation),
        "Models": f"{kept} kept, {len(selection.entries) - kept} rejected",
        "lhcnet": __version__,
        "Data digest": evaluation.data[:12],
    }


def _notices(
    selection: SelectionReport, evaluation: EvaluationReport, data_report: Mapping[str, Any], same_images: bool
) -> list[str]:
    notices = []
    if not same_images:
        notices.append(
            f"These are not FER2013's official splits ({data_report['images']:,} images, {data_report['shape']}): the "
            "paper's figures are of other images, and differences from them are not judged."
        )
    if different := differing(selection, evaluation):
        notices.append(f"{different} settings differ from the paper's: see Protocol.")
    if not all(entry.architecture.has_lhc for entry in selection.entries if entry.id == selection.chosen):
        notices.append("The chosen network has other attention than LHC: it has no counterpart in the paper's tables.")
    return notices


def _in_short(evaluation: EvaluationReport, statistics: Statistics) -> list[str]:
    model = evaluation.chosen_model()
    low, high = model.test.ci95
    first = (
        f"One test image is {100 / model.test.n:.3f} points, and chance in the choice of the images alone moves an "
        f"accuracy by up to {50 * (high - low):.1f} points (half of a 95 % interval). Two models on the same images "
        "are told apart more finely, by the images on which they disagree."
    )
    leading = {evaluation.chosen_control, f"{evaluation.chosen} with TTA"}
    told = [one for one in statistics.comparisons if one.how_chosen in (BEST, ALL_KEPT) or one.first in leading]
    return [first, *map(_told, told), *statistics.untested]


def _told(one: Comparison) -> str:
    images = f"{one.distinct.n:,} images" if isinstance(one.distinct, Paired) else "images"
    distinct = f"{one.distinct.difference:+.2f} points, {p_text(one.distinct.p, 'p = ', 'p ')}"
    return f"{one.sentence} On the {images} that have no twin in train: {distinct}: {one.distinct_verdict}."


def _rule(selection: SelectionReport) -> str:
    kept = sum(entry.kept for entry in selection.entries)
    return (
        f"{kept} of {len(selection.entries)} models were kept. A network with LHC is kept if its training loss is "
        f"below {selection.loss_factor:g} x that of the network it started from, {selection.start_id} "
        f"({selection.start_train_loss:.4f}); set A has no new modules to be rejected by, so only divergence counts."
    )


def _beside(evaluation: EvaluationReport, same_images: bool) -> str:
    n = evaluation.chosen_model().test.n
    if same_images:
        return f"The paper's figures are on the same {n:,} test images."
    return f"The paper's figures are on FER2013's 3,589 test images, these on {n:,} others: nothing is compared."


def _control(evaluation: EvaluationReport, statistics: Statistics) -> list[str]:
    if evaluation.chosen_control is None:
        return ["No LHC-NetC was trained or handed to the evaluation (control.models: none)."]
    return [
        f"Each residual becomes x + (1 + tanh(w)) LHC(x), and only the five w are trained. Best on validation: "
        f"{evaluation.chosen_control}.",
        *(_told(one) for one in statistics.comparisons if one.first == evaluation.chosen_control),
    ]
