"""Scores of the models (`evaluation.json`), the results of an execution, and its few main figures (`summary.json`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lhcnet.config import Evaluation, FrozenModel
from lhcnet.config_base import SparseModel
from lhcnet.data.fer2013 import SIDE
from lhcnet.errors import LhcnetError
from lhcnet.io.arrays import read_npz, require_array
from lhcnet.model_record import Answered
from lhcnet.protocol.confidence import thresholds
from lhcnet.protocol.examples import IMAGES, ROWS
from lhcnet.protocol.score import LABELS, Score
from lhcnet.protocol.selection import SelectionReport, read_selection
from lhcnet.protocol.sizes import OTHER
from lhcnet.protocol.view_choice import ViewChoice
from lhcnet.saved import Fitted, ModelRecord
from lhcnet.versioned import Versioned, read_versioned

Predictions = Mapping[str, NDArray[Any]]
"""The arrays of `predictions.npz`."""
_ROUNDING = 1e-3  # of a sum of seven probabilities, whatever precision they were computed in


class ModelScores(SparseModel):
    """Scores of one model; with TTA where it was asked for. `weights` is the SHA-256 of the weights that were scored.

    The `distinct` scores exclude the test images with a byte-identical duplicate in the training split. The
    temperatures are fitted on validation (`lhcnet.protocol.confidence.fit_temperature`); results of earlier versions
    have none. `view_choice` is there if the views were chosen (`evaluation.views: helpful`).
    """

    newer: ClassVar = frozenset({"temperature", "temperature_tta", "view_choice"})

    id: str
    weights: str
    validation: Score
    test: Score
    test_distinct: Score
    validation_tta: Score | None = None
    test_tta: Score | None = None
    test_distinct_tta: Score | None = None
    temperature: Annotated[float, Field(gt=0)] | None = None
    temperature_tta: Annotated[float, Field(gt=0)] | None = None
    view_choice: ViewChoice | None = None

    def accuracies(self) -> dict[str, float]:
        """Accuracies (0..1) by their names in MLflow."""
        names = {
            "val_accuracy_plain": self.validation,
            "test_accuracy": self.test,
            "test_distinct_accuracy": self.test_distinct,
            "val_accuracy_tta": self.validation_tta,
            "test_accuracy_tta": self.test_tta,
            "test_distinct_accuracy_tta": self.test_distinct_tta,
        }
        return {name: s.accuracy for name, s in names.items() if s is not None}


class ControlModel(FrozenModel):
    """An LHC-NetC: its record, the LHC-Net `of` that it was trained from, and its weights w, one for each module."""

    record: ModelRecord
    of: str
    w: Annotated[tuple[float, ...], Field(min_length=1, max_length=5)]


class EvaluationReport(Versioned):
    """`evaluation.json`: scores of all kept models of `selection.json` and of the LHC-NetCs, by id.

    Beside it `predictions.npz`: float32 probabilities (n, 7) as `<id>/<validation or test>` and `<id>/<...>_tta`;
    `labels/<split>` (n,) uint8; `train_duplicate/<split>` (n,) bool, whether an image has a byte-identical duplicate in
    the training split.

    `chosen_control` is the LHC-NetC with the best validation accuracy, where there is one. `control_missing` has the
    LHC-NetCs whose training ended early, with the reason; without any, the key is left out. `sizes` are those of the
    chosen model's networks: name -> (parameters in millions, share of the attention modules in per cent).
    """

    chosen: str
    chosen_control: str | None
    data: str
    settings: Evaluation
    sizes: dict[str, tuple[float, float | None]]
    control: tuple[ControlModel, ...]
    control_missing: dict[str, str] = Field(default_factory=dict, exclude_if=lambda missing: not missing)
    models: tuple[ModelScores, ...]

    @model_validator(mode="after")
    def _holds_together(self) -> EvaluationReport:
        ids, controlled = [model.id for model in self.models], [one.record.id for one in self.control]
        if len(set(ids)) != len(ids) or len(set(controlled)) != len(controlled):
            raise ValueError("a model occurs twice, expected each once")
        if self.chosen not in ids:
            raise ValueError(f"expected scores of the chosen {self.chosen} among the models")
        if unscored := sorted(set(controlled) - set(ids)):
            raise ValueError(f"expected scores of the LHC-NetC {unscored[0]} among the models")
        if self.chosen_control not in (*controlled, None) or (self.chosen_control is None and controlled):
            raise ValueError(f"expected the chosen LHC-NetC {self.chosen_control} among control")
        return self

    def model(self, id_: str) -> ModelScores:
        return next(model for model in self.models if model.id == id_)

    def chosen_model(self) -> ModelScores:
        return self.model(self.chosen)

    def fitted(self, predictions: Predictions) -> Fitted | None:
        """What was fitted on validation for the chosen model; None in results of earlier versions.

        Args:
            predictions: those of this evaluation.
        """
        model = self.chosen_model()
        if model.temperature is None:
            return None

        def answered(suffix: str, temperature: float | None) -> tuple[Answered, ...]:
            if temperature is None:
                return ()
            p, labels = predictions[f"{model.id}/validation{suffix}"], predictions["labels/validation"]
            return thresholds(p, labels, temperature)

        return Fitted(
            temperature=model.temperature,
            temperature_tta=model.temperature_tta,
            tta_families=model.view_choice.families if model.view_choice else None,
            tta_rotation=self.settings.tta_rotation,
            thresholds=answered("", model.temperature),
            thresholds_tta=answered("_tta", model.temperature_tta),
        )


def read_predictions(file: Path) -> Predictions:
    """Read `predictions.npz`. Raises `LhcnetError` if it is missing or damaged."""
    return read_npz(file, "the predictions that evaluate wrote")


def require_fitting(predictions: Predictions, models: Iterable[ModelScores]) -> None:
    """Check that predictions are those of the scores: shapes, types, ranges, and the accuracy that they give.

    Raises:
        ValueError: an array is missing or does not fit.
    """
    if ROWS in predictions:
        rows = require_array(predictions[ROWS], ROWS, np.int64, (None,))
        require_array(predictions.get(IMAGES), IMAGES, np.uint8, (len(rows), SIDE, SIDE))
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(predictions["labels/test"]):
            raise ValueError(f"{ROWS}: expected rows of the test images")
    for split in ("validation", "test"):
        labels = require_array(predictions[f"labels/{split}"], f"labels/{split}", np.uint8, (None,))
        require_array(predictions[f"train_duplicate/{split}"], f"train_duplicate/{split}", np.bool, labels.shape)
        if not len(labels) or labels.max() >= len(LABELS):
            raise ValueError(f"labels/{split}: expected at least one label, all 0..6")
        for model in models:
            scores = {"": getattr(model, split), "_tta": getattr(model, f"{split}_tta")}
            for suffix, scored in scores.items():
                key = f"{model.id}/{split}{suffix}"
                if (key in predictions) is not (scored is not None):
                    raise ValueError(f"{key} is there without its score, or its score without it")
                if scored is None:
                    continue
                p = require_array(predictions[key], key, np.float32, (len(labels), len(LABELS)))
                if p.min() < 0 or np.abs(p.sum(axis=1, dtype=np.float64) - 1).max() > _ROUNDING:
                    raise ValueError(f"{key} holds no probabilities, expected each row to sum to 1")
                accuracy = float((p.argmax(1) == labels).mean())
                if scored.n != len(labels) or abs(accuracy - scored.accuracy) > 1e-9:
                    raise ValueError(
                        f"{key} has accuracy {accuracy:.6f} on {len(labels):,} images, but evaluation.json says "
                        f"{scored.accuracy:.6f} on {scored.n:,}"
                    )


@dataclass(frozen=True)
class Results:
    """Selection, scores and predictions of one execution; what statistics and report are made of."""

    selection: SelectionReport
    evaluation: EvaluationReport
    predictions: Predictions

    @classmethod
    def read(cls, selection: Path, evaluation: Path) -> Results:
        """Read `selection.json` and the folder that evaluate wrote.

        Raises:
            LhcnetError: a file is missing or damaged, or they do not belong together.
        """
        chosen = read_selection(selection)
        scored = read_versioned(EvaluationReport, evaluation / "evaluation.json")
        if (scored.chosen, scored.data) != (chosen.chosen, chosen.data):
            raise LhcnetError(f"{evaluation}: was made for {scored.chosen}, but {selection} chose {chosen.chosen}")
        file = evaluation / "predictions.npz"
        results = cls(chosen, scored, read_predictions(file))
        if missing := results.missing():
            raise LhcnetError(f"{file}: lacks {', '.join(missing)}, which evaluation.json needs")
        try:
            require_fitting(results.predictions, scored.models)
        except ValueError as error:
            raise LhcnetError(f"{file}: {error}") from None
        if unknown := sorted({model.id for model in scored.models} - set(results.records)):
            raise LhcnetError(f"{evaluation}: has scores of {', '.join(unknown)}, which {selection} does not name")
        if other := sorted(model.id for model in scored.models if model.weights != results.records[model.id].weights):
            raise LhcnetError(f"{evaluation}: scored other weights of {', '.join(other)} than {selection} judged")
        return results

    @property
    def missing_models(self) -> dict[str, str]:
        """Id of each model whose training ended early, and so has no weights -> the reason."""
        return {entry.id: entry.reason for entry in self.selection.missing} | self.evaluation.control_missing

    def missing(self) -> list[str]:
        """Arrays that should be among the predictions, but are not."""
        names = ["labels", "train_duplicate", *(model.id for model in self.evaluation.models)]
        wanted = {f"{name}/{split}" for name in names for split in ("validation", "test")}
        return sorted(wanted - set(self.predictions))

    @cached_property
    def records(self) -> dict[str, ModelRecord]:
        """Every judged model and every LHC-NetC, by id."""
        judged = [entry.record for entry in self.selection.entries]
        return {record.id: record for record in [*judged, *(one.record for one in self.evaluation.control)]}

    @cached_property
    def sets(self) -> dict[str, list[ModelRecord]]:
        """The scored models by their network: ResNet34v2 (set A), LHC-Net and other attention (B ∪ C), LHC-NetC."""
        found: dict[str, list[ModelRecord]] = {"ResNet34v2": [], "LHC-Net": [], "LHC-NetC": [], OTHER: []}
        for model in self.evaluation.models:
            record = self.records[model.id]
            with_attention = "LHC-Net" if record.architecture.has_lhc else OTHER
            found[{"A": "ResNet34v2", "control": "LHC-NetC"}.get(record.set, with_attention)].append(record)
        return found

    @cached_property
    def best(self) -> dict[str, str]:
        """Name of a network -> id of its best model on validation: of set A, of B ∪ C (the chosen one), of LHC-NetC."""
        best = {self.selection.best.get("A"), self.selection.chosen, self.evaluation.chosen_control}
        return {name: model.id for name, models in self.sets.items() for model in models if model.id in best}

    @property
    def best_on_validation(self) -> ModelScores:
        """The best of all scored models on validation, whatever its network; on a tie the chosen one."""
        best = max(self.evaluation.models, key=lambda model: model.validation.accuracy)
        chosen = self.evaluation.chosen_model()
        return best if best.validation.accuracy > chosen.validation.accuracy else chosen

    @property
    def labels(self) -> NDArray[np.uint8]:
        """(n,) labels of the test images."""
        labels: NDArray[np.uint8] = self.predictions["labels/test"]
        return labels

    @property
    def distinct(self) -> NDArray[np.bool]:
        """(n,) which test images have no duplicate in the training split."""
        distinct: NDArray[np.bool] = ~self.predictions["train_duplicate/test"]
        return distinct

    @property
    def duplicates(self) -> int:
        """How many test images have a duplicate in the training split."""
        return int(self.predictions["train_duplicate/test"].sum())

    def correct(self, key: str) -> NDArray[np.bool]:
        """(n,) which test images the predictions `key` classify correctly."""
        correct: NDArray[np.bool] = self.predictions[key].argmax(1) == self.labels
        return correct

    def same_weights(self) -> dict[str, str]:
        """Id of a model -> `start` or the id of an earlier model with the same weights."""
        first: dict[str, str] = {}
        found: dict[str, str] = {}
        for id_, record in self.records.items():
            if record.weights is None:
                continue
            earlier = first.setdefault(record.weights, id_)
            if record.is_its_start:
                found[id_] = "start"
            elif earlier != id_:
                found[id_] = earlier
        return found


def one_each(models: Iterable[ModelRecord]) -> list[ModelRecord]:
    """The first model of each set of weights: models with equal weights are one model in every statistic."""
    found: dict[str | None, ModelRecord] = {}
    for model in models:
        found.setdefault(model.weights, model)
    return list(found.values())


class Summary(Versioned):
    """`summary.json`, the metrics that DVC shows: the chosen model, its scores, and the means of the sets.

    `best_on_validation` is the best of all scored models on validation, which may be of another network than the chosen
    one. The means are those of the kept models, of set A and of the LHC-Nets of B ∪ C, where models with equal weights
    count once; the difference is B ∪ C minus A. They are null if a set has no kept model.
    """

    chosen: str
    best_on_validation: str
    best_on_validation_accuracy: float
    kept: int
    rejected: int
    val_accuracy: float
    test_accuracy: float
    test_accuracy_ci95: tuple[float, float]
    test_distinct_accuracy: float
    val_accuracy_tta: float | None
    test_accuracy_tta: float | None
    test_distinct_accuracy_tta: float | None
    mean_val_accuracy_a: float | None
    mean_val_accuracy_bc: float | None
    mean_val_accuracy_difference: float | None
    mean_test_accuracy_a: float | None
    mean_test_accuracy_bc: float | None
    mean_test_accuracy_difference: float | None


def summarise(results: Results) -> Summary:
    """The main figures of an execution."""
    selection, evaluation = results.selection, results.evaluation
    chosen = evaluation.chosen_model()
    sets = [
        [evaluation.model(model.id) for model in one_each(results.sets[name])] for name in ("ResNet34v2", "LHC-Net")
    ]
    val_a, val_bc = (_mean(model.validation.accuracy for model in models) for models in sets)
    test_a, test_bc = (_mean(model.test.accuracy for model in models) for models in sets)
    return Summary(
        chosen=selection.chosen,
        best_on_validation=results.best_on_validation.id,
        best_on_validation_accuracy=results.best_on_validation.validation.accuracy,
        kept=len(selection.kept),
        rejected=len(selection.entries) - len(selection.kept),
        val_accuracy=chosen.validation.accuracy,
        test_accuracy=chosen.test.accuracy,
        test_accuracy_ci95=chosen.test.ci95,
        test_distinct_accuracy=chosen.test_distinct.accuracy,
        val_accuracy_tta=chosen.validation_tta.accuracy if chosen.validation_tta else None,
        test_accuracy_tta=chosen.test_tta.accuracy if chosen.test_tta else None,
        test_distinct_accuracy_tta=chosen.test_distinct_tta.accuracy if chosen.test_distinct_tta else None,
        mean_val_accuracy_a=val_a,
        mean_val_accuracy_bc=val_bc,
        mean_val_accuracy_difference=_difference(val_bc, val_a),
        mean_test_accuracy_a=test_a,
        mean_test_accuracy_bc=test_bc,
        mean_test_accuracy_difference=_difference(test_bc, test_a),
    )


def metrics_digest(results: Results) -> str:
    """SHA-256 of selection and evaluation. Two drivers of the flow must agree on it."""
    facts = json.dumps([results.selection.to_dict(), results.evaluation.to_dict()], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
