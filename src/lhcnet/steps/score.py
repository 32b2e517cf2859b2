"""The 10 % loss rule and the scores: what is kept, and how good it is."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lhcnet.config import Compute, Evaluation, parse
from lhcnet.data.audit import train_duplicates
from lhcnet.data.fer2013 import CLASSES, Bytes
from lhcnet.data.store import open_store
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory, atomic_file
from lhcnet.io.files import read_json, write_json
from lhcnet.protocol.results import Controlled, Evaluated, EvaluationReport
from lhcnet.protocol.score import Score, score
from lhcnet.protocol.selection import SelectionReport, best_on_validation, choose, judge, trained
from lhcnet.saved import MARKER, SavedModel, open_model
from lhcnet.steps.train import CONTROL_PREFIX, open_controlled
from lhcnet.tracking.record import restore, tracked

if TYPE_CHECKING:
    from lhcnet.models.resnetv2 import ResNetV2
    from lhcnet.runtime import Device

log = logging.getLogger("lhcnet")


def select(
    models: Sequence[Path],
    backbone: Sequence[Path],
    out: Path,
    *,
    loss_factor: float,
    chosen: Path | None = None,
    execution: str | None = None,
) -> SelectionReport:
    """The 10 % loss rule over trained models; writes `selection.json` and, where asked for, the chosen model.

    `backbone` are the stages of the backbone, the start of stage 4 last.
    """
    saved = [open_model(path) for path in models]
    stages = [open_model(path) for path in backbone]
    first = stages[-1]
    entries = judge(saved, first, loss_factor)
    for entry in entries:
        log.info("%s %s: %s", "kept" if entry.kept else "rejected", entry.id, entry.reason)
    data, sets = first.info.provenance.data, "".join(sorted({entry.set for entry in entries}))
    with tracked(execution, data, f"select/{sets}") as run:
        if run:
            run.params({"loss_factor": loss_factor})
            restore([*stages, *saved], run)
            for entry in entries:
                run.other(f"train/{entry.id}", {"kept": entry.kept, "selection": entry.reason})
        report = choose(entries, stages, loss_factor)
        if chosen is not None:
            by_id = {model.id: model for model in saved}
            with atomic_directory(chosen, "model.json") as folder:
                shutil.copytree(by_id[report.chosen].path, folder, dirs_exist_ok=True)
        with atomic_file(out) as file:
            write_json(file, report.to_dict())
        if run:
            run.tags({"chosen": report.chosen})
            run.file(out)
    return report


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
    from lhcnet.report.paper_tables import sizes
    from lhcnet.runtime import open_device

    chosen = parse(SelectionReport, read_json(selection), str(selection))
    kept = {entry.id for entry in chosen.entries if entry.kept}
    saved = {model.id: model for path in models if (model := open_model(path)).id in kept}
    if lost := sorted(kept - set(saved)):
        raise LhcnetError(f"{selection}: names kept models that were not handed in: {', '.join(lost)}")
    controlled = open_controlled(control) if control else []
    saved |= {model.id: model for model in controlled}
    chosen_control = best_on_validation([trained(model) for model in controlled]).id if controlled else None
    splits = ScoredSplits.open(trainval, test)
    if splits.data != chosen.data:
        raise LhcnetError(f"{trainval}: is of data {splits.data[:12]}, but {selection} of {chosen.data[:12]}")
    best = {chosen.chosen, chosen.best.get("A", chosen.chosen), chosen_control}
    with_tta = set(saved) if evaluation.tta == "kept" else best

    with tracked(execution, chosen.data, "evaluate") as run:
        device = open_device(compute)
        scored = []
        arrays = splits.arrays()
        for id_ in sorted(saved):
            network, size = saved[id_].network(), saved[id_].info.architecture.input_size
            scores, predicted = splits.score(network, size, evaluation, device, tta=id_ in with_tta)
            arrays |= {f"{id_}/{name}": p for name, p in predicted.items()}
            log.info("%s: accuracy on %s", id_, ", ".join(f"{name} {s.accuracy:.4f}" for name, s in scores.items()))
            set_: Any = saved[id_].info.provenance.set
            scored.append(Evaluated(id=id_, set=set_, control=_controlled(saved[id_], network), **scores))
        report = EvaluationReport(
            chosen=chosen.chosen,
            chosen_control=chosen_control,
            data=chosen.data,
            settings=evaluation,
            sizes=next(sizes(entry.architecture) for entry in chosen.entries if entry.id == chosen.chosen),
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


@dataclass(frozen=True)
class ScoredSplits:
    """Images and labels of validation and test, and which of them stand byte for byte in train too."""

    data: str
    splits: dict[str, tuple[Bytes, Bytes]]
    twin: dict[str, NDArray[np.bool]]

    @classmethod
    def open(cls, trainval: Path, test: Path) -> ScoredSplits:
        seen, sealed = open_store(trainval), open_store(test)
        if seen.digest != sealed.digest:
            raise LhcnetError(f"{test}: is of data {sealed.digest[:12]}, but {trainval} of {seen.digest[:12]}")
        splits = {"validation": seen.split("validation"), "test": sealed.split("test")}
        train, _ = seen.split("train")
        return cls(seen.digest, splits, {name: train_duplicates(images, train) for name, (images, _) in splits.items()})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Labels and twins, as they stand in `predictions.npz`."""
        found: dict[str, NDArray[Any]] = {f"labels/{name}": labels for name, (_, labels) in self.splits.items()}
        return found | {f"twin/{name}": rows for name, rows in self.twin.items()}

    def score(
        self, network: ResNetV2, input_size: int, evaluation: Evaluation, device: Device, *, tta: bool
    ) -> tuple[dict[str, Score], dict[str, NDArray[np.float32]]]:
        """(scores, probabilities) on both splits, and on the test images without a twin in train."""
        from lhcnet.inference.predict import predict
        from lhcnet.inference.tta import plain_views, tta_views

        device.move(network)
        scores, predicted = {}, {}
        for views in (plain_views(), tta_views(evaluation.tta_rotation))[: 2 if tta else 1]:
            suffix = "_tta" if len(views) > 1 else ""
            for split, (images, labels) in self.splits.items():
                p = predict(
                    network, images, views, input_size=input_size, device=device, batch_size=evaluation.batch_size
                )
                predicted[f"{split}{suffix}"] = p
                scores[f"{split}{suffix}"] = score(p, labels, split=split, views=len(views))
            own, labels = ~self.twin["test"], self.splits["test"][1]
            scores[f"test_distinct{suffix}"] = score(
                predicted[f"test{suffix}"][own], labels[own], split="test without twins in train", views=len(views)
            )
        return scores, predicted


def _controlled(model: SavedModel, network: ResNetV2) -> Controlled | None:
    from lhcnet.models.lhcnet import control_weights

    if not model.info.architecture.control:
        return None
    return Controlled(
        of=model.id.removeprefix(CONTROL_PREFIX),
        w=control_weights(network),
        training=model.info.provenance.training,
        history=model.history,
    )
