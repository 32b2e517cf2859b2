"""Scores of the kept models, plain and with test-time augmentation."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lhcnet.config import Compute, Evaluation
from lhcnet.data.fer2013 import CLASSES
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.files import write_json
from lhcnet.protocol.results import ControlModel, EvaluationReport, ModelScores
from lhcnet.protocol.score import Score
from lhcnet.protocol.selection import best_on_validation, read_selection
from lhcnet.protocol.sizes import sizes
from lhcnet.saved import MARKER, open_model
from lhcnet.steps.control import CONTROL_PREFIX, open_controlled
from lhcnet.steps.scored_splits import ScoredSplits
from lhcnet.tracking.record import restore, tracked

log = logging.getLogger("lhcnet")


def evaluate(
    models: Sequence[Path],
    selection: Path,
    trainval: Path,
    test: Path,
    out: Path,
    *,
    evaluation: Evaluation,
    compute: Compute,
    control: Path | None = None,
    execution: str | None = None,
) -> EvaluationReport:
    """Score every kept model, plain and with TTA, and the LHC-NetCs in the folder `control`.

    The only step of the pipeline that receives the sealed test split.
    """
    from lhcnet.models.lhcnet import control_weights
    from lhcnet.runtime import open_device

    chosen = read_selection(selection)
    kept = {model.id for model in chosen.kept}
    saved = {model.id: model for path in models if (model := open_model(path)).id in kept}
    if lost := sorted(kept - set(saved)):
        raise LhcnetError(f"{selection}: names kept models that were not handed in: {', '.join(lost)}")
    controlled = open_controlled(control) if control else []
    saved |= {model.id: model for model in controlled}
    records = {model.id: model.record() for model in controlled}
    chosen_control = best_on_validation(list(records.values())).id if records else None
    splits = ScoredSplits.open(trainval, test)
    if splits.data != chosen.data:
        raise LhcnetError(f"{trainval}: is of data {splits.data[:12]}, but {selection} of {chosen.data[:12]}")
    best = {chosen.chosen, chosen.best.get("A", chosen.chosen), chosen_control}
    with_tta = set(saved) if evaluation.tta == "kept" else best

    with tracked(execution, chosen.data, "evaluate") as run:
        device = open_device(compute)
        scored, control_models = [], []
        arrays = splits.arrays()
        for id_ in sorted(saved):
            network, size = saved[id_].network(), saved[id_].info.architecture.input_size
            scores, predicted = splits.score(network, size, evaluation, device, tta=id_ in with_tta)
            arrays |= {f"{id_}/{name}": p for name, p in predicted.items()}
            log.info("%s: accuracy on %s", id_, ", ".join(f"{name} {s.accuracy:.4f}" for name, s in scores.items()))
            scored.append(ModelScores(id=id_, **scores))
            if id_ in records:
                of, w = id_.removeprefix(CONTROL_PREFIX), control_weights(network)
                control_models.append(ControlModel(record=records[id_], of=of, w=w))
        report = EvaluationReport(
            chosen=chosen.chosen,
            chosen_control=chosen_control,
            data=chosen.data,
            settings=evaluation,
            sizes=sizes(chosen.chosen_model.architecture),
            control=tuple(control_models),
            models=tuple(scored),
        )
        labels, p = arrays["labels/test"], arrays[f"{chosen.chosen}/test"]
        with atomic_directory(out, "evaluation.json") as folder:
            write_json(folder / "evaluation.json", report.to_dict())
            np.savez(folder / "predictions.npz", **arrays)  # type: ignore[arg-type]
            with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["actual", "predicted"])
                writer.writerows((CLASSES[a], CLASSES[b]) for a, b in zip(labels, p.argmax(1), strict=True))
        if run:
            run.params({"evaluation": evaluation.to_dict()})
            restore(list(saved.values()), run)
            for evaluated in report.models:
                run.other(f"train/{evaluated.id}", {}).metrics(evaluated.accuracies())
    return report


def evaluate_weights(
    weights: Path, trainval: Path, test: Path, *, evaluation: Evaluation, compute: Compute
) -> dict[str, Score]:
    """Scores of a model directory, or of a published TensorFlow checkpoint, with and without TTA. Logs nothing."""
    from lhcnet.runtime import open_device
    from lhcnet.weights.published import open_published

    device = open_device(compute)
    network = open_model(weights).network() if (weights / MARKER).is_file() else open_published(weights)
    splits = ScoredSplits.open(trainval, test)
    return splits.score(network, network.input_size, evaluation, device, tta=True)[0]
