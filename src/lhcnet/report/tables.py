"""What `compare` says as tables: every model, the paper's tables beside ours, every comparison with its verdict.

A table is (title, note, rows): the note says in words what it shows and how models were chosen. The same tables are
CSV files, `report.md` and part of the HTML report.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lhcnet.data.fer2013 import CLASSES
from lhcnet.protocol.comparisons import Predictions, Statistics
from lhcnet.protocol.results import Evaluated, EvaluationReport
from lhcnet.protocol.score import LABELS
from lhcnet.protocol.selection import SelectionReport
from lhcnet.protocol.statistics import Permuted, p_text, wilson
from lhcnet.report.formatting import Table, bounds, markdown, percent, points, write_csv
from lhcnet.report.paper_tables import table_7, table_a2


def all_tables(
    selection: SelectionReport,
    evaluation: EvaluationReport,
    predictions: Predictions,
    statistics: Statistics,
    *,
    official: bool,
) -> dict[str, Table]:
    """Every table by the name of its CSV file, in the order of the report.

    `official` says whether the test split is FER2013's: on other images the paper's figures can be no comparison.
    """
    tables = {
        "models": models_table(selection, evaluation),
        "spread": spread_table(statistics),
        "table7": table_7(selection, evaluation, official=official),
        "table_a2": table_a2(selection, evaluation, official=official),
        "differences": comparisons_table(statistics),
        "control": control_table(evaluation),
        "classes": classes_table(evaluation, predictions),
        "calibration": calibration_table(statistics),
    }
    return {name: table for name, table in tables.items() if table[2]}


def models_table(selection: SelectionReport, evaluation: EvaluationReport) -> Table:
    scores = {model.id: model for model in evaluation.models}
    rows = []
    for entry in selection.entries:
        kept = {"set": entry.set, "model": entry.id, "kept": "yes" if entry.kept else "no"}
        losses = {"train loss": "-" if entry.train_loss is None else f"{entry.train_loss:.4f}"}
        model = scores.get(entry.id)
        val = {"val": percent(model.validation.accuracy if model else entry.val_accuracy)}
        rows.append(kept | losses | val | _tests(model) | {"reason": entry.reason})
    for model in evaluation.models:
        if model.control:
            known = {"set": "-", "model": model.id, "kept": "-", "train loss": "-"}
            val = {"val": percent(model.validation.accuracy)}
            rows.append(known | val | _tests(model) | {"reason": f"five w trained from {model.control.of}"})
    n = evaluation.models[0].test.n, evaluation.models[0].test_distinct.n
    note = (
        "Accuracy in per cent of every trained model, and why it was kept or rejected: training loss decides, and a "
        f"rejected model never meets the test images. The {n[0]:,} test images chose nothing; 'no twin' leaves out the "
        f"{n[0] - n[1]:,} of them that stand byte for byte in train."
    )
    return "Sets A, B and C, and LHC-NetC", note, rows


def _tests(model: Evaluated | None) -> dict[str, str]:
    if model is None:
        return dict.fromkeys(("test", "ci95", "no twin", "val TTA", "test TTA", "no twin TTA"), "-")
    return {
        "test": points(model.test),
        "ci95": bounds(model.test.ci95),
        "no twin": points(model.test_distinct),
        "val TTA": points(model.validation_tta),
        "test TTA": points(model.test_tta),
        "no twin TTA": points(model.test_distinct_tta),
    }


def spread_table(statistics: Statistics) -> Table:
    titles = {
        "test_accuracy": "test",
        "test_distinct_accuracy": "test, no twin",
        "test_accuracy_tta": "test, TTA",
        "test_distinct_accuracy_tta": "test, TTA, no twin",
    }
    rows = [
        {
            "set": name,
            "score": title,
            "models": str(one.n),
            "mean": percent(one.mean),
            "sd": percent(one.sd),
            "lowest": percent(one.min),
            "highest": percent(one.max),
        }
        for name, scores in statistics.spread.items()
        for key, title in titles.items()
        if (one := scores.get(key))
    ]
    note = (
        "Mean and sample standard deviation of accuracy in per cent over the kept models of a set. A and C differ in "
        "their data seed, B in the settings of its modules. Nothing was picked, except where TTA was asked for the "
        "best on validation only."
    )
    return "Mean and spread over seeds", note, rows


def comparisons_table(statistics: Statistics) -> Table:
    rows = []
    for one in statistics.comparisons:
        if isinstance(one.test, Permuted):
            counts = f"{one.test.n_a} / {one.test.n_b} models"
        else:
            counts = f"{one.test.b} / {one.test.c} images"
        rows.append(
            {
                "first": one.first,
                "second": one.second,
                "test": one.test.kind,
                "points": f"{one.test.difference:+.2f}",
                "on": counts,
                "p": p_text(one.test.p),
                "which is": one.verdict,
                "no twin: points": f"{one.distinct.difference:+.2f}",
                "no twin: p": p_text(one.distinct.p),
                "no twin: which is": one.distinct_verdict,
                "how chosen": one.how_chosen,
            }
        )
    note = (
        f"First minus second, in points of test accuracy; beyond noise means p < {statistics.alpha:g}. McNemar's exact "
        "test is on the discordant images, those that only the first or only the second had right; the permutation "
        "test is on the models, the means of the two sets. The p are not corrected for their number: of "
        f"{len(rows)} such tests {statistics.alpha * len(rows):.1f} would be beyond noise by chance alone."
    )
    return "Comparisons", note, rows


def control_table(evaluation: EvaluationReport) -> Table:
    from lhcnet.models.lhcnet import CONTROL_START  # torch

    start = {f"w{i}": f"{w:g}" for i, w in enumerate(CONTROL_START, 1)}
    factors = {f"1+tanh(w{i})": f"{1 + np.tanh(w):.3f}" for i, w in enumerate(CONTROL_START, 1)}
    rows = [{"model": "start"} | start | factors]
    for model in evaluation.models:
        if model.control:
            w = {f"w{i}": f"{w:.3f}" for i, w in enumerate(model.control.w, 1)}
            learnt = {f"1+tanh(w{i})": f"{1 + np.tanh(w):.3f}" for i, w in enumerate(model.control.w, 1)}
            rows.append({"model": model.id} | w | learnt)
    note = (
        "The five weights w that LHC-NetC learns, and the factor 1 + tanh(w) they give the output of LHC1 to LHC5, "
        "beside their start. Each was trained from the LHC-Net it is named after, and keeps its best epoch on "
        "validation."
    )
    return "The five weights of LHC-NetC", note, rows if len(rows) > 1 else []


def classes_table(evaluation: EvaluationReport, predictions: Predictions) -> Table:
    from sklearn.metrics import precision_recall_fscore_support

    labels, own = predictions["labels/test"], ~predictions["twin/test"]
    predicted = predictions[f"{evaluation.chosen}/test"].argmax(1)

    def figures(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        found: tuple[np.ndarray, ...] = precision_recall_fscore_support(
            labels[rows], predicted[rows], labels=LABELS, zero_division=np.nan
        )
        return found

    precision, recall, f1, count = figures(np.ones_like(own))
    twinless = figures(own)
    rows = []
    for i, name in enumerate(CLASSES):
        hits, n = int((predicted[labels == i] == i).sum()), int(count[i])
        rows.append(
            {
                "class": name,
                "n": f"{n:,}",
                "precision": percent(precision[i]),
                "recall": percent(recall[i]),
                "recall ci95": "-" if not n else bounds(wilson(hits, n)),
                "F1": percent(f1[i]),
                "no twin: n": f"{twinless[3][i]:,}",
                "no twin: recall": percent(twinless[1][i]),
                "no twin: F1": percent(twinless[2][i]),
            }
        )
    note = (
        f"Test split, no TTA, the chosen {evaluation.chosen} (best on validation), in per cent: of the images called "
        "so how many are (precision), of those that are how many were called so (recall), and their harmonic mean (F1)."
    )
    return "Scores of each class", note, rows


def calibration_table(statistics: Statistics) -> Table:
    rows = [
        {
            "model": one.model,
            "views": "TTA" if one.tta else "plain",
            "images": one.images,
            "n": f"{one.n:,}",
            "confidence": percent(one.confidence),
            "accuracy": percent(one.accuracy),
            "difference": f"{100 * (one.confidence - one.accuracy):+.2f}",
            "Brier": f"{one.brier:.4f}",
            "log loss": f"{one.log_loss:.4f}",
        }
        for one in statistics.calibration
    ]
    note = (
        "Mean confidence (the largest probability) and accuracy in per cent: a positive difference is overconfidence. "
        "The Brier score runs from 0 to 2 over the seven classes, log loss is in nats; less is better for both. The "
        "best on validation of A, of B u C and of the LHC-NetCs."
    )
    return "Calibration", note, rows


def write_tables(folder: Path, tables: Mapping[str, Table]) -> None:
    """One CSV file each, and all of them as `report.md`."""
    text = "# Comparison\n"
    for name, (title, note, rows) in tables.items():
        write_csv(folder / f"{name}.csv", rows)
        text += f"\n## {title}\n\n{note}\n\n{markdown(rows)}"
    (folder / "report.md").write_text(text, encoding="utf-8")
