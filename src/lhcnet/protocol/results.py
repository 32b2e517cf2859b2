"""The scores of all models (`evaluation.json`), and the few figures of an execution (`summary.json`)."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from lhcnet.config import Evaluation, FrozenModel, Stage
from lhcnet.protocol.score import Score
from lhcnet.protocol.selection import SelectionReport
from lhcnet.saved import Epoch


class Controlled(FrozenModel):
    """LHC-NetC: the five w that were learnt, and how. `of` is the LHC-Net it was trained from."""

    of: str
    w: tuple[float, float, float, float, float]
    training: Stage | None
    history: tuple[Epoch, ...]


class Evaluated(FrozenModel):
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


class EvaluationReport(FrozenModel):
    """`evaluation.json`. Beside it `predictions.npz`: float32 probabilities (n, 7) as `<id>/<validation or test>` and
    `<id>/<...>_tta`; `labels/<split>` (n,) uint8; `twin/<split>` (n,) bool, has a byte-identical twin in train.

    `chosen_control` is the LHC-NetC that is best on validation, where there is one. `sizes` are those of the chosen
    model's networks: name -> (parameters in millions, share of the attention modules in them in per cent).
    """

    chosen: str
    chosen_control: str | None
    data: str
    settings: Evaluation
    sizes: dict[str, tuple[float, float | None]]
    models: tuple[Evaluated, ...]

    def model(self, id_: str) -> Evaluated:
        return next(model for model in self.models if model.id == id_)

    def chosen_model(self) -> Evaluated:
        return self.model(self.chosen)


class Summary(FrozenModel):
    """`summary.json`: the chosen model, and a digest over selection and evaluation that any two drivers must share."""

    chosen: str
    kept: int
    rejected: int
    val_accuracy: float
    test_accuracy: float
    test_accuracy_ci95: tuple[float, float]
    test_distinct_accuracy: float
    val_accuracy_tta: float | None
    test_accuracy_tta: float | None
    test_distinct_accuracy_tta: float | None
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
        test_distinct_accuracy=best.test_distinct.accuracy,
        val_accuracy_tta=best.validation_tta.accuracy if best.validation_tta else None,
        test_accuracy_tta=best.test_tta.accuracy if best.test_tta else None,
        test_distinct_accuracy_tta=best.test_distinct_tta.accuracy if best.test_distinct_tta else None,
        metrics_digest=hashlib.sha256(facts.encode()).hexdigest(),
    )
