"""What `compare` says: one row a model, Table 7 and Table A2 beside the paper's, one digest of all figures."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lhcnet.config import Evaluation, Section, Stage
from lhcnet.evaluation.score import Score
from lhcnet.evaluation.selection import SelectionReport
from lhcnet.evaluation.statistics import COLUMNS, PAPER_TABLE_7, PAPER_TABLE_A2, table_7_row
from lhcnet.models.saved import Epoch


class Controlled(Section):
    """LHC-NetC: the five w that were learnt, and how. `of` is the LHC-Net it was trained from."""

    of: str
    w: tuple[float, float, float, float, float]
    training: Stage | None
    history: tuple[Epoch, ...]


class Evaluated(Section):
    """The scores of one model; TTA where it was asked for.

    The `distinct` scores leave out the test images that have a byte-identical twin in the training split.
    """

    id: str
    set: Literal["A", "B", "C", "control"]
    validation: Score
    test: Score
    test_distinct: Score
    validation_tta: Score | None = None
    test_tta: Score | None = None
    test_distinct_tta: Score | None = None
    control: Controlled | None = None

    def accuracies(self) -> dict[str, float]:
        names = {
            "val_accuracy_plain": self.validation,
            "test_accuracy": self.test,
            "test_distinct_accuracy": self.test_distinct,
            "val_accuracy_tta": self.validation_tta,
            "test_accuracy_tta": self.test_tta,
            "test_distinct_accuracy_tta": self.test_distinct_tta,
        }
        return {name: s.accuracy for name, s in names.items() if s is not None}


class EvaluationReport(Section):
    """`evaluation.json`. Beside it `predictions.npz`: float32 probabilities (n, 7) as `<id>/<validation or test>` and
    `<id>/<...>_tta`; `labels/<split>` (n,) uint8; `twin/<split>` (n,) bool, has a byte-identical twin in train.

    `chosen_control` is the LHC-NetC that is best on validation, where there is one.
    """

    chosen: str
    chosen_control: str | None
    data: str
    settings: Evaluation
    models: tuple[Evaluated, ...]

    def model(self, id_: str) -> Evaluated:
        return next(model for model in self.models if model.id == id_)

    def chosen_model(self) -> Evaluated:
        return self.model(self.chosen)


class Summary(Section):
    """`summary.json`: the chosen model, and a digest over selection and evaluation that any two drivers must share."""

    chosen: str
    kept: int
    rejected: int
    val_accuracy: float
    test_accuracy: float
    test_accuracy_ci95: tuple[float, float]
    val_accuracy_tta: float | None
    test_accuracy_tta: float | None
    metrics_digest: str


def summarise(selection: SelectionReport, evaluation: EvaluationReport) -> Summary:
    best = evaluation.chosen_model()
    kept = sum(entry.kept for entry in selection.entries)
    facts = json.dumps([selection.to_dict(), evaluation.to_dict()], sort_keys=True)
    return Summary(
        chosen=selection.chosen,
        kept=kept,
        rejected=len(selection.entries) - kept,
        val_accuracy=best.validation.accuracy,
        test_accuracy=best.test.accuracy,
        test_accuracy_ci95=best.test.ci95,
        val_accuracy_tta=best.validation_tta.accuracy if best.validation_tta else None,
        test_accuracy_tta=best.test_tta.accuracy if best.test_tta else None,
        metrics_digest=hashlib.sha256(facts.encode()).hexdigest(),
    )


def models_table(selection: SelectionReport, evaluation: EvaluationReport) -> list[dict[str, str]]:
    """One row a trained model of the sets A, B and C, accuracies in per cent."""
    scores = {model.id: model for model in evaluation.models}
    rows = []
    for entry in selection.entries:
        accuracies = scores[entry.id].accuracies() if entry.id in scores else {}
        rows.append(
            {
                "set": entry.set,
                "model": entry.id,
                "kept": "yes" if entry.kept else "no",
                "train loss": "-" if entry.train_loss is None else f"{entry.train_loss:.4f}",
                "val": _percent(entry.val_accuracy),
                "val TTA": _percent(accuracies.get("val_accuracy_tta")),
                "test": _percent(accuracies.get("test_accuracy")),
                "test TTA": _percent(accuracies.get("test_accuracy_tta")),
                "reason": entry.reason,
            }
        )
    return rows


def table_7(evaluation: EvaluationReport) -> list[dict[str, str]]:
    """Ours (set A and B u C) and the paper's, test accuracy in per cent without TTA."""
    sets = {"ResNet34v2": ("A",), "LHC-Net": ("B", "C")}
    rows = []
    for name, members in sets.items():
        accuracies = [100 * model.test.accuracy for model in evaluation.models if model.set in members]
        ours = table_7_row(accuracies)
        rows.append({"model": name, "source": f"here (n={len(accuracies)})"} | _cells(ours))
        rows.append({"model": name, "source": "paper"} | _cells(PAPER_TABLE_7[name]))
    rows.append({"model": "LHC-NetC", "source": "paper"} | _cells(PAPER_TABLE_7["LHC-NetC"]))
    return rows


def table_a2(selection: SelectionReport, evaluation: EvaluationReport) -> list[dict[str, str]]:
    """The best on validation of A and of B u C, with and without TTA, beside the rows of Table A2 they answer to."""
    rows = []
    scores = {model.id: model for model in evaluation.models}
    for name, id_ in (("ResNet34v2", selection.best.get("A")), ("LHC-Net", selection.chosen)):
        found = scores.get(id_ or "")
        for tta, s in (("no", found and found.test), ("yes", found and found.test_tta)):
            if s:
                interval = f"{100 * s.ci95[0]:.2f}-{100 * s.ci95[1]:.2f}"
                rows.append(_a2_row(name, "here", tta, 100 * s.accuracy, interval))
    for name, accuracy, with_tta in PAPER_TABLE_A2:
        rows.append(_a2_row(name, "paper", "yes" if with_tta else "no", accuracy, "-"))
    return rows


def _a2_row(model: str, source: str, tta: str, accuracy: float, ci95: str) -> dict[str, str]:
    return {"model": model, "source": source, "tta": tta, "accuracy": f"{accuracy:.2f}", "ci95": ci95}


def write_tables(folder: Path, selection: SelectionReport, evaluation: EvaluationReport) -> None:
    """`models.csv`, `table7.csv`, `table_a2.csv`, and all three as `report.md`."""
    tables = {
        "models": ("Sets A, B and C", models_table(selection, evaluation)),
        "table7": ("Table 7: test accuracy in per cent, no TTA", table_7(evaluation)),
        "table_a2": ("Table A2: test accuracy in per cent", table_a2(selection, evaluation)),
    }
    text = "# Comparison\n\nModels were chosen on validation; only the kept ones were scored on test.\n"
    for name, (title, rows) in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        text += f"\n## {title}\n\n{markdown(rows)}"
    n = evaluation.models[0].test.n
    text += f"\nOne test image is {100 / n:.3f} points; n = {n}.\n"
    (folder / "report.md").write_text(text, encoding="utf-8")


def markdown(rows: Sequence[dict[str, str]]) -> str:
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _cells(values: Sequence[float | None]) -> dict[str, str]:
    return {c: "-" if v is None else f"{v:.2f}" for c, v in zip(COLUMNS, values, strict=True)}
