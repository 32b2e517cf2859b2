"""Scores of the kept models, plain and with test-time augmentation."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lhcnet.config import Evaluation
from lhcnet.data.fer2013 import CLASSES
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.files import write_json
from lhcnet.protocol.examples import IMAGES, ROWS, example_rows
from lhcnet.protocol.results import ControlModel, EvaluationReport, ModelScores
from lhcnet.protocol.score import Score
from lhcnet.protocol.selection import best_on_validation, read_selection
from lhcnet.protocol.sizes import sizes
from lhcnet.runtime import memory_errors
from lhcnet.saved import MARKER, MODEL_FOLDER, open_model
from lhcnet.steps.context import RunContext
from lhcnet.steps.control_models import CONTROL_PREFIX, open_controlled
from lhcnet.steps.outputs import EVALUATION_FOLDER, check_outputs
from lhcnet.steps.scored_splits import ScoredSplits
from lhcnet.tracking.names import score_metrics
from lhcnet.tracking.record import restore, tracked

if TYPE_CHECKING:
    from lhcnet.prediction.network import NetworkModel

log = logging.getLogger("lhcnet")


def evaluate(
    models: Sequence[Path],
    selection: Path,
    trainval: Path,
    test: Path,
    out: Path,
    *,
    evaluation: Evaluation,
    context: RunContext,
    control: Path | None = None,
    chosen: Path | None = None,
) -> EvaluationReport:
    """Score every kept model and every LHC-NetC on validation and test, without TTA and with it.

    The only step of the pipeline that receives the sealed test split.

    Args:
        models: model directories; those that selection rejected are left out.
        selection: `selection.json`.
        trainval: store with the splits train and validation.
        test: store with the sealed split test.
        out: folder to write: `evaluation.json`, `predictions.npz` and `confusion.csv`.
        evaluation: which models get TTA, its views and rotation, batch size.
        context: device and execution.
        control: the folder that `control` wrote, if any.
        chosen: model directory to copy the chosen model to, with its temperatures and what is typical of its training
            images; None copies nothing.

    Returns:
        The scores of all models.

    Raises:
        LhcnetError: a kept model is not in `models` or has other weights than the selection says, or the stores are of
            other data than the selection.
    """
    from lhcnet.models.lhcnet import control_weights
    from lhcnet.prediction.network import NetworkModel

    copy = [(chosen, MODEL_FOLDER)] if chosen is not None else []
    inputs = [*models, selection, trainval, test, control]
    check_outputs((out, EVALUATION_FOLDER), *copy, inputs=inputs, execution=context.execution)
    selected = read_selection(selection)
    kept = {model.id for model in selected.kept}
    saved = {model.id: model for path in models if (model := open_model(path)).id in kept}
    if lost := sorted(kept - set(saved)):
        raise LhcnetError(f"{selection}: selects models that are missing from the input: {', '.join(lost)}")
    for record in selected.kept:
        saved[record.id].require_weights(record.weights, selection)
    trained = open_controlled(control) if control else []
    controlled = [model for model in trained if not model.metrics.unfinished]
    missing = {
        model.id: f"{model.metrics.status}: {model.metrics.reason}" for model in trained if model not in controlled
    }
    for id_, reason in missing.items():
        log.warning("%s is missing: %s", id_, reason)
    saved |= {model.id: model for model in controlled}
    records = {model.id: model.record() for model in controlled}
    chosen_control = best_on_validation(list(records.values())).id if records else None
    splits = ScoredSplits.open(trainval, test)
    if splits.data != selected.data:
        raise LhcnetError(f"{trainval}: is of data {splits.data[:12]}, but {selection} of {selected.data[:12]}")
    best = {selected.chosen, selected.best.get("A", selected.chosen), chosen_control}
    with_tta = set(saved) if evaluation.tta == "kept" else best

    digests = {id_: model.weights_digest() for id_, model in saved.items()}

    with tracked(context.execution, selected.data, "evaluate") as run, memory_errors("evaluation"):
        device = context.device()
        scored, control_models = [], []
        features: bytes | None = None
        arrays = splits.arrays()
        for id_ in sorted(saved):
            network, size = saved[id_].network(), saved[id_].info.architecture.input_size
            found = splits.score(id_, network, size, evaluation, device, tta=id_ in with_tta)
            arrays |= {f"{id_}/{name}": p for name, p in found.predicted.items()}
            accuracies = ", ".join(f"{name} {s.accuracy:.4f}" for name, s in found.scores.items())
            log.info("%s: accuracy on %s", id_, accuracies)
            fitted = found.temperatures(arrays["labels/validation"])
            values: dict[str, Any] = {**found.scores, **fitted, "view_choice": found.choice}
            scored.append(ModelScores(id=id_, weights=digests[id_], **values))
            if chosen is not None and id_ == selected.chosen:
                features = _typical_features(NetworkModel(network, id_, CLASSES, device, evaluation.batch_size), splits)
            if id_ in records:
                of, w = id_.removeprefix(CONTROL_PREFIX), control_weights(network)
                control_models.append(ControlModel(record=records[id_], of=of, w=w))
        report = EvaluationReport(
            chosen=selected.chosen,
            chosen_control=chosen_control,
            data=selected.data,
            settings=evaluation,
            sizes=sizes(selected.chosen_model.architecture),
            control=tuple(control_models),
            control_missing=missing,
            models=tuple(scored),
        )
        labels, p = arrays["labels/test"], arrays[f"{selected.chosen}/test"]
        arrays[ROWS] = example_rows(p, labels)
        arrays[IMAGES] = splits.splits["test"][0][arrays[ROWS]]
        if chosen is not None:
            with atomic_directory(chosen, MODEL_FOLDER) as folder:
                saved[selected.chosen].copy(folder, fitted=report.fitted(arrays), features=features)
        with atomic_directory(out, EVALUATION_FOLDER) as folder:
            write_json(folder / "evaluation.json", report.to_dict())
            np.savez(folder / "predictions.npz", **arrays)  # type: ignore[arg-type]
            with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["actual", "predicted"])
                writer.writerows((CLASSES[a], CLASSES[b]) for a, b in zip(labels, p.argmax(1), strict=True))
        if run:
            run.params({"evaluation": evaluation.to_dict()})
            settings = {"evaluation": evaluation.to_dict()}
            if controlled and (training := controlled[0].info.provenance.training):
                settings["control"] = training.to_dict()
            run.parent().params(settings)
            restore(list(saved.values()), run)
            for evaluated in report.models:
                run.other(f"train/{evaluated.id}", {}).metrics(score_metrics(evaluated.accuracies()))
    return report


def _typical_features(model: NetworkModel, splits: ScoredSplits) -> bytes | None:
    """What is typical of the training images, for the model directory; None, said in the log, if they are too few."""
    from lhcnet.prediction.typical import FEWEST, MOST, TypicalFeatures

    some = splits.train[:: -(-len(splits.train) // MOST)]
    if typical := TypicalFeatures.fit(model.middle(some), model.middle(splits.splits["validation"][0])):
        return typical.to_bytes()
    log.info("%s: stores no typical features: they need %d images that differ", model.name, FEWEST)
    return None


def confusion_matrix(evaluation: Path) -> tuple[list[str], list[list[int]]]:
    """Confusion matrix of the chosen model on test, without TTA, from the folder that `evaluate` wrote.

    Returns:
        The seven classes; (7, 7) counts in their order: rows are true classes, columns predicted ones.
    """
    with (evaluation / "confusion.csv").open(newline="", encoding="utf-8") as file:
        counts = Counter((row["actual"], row["predicted"]) for row in csv.DictReader(file))
    return list(CLASSES), [[counts[actual, predicted] for predicted in CLASSES] for actual in CLASSES]


def evaluate_weights(
    weights: Path, trainval: Path, test: Path, *, evaluation: Evaluation, context: RunContext
) -> dict[str, Score]:
    """Score one model on validation and test, without TTA and with it. Records nothing.

    Args:
        weights: a model directory, or a published TensorFlow checkpoint.
        trainval: store with the splits train and validation.
        test: store with the sealed split test.
        evaluation: views and rotation of TTA, batch size.
        context: device.

    Returns:
        Scores by split: validation, test, test_distinct (test images without duplicates in train), and the same three
        with the suffix _tta.

    Raises:
        LhcnetError: `weights` are neither, or the stores are of different data.
    """
    from lhcnet.weights.published import open_published

    device = context.device()
    network = open_model(weights).network() if (weights / MARKER).is_file() else open_published(weights)
    splits = ScoredSplits.open(trainval, test)
    with memory_errors("evaluation"):
        return splits.score(str(weights), network, network.input_size, evaluation, device, tta=True).scores
