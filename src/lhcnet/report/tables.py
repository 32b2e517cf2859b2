"""The tables of a comparison, from saved results: models, spread, comparisons, LHC-NetC, classes, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lhcnet.data.fer2013 import CLASSES
from lhcnet.protocol.comparisons import Comparison, Question, Statistics
from lhcnet.protocol.results import ModelScores, Results
from lhcnet.protocol.score import LABELS
from lhcnet.protocol.statistics import Permuted, wilson
from lhcnet.report.confidence import selective_table, temperature_table
from lhcnet.report.formatting import Table, frame, markdown, score_columns, write_csv
from lhcnet.report.paper_tables import table_7, table_a2
from lhcnet.report.views import single_views_table, tta_table, views_table
from lhcnet.report.wording import HOW_CHOSEN, QUESTIONS, names

SPREAD_SCORES = {
    "test_accuracy": "test",
    "test_distinct_accuracy": "test excluding duplicates",
    "test_accuracy_tta": "test with TTA",
    "test_distinct_accuracy_tta": "test with TTA excluding duplicates",
}


def all_tables(results: Results, statistics: Statistics, *, official: bool) -> dict[str, Table]:
    """Every table by the name of its CSV file.

    Args:
        results: of the execution.
        statistics: made from them.
        official: whether the splits are FER2013's own; only then are there rows of the paper.
    """
    models = models_table(results)
    tables = {
        "best": best_table(results, models),
        "spread": spread_table(results, statistics),
        "models": models,
        "table7": table_7(results, official=official),
        "table_a2": table_a2(results, official=official),
        "differences": differences_table(statistics),
        "tta": tta_table(results, statistics),
        "views": views_table(results),
        "single_views": single_views_table(results),
        "control": control_table(results),
        "classes": classes_table(results),
        "calibration": calibration_table(results, statistics),
        "temperature": temperature_table(statistics),
        "selective": selective_table(statistics),
    }
    return {name: table for name, table in tables.items() if len(table.data)}


def best_table(results: Results, models: Table) -> Table:
    """The rows of the best models on validation, the chosen one first."""
    ids = sorted(results.best.values(), key=lambda id_: id_ != results.selection.chosen)
    data = models.data.set_index("model", drop=False).loc[ids].drop(columns=["kept", "reason"])
    note = "The best model of each network on validation: of B ∪ C (the chosen one), of set A, and of the LHC-NetCs."
    return Table("Best models", note, data.dropna(axis="columns", how="all"))


def models_table(results: Results) -> Table:
    """Every model, kept or rejected."""
    scored = {model.id: model for model in results.evaluation.models}
    same = {id_: f"= {other}" for id_, other in results.same_weights().items()}
    rows: list[dict[str, object]] = []
    for entry in results.selection.entries:
        metrics = entry.record.metrics
        row = {"set": entry.set, "model": entry.id, "kept": entry.kept, "train_loss": metrics.train_loss}
        scores = _scores(scored.get(entry.id)) or {"val": metrics.val_accuracy}
        rows.append(row | scores | {"weights": same.get(entry.id), "reason": entry.reason})
    for one in results.evaluation.control:
        record = one.record
        row = {"set": "LHC-NetC", "model": record.id, "kept": None, "train_loss": record.metrics.train_loss}
        said = {"weights": same.get(record.id), "reason": f"five weights w trained from {one.of}"}
        rows.append(row | _scores(scored.get(record.id)) | said)
    note = "All models. A rejected model is never scored on test."
    return Table("Models", note, _tidy(rows, results))


def _scores(model: ModelScores | None) -> dict[str, object]:
    if model is None:
        return {}
    return {
        "val": model.validation.accuracy,
        **score_columns(model.test, "test"),
        "test_distinct": model.test_distinct.accuracy,
        "val_tta": model.validation_tta.accuracy if model.validation_tta else None,
        "test_tta": model.test_tta.accuracy if model.test_tta else None,
        "test_distinct_tta": model.test_distinct_tta.accuracy if model.test_distinct_tta else None,
    }


def _tidy(rows: Sequence[Mapping[str, object]], results: Results) -> pd.DataFrame:
    """Without columns that hold nothing, and without those on duplicates if there are none."""
    data = frame(rows).dropna(axis="columns", how="all")
    return data if results.duplicates else data[[name for name in data if "distinct" not in str(name)]]


def spread_table(results: Results, statistics: Statistics) -> Table:
    """Mean and standard deviation of each set."""
    rows = [
        {
            "set": name,
            "score": title,
            "models": one.models,
            "different": one.n,
            "mean": one.mean,
            "sd": one.sd,
            "lowest": one.min,
            "highest": one.max,
        }
        for key, title in SPREAD_SCORES.items()
        if results.duplicates or "distinct" not in key
        for name, scores in statistics.spread.items()
        if (one := scores.get(key))
    ]
    note = (
        "Accuracy of the kept models of each set: mean and sample standard deviation over the models with different "
        "weights. A and C differ in their data seed, B in the settings of its modules. With TTA only the models that "
        "were predicted with it."
    )
    return Table("Means of the sets", note, frame(rows))


def differences_table(statistics: Statistics, question: Question | None = None) -> Table:
    """All comparisons, or those of one question; `lhcnet.report.views.tta_table` is the table on TTA for people."""
    wanted = [one for one in statistics.comparisons if question in (None, one.question)]
    data = frame([_difference(one) for one in wanted])
    if len(data) and data["difference_distinct"].isna().all():
        data = data[[name for name in data if "distinct" not in str(name)]]
    if question is None:
        return Table("Comparisons", "First minus second, in points of test accuracy.", data)
    test = "Permutation test" if question == "sets" else "McNemar's exact test"
    hidden = ["question", "test_used"]
    return Table(QUESTIONS[question], f"{test}; {HOW_CHOSEN[question]}.", data.drop(columns=hidden, errors="ignore"))


def _difference(one: Comparison) -> dict[str, object]:
    first, second = names(one)
    if isinstance(one.test, Permuted):
        counts: dict[str, object] = {"n_first": one.test.n_a, "n_second": one.test.n_b}
    else:
        counts = {"first_alone": one.test.b, "second_alone": one.test.c}
    return {
        "question": one.question,
        "first": first,
        "second": second,
        "test_used": one.test.kind,
        "difference": one.test.difference,
        **counts,
        "p": one.test.p,
        "significant": one.test.significant,
        "difference_distinct": one.distinct.difference if one.distinct else None,
        "p_distinct": one.distinct.p if one.distinct else None,
        "significant_distinct": one.distinct.significant if one.distinct else None,
    }


def control_table(results: Results) -> Table:
    """The weights w of the LHC-NetCs and the factors they give."""
    from lhcnet.models.lhcnet import CONTROL_START  # torch

    weights = {one.record.id: one.w for one in results.evaluation.control}
    slots = max(map(len, weights.values()), default=0)
    weights = {"start": CONTROL_START[-slots:]} | weights
    rows = [
        {"model": name}
        | {f"w{i}": value for i, value in enumerate(w, 1)}
        | {f"factor{i}": float(1 + np.tanh(value)) for i, value in enumerate(w, 1)}
        for name, w in weights.items()
    ]
    note = "The weights w of LHC1 to LHC5, and the factor 1 + tanh(w) of the output of each module; the start first."
    return Table("The five weights of LHC-NetC", note, frame(rows if len(rows) > 1 else []))


def classes_table(results: Results) -> Table:
    """Precision, recall and F1 of the chosen model."""
    from sklearn.metrics import precision_recall_fscore_support

    labels, own = results.labels, results.distinct
    predicted = results.predictions[f"{results.selection.chosen}/test"].argmax(1)

    def figures(rows: NDArray[np.bool]) -> tuple[np.ndarray, ...]:
        found: tuple[np.ndarray, ...] = precision_recall_fscore_support(
            labels[rows], predicted[rows], labels=LABELS, zero_division=np.nan
        )
        return found

    precision, recall, f1, count = figures(np.ones_like(own))
    _, recall_distinct, f1_distinct, count_distinct = figures(own)
    rows = []
    for i, name in enumerate(CLASSES):
        hits, n = int((predicted[labels == i] == i).sum()), int(count[i])
        low, high = wilson(hits, n) if n else (None, None)
        rows.append(
            {
                "class": name,
                "n": n,
                "precision": precision[i],
                "recall": recall[i],
                "recall_ci95_low": low,
                "recall_ci95_high": high,
                "f1": f1[i],
                "n_distinct": int(count_distinct[i]),
                "recall_distinct": recall_distinct[i],
                "f1_distinct": f1_distinct[i],
            }
        )
    note = (
        f"{results.selection.chosen}, test split, without TTA. Precision: share of the images predicted as this class "
        "that are of it. Recall: share of the images of this class that are predicted as it. F1: their harmonic mean."
    )
    return Table("Scores of each class", note, _tidy(rows, results))


def calibration_table(results: Results, statistics: Statistics) -> Table:
    """Confidence and accuracy of the best models."""
    rows = [
        {
            "model": one.model,
            "tta": one.tta,
            **({"images": "all" if one.duplicates else "excluding duplicates"} if results.duplicates else {}),
            "n": one.n,
            "confidence": one.confidence,
            "accuracy": one.accuracy,
            "difference": one.confidence - one.accuracy,
            "brier": one.brier,
            "log_loss": one.log_loss,
        }
        for one in statistics.calibration
    ]
    note = (
        "Mean confidence (the largest probability) minus accuracy: a positive difference is overconfidence. The Brier "
        "score (0 to 2 with seven classes) and the log loss (natural logarithm) are better the lower they are."
    )
    return Table("Calibration", note, _tidy(rows, results))


def write_tables(folder: Path, tables: Mapping[str, Table], headline: Sequence[str]) -> None:
    """One CSV file each, and all of them as `report.md` after the headline."""
    text = "# Comparison\n" + "".join(f"\n{line}\n" for line in headline)
    for name, table in tables.items():
        write_csv(folder / f"{name}.csv", table.data)
        text += f"\n## {table.title}\n\n{table.note}\n\n{markdown(table.data)}"
    (folder / "report.md").write_text(text, encoding="utf-8")
