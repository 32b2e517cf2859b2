"""Names of the record in MLflow: of runs, and of the parameters and metrics of a training. Each has one meaning.

Metrics are grouped by a prefix, which the user interface shows as a section:

`val/`, `train/`, `test/`: figures of the kept weights. `epoch/`: the curves, one point an epoch. `fit/`: course of a
training. `attention/`, `control/`: of the LHC modules, of an LHC-NetC. `summary/`, `chosen/`: of an execution. `time/`:
seconds. `system/`: of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from lhcnet.config import PLAIN, LHCSettings
from lhcnet.data.fer2013 import OFFICIAL_COUNTS, TRAIN, VALIDATION, Bytes
from lhcnet.model_record import Architecture, Epoch, Metrics, ModelInfo, Provenance

if TYPE_CHECKING:
    from lhcnet.protocol.comparisons import Statistics
    from lhcnet.protocol.results import Summary
    from lhcnet.protocol.standalone import StandaloneReport

LHC_NET_C = "LHC-NetC"
_SCORES = {
    "val_accuracy_tta": "val/accuracy_tta",
    "test_accuracy": "test/accuracy",
    "test_accuracy_tta": "test/accuracy_tta",
    "test_distinct_accuracy": "test/accuracy_distinct",
    "test_distinct_accuracy_tta": "test/accuracy_distinct_tta",
}
_KEPT = {
    "val_accuracy": "val/accuracy",
    "val_loss": "val/loss",
    "train_accuracy": "train/accuracy",
    "train_loss": "train/loss",
    "best_epoch": "fit/best_epoch",
    "epochs": "fit/epochs",
}


def run_name(step: str) -> str:
    """Name of the run of a step, for people: `C seed 1 table2` for `train/C/table2/seed-1`, `select ABC`."""
    kind, _, id_ = step.partition("/")
    return model_name(id_) if kind == "train" and id_ else step.replace("/", " ")


def model_name(id_: str) -> str:
    """Name of a model, for people: `A seed 0` for `A/seed-0`."""
    match id_.split("/"):
        case ["backbone", stage]:
            return f"backbone {_words(stage)}"
        case ["standalone", network, seed, stage]:
            network = "ResNet34v2" if network == PLAIN else f"LHC-Net {network}"
            return f"{network} {_words(seed)} {_words(stage)}"
        case ["LHC-NetC", *of]:
            return f"{LHC_NET_C} of {model_name('/'.join(of))}"
        case [set_, variant, seed]:
            return f"{set_} {_words(seed)} {variant}"
        case [set_, last]:
            return f"{set_} {_words(last) if last.startswith('seed-') else last}"
    return id_.replace("/", " ")


def _words(part: str) -> str:
    """`seed-1`, `stage1` -> `seed 1`, `stage 1`."""
    for word in ("seed", "stage"):
        if part.startswith(word):
            return f"{word} {part.removeprefix(word).removeprefix('-')}"
    return part


def training_params(info: ModelInfo) -> dict[str, Any]:
    """Parameters of a training: one value each, so that they are columns and axes in the user interface."""
    modules = {
        f"lhc{number}": row.to_dict() if isinstance(row, LHCSettings) else {"attention": row.attention}
        for number, row in enumerate(info.architecture.modules or (), 1)
    }
    return provenance_params(info.provenance) | modules | {"network": network_params(info.architecture)}


def provenance_params(provenance: Provenance) -> dict[str, Any]:
    """Set, stage, seed and variant of a model, and the sections `training` and `compute`."""
    p = provenance
    values = {"set": LHC_NET_C if p.set == "control" else p.set, "stage": p.stage, "seed": p.seed}
    values["variant"] = p.variant or "none"
    sections = {"training": p.training, "compute": p.compute}
    return values | {name: section.to_dict() for name, section in sections.items() if section is not None}


def network_params(architecture: Architecture) -> dict[str, Any]:
    """Parameters of the network without its modules."""
    return {name: value for name, value in architecture.to_dict().items() if name not in ("modules", "control")}


def plan_params(models: Sequence[ModelInfo]) -> dict[str, Any]:
    """Settings of an execution, as far as its models say them: network, stages, compute, seeds and variants.

    Args:
        models: the stages of the backbone, then models of the sets A, B and C; or those of the stand-alone pipeline.
    """
    first, seeds = models[0], dict[str, set[int]]()
    values: dict[str, Any] = {"network": network_params(first.architecture)}
    for p in (model.provenance for model in models):
        if p.training is not None:
            values[f"stage{p.stage}"] = p.training.to_dict()
        seeds.setdefault(p.set.lower(), set()).add(p.seed)
    values["seeds"] = {set_: ", ".join(map(str, sorted(found))) for set_, found in seeds.items()}
    in_sets = ("B", "standalone")
    if variants := {p.variant for p in (model.provenance for model in models) if p.set in in_sets and p.variant}:
        values["variants"] = ", ".join(sorted(variants))
    return values | {"compute": provenance_params(first.provenance).get("compute", {})}


def curve(row: Epoch) -> dict[str, Any]:
    """The points of one epoch on the curves."""
    return {f"epoch/{name}": value for name, value in row.to_dict().items() if name != "epoch" and value is not None}


def kept_metrics(metrics: Metrics) -> dict[str, float]:
    """Metrics of the kept weights, and of the course of the training; what was not measured is left out."""
    values = metrics.to_dict()
    found = {new: values[name] for name, new in _KEPT.items() if values[name] is not None}
    return found | {f"attention/entropy_{slot.lower()}": value for slot, value in metrics.attention_entropy.items()}


def score_metrics(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Metrics of a scored model, from `ModelScores.accuracies`. `val/accuracy` is not among them: training wrote it."""
    return {new: accuracies[name] for name, new in _SCORES.items() if name in accuracies}


def summary_metrics(summary: Summary, statistics: Statistics) -> dict[str, float | None]:
    """Metrics of an execution: test accuracy of A and of the LHC-Nets of B ∪ C without TTA, and the chosen model's."""
    found: dict[str, float | None] = {}
    for name, set_ in (("A", "A"), ("BC", "B ∪ C")):
        if spread := statistics.spread.get(set_, {}).get("test_accuracy"):
            found |= {f"summary/{name}_mean": spread.mean, f"summary/{name}_std": spread.sd}
    tested = next((one.test for one in statistics.comparisons if one.question == "sets"), None)
    found["summary/difference"] = summary.mean_test_accuracy_difference
    found["summary/p_value"] = tested.p if tested else None
    for name in ("val_accuracy", "val_accuracy_tta", "test_accuracy", "test_accuracy_tta"):
        found[f"chosen/{name}"] = getattr(summary, name)
    for one in statistics.confidence:
        if one.model == summary.chosen:
            end = "_tta" * one.tta
            for name in ("temperature", "ece_before", "ece_after", "nll_before", "nll_after"):
                found[f"chosen/{name}{end}"] = getattr(one, name)
            for part in one.selective:
                found[f"chosen/accuracy_at_{part.wanted:.0%}".rstrip("%") + end] = part.accuracy
    return found


def standalone_metrics(report: StandaloneReport) -> dict[str, float]:
    """Metrics of an execution of the stand-alone pipeline: mean test accuracies after the last stage of both networks.

    A p value is there only if there is one pair of networks: each pair has its own test.
    """
    last = max(pair.stage for pair in report.pairs)
    pairs = [pair.test for pair in report.pairs if pair.stage == last]
    lhc, plain = (fmean(values) for values in zip(*((p.accuracy_a, p.accuracy_b) for p in pairs), strict=True))
    found = {"summary/LHC-Net_mean": lhc, "summary/ResNet34v2_mean": plain, "summary/difference": lhc - plain}
    return found | ({"summary/p_value": pairs[0].p} if len(pairs) == 1 else {})


def data_set_name(images: Bytes, labels: Bytes) -> str:
    """Name of a data set: FER2013 only if it is that.

    Args:
        images: (n, 48, 48) images of train and validation.
        labels: (n,) their labels.

    Returns:
        `FER2013` if there are as many images of each class as FER2013 has in train, or in train and validation, and
        one is of one colour, as eleven of FER2013 are: drawn faces in the same numbers have noise.
    """
    counts = np.bincount(labels, minlength=OFFICIAL_COUNTS.shape[1])
    official = [OFFICIAL_COUNTS[TRAIN], OFFICIAL_COUNTS[[TRAIN, VALIDATION]].sum(axis=0)]
    known = any(np.array_equal(counts, one) for one in official)
    blank = known and bool((images.max(axis=(1, 2)) == images.min(axis=(1, 2))).any())
    return "FER2013" if blank else "faces, not FER2013"
