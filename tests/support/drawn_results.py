"""SavedModel results of an execution, drawn instead of trained, so that what is made of them can be tried at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lhcnet.config import Config, Stage
from lhcnet.data.fer2013 import CLASSES, OFFICIAL_COUNTS, SPLITS
from lhcnet.protocol.results import Controlled, Evaluated, EvaluationReport
from lhcnet.protocol.score import Score, score
from lhcnet.protocol.selection import Entry, SelectionReport, Trained, best_on_validation
from lhcnet.report.paper_tables import sizes
from lhcnet.saved import Architecture, Epoch

DIGEST = "d" * 64


class Results(NamedTuple):
    selection: SelectionReport
    evaluation: EvaluationReport
    predictions: dict[str, np.ndarray]
    data_report: dict[str, Any]


def draw_results(
    config: Config,
    *,
    counts: Sequence[Sequence[int]] = OFFICIAL_COUNTS.tolist(),
    accuracy: float = 0.73,
    tta: bool = True,
    control: bool = True,
    reason: str = "training loss 0.9000 is not below 1.1 x the start's 0.7000",
) -> Results:
    """Seeds and variants as in `config`; the last variant of set B is rejected with `reason`."""
    rng = np.random.default_rng(0)
    labels = {name: np.repeat(np.arange(7), counts[s]).astype(np.uint8) for s, name in enumerate(SPLITS) if s}
    twin = {name: rng.random(len(of)) < 0.08 for name, of in labels.items()}
    # how hard an image is decides more than the model does: models agree on most images
    hard = {name: rng.random(len(of)) for name, of in labels.items()}
    mistaken = {name: (of + rng.integers(1, 7, len(of))) % 7 for name, of in labels.items()}
    predictions: dict[str, np.ndarray] = {f"labels/{name}": of for name, of in labels.items()}
    predictions |= {f"twin/{name}": rows for name, rows in twin.items()}

    def evaluated(id_: str, set_: Any, controlled: Controlled | None = None) -> Evaluated:
        scores: dict[str, Score] = {}
        for suffix, gain in (("", 0.0), ("_tta", 0.01))[: 1 + tta]:
            for split, of in labels.items():
                sure = accuracy + gain - hard[split] + rng.normal(0, 0.03, len(of))
                said = np.where(sure > 0, of, mistaken[split])
                logits = rng.normal(0, 0.5, (len(of), 7))
                logits[np.arange(len(of)), said] = logits.max(1) + 4 * np.abs(sure)
                p = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
                predictions[f"{id_}/{split}{suffix}"] = p
                scores[split + suffix] = score(p, of, split=split, views=60 if suffix else 1)
            own = ~twin["test"]
            distinct = score(
                p[own], labels["test"][own], split="test without twins in train", views=60 if suffix else 1
            )
            scores[f"test_distinct{suffix}"] = distinct
        return Evaluated(id=id_, set=set_, control=controlled, **scores)

    def trained(id_: str, number: int, variant: str | None, history: tuple[Epoch, ...], **more: Any) -> dict[str, Any]:
        architecture = Architecture.of(config.network)
        if variant is not None:
            architecture = architecture.model_copy(update={"modules": config.variants[variant]})
        return {
            "id": id_,
            "seed": 0,
            "start": "e" * 64,
            "architecture": architecture,
            "training": config.stages[number - 1],
            "compute": config.compute,
            "best_epoch": len(history) - 1,
            "train_loss": 0.65,
            "train_accuracy": 0.8,
            "val_loss": 0.9,
            "val_accuracy": 0.5,
            "history": history,
        } | more

    *kept_b, rejected = config.variants
    planned = [("A", None, f"A/seed-{s}", s) for s in config.seeds.a]
    planned += [("B", name, f"B/{name}", config.seeds.b) for name in kept_b]
    planned += [("C", kept_b[0], f"C/{kept_b[0]}/seed-{s}", s) for s in config.seeds.c]
    models, entries = [], []
    for set_, variant, id_, seed in planned:
        models.append(evaluated(id_, set_))
        figures = trained(id_, 4, variant, _history(rng, 6, 0.5), seed=seed)
        figures["val_accuracy"] = models[-1].validation.accuracy
        entries.append(
            Entry(**figures, set=set_, variant=variant, kept=True, reason="training loss 0.65 is below 0.77")
        )
    lost = trained(f"B/{rejected}", 4, rejected, _history(rng, 2, 0.9), train_loss=0.9)
    chosen = best_on_validation([e for e in entries if e.set != "A"])
    best = {name: best_on_validation([e for e in entries if e.set == name]).id for name in "ABC"}
    entries.append(Entry(**lost, set="B", variant=rejected, kept=False, reason=reason))
    controlled = _controlled(rng, [m.id for m in models if m.set != "A"], config.control.training) if control else []
    models += [evaluated(f"LHC-NetC/{one.of}", "control", one) for one in controlled]
    best_control = max((m for m in models if m.control), key=lambda m: m.validation.accuracy, default=None)

    first = _history(rng, 30, 2.0)
    untrained = first[0].model_copy(update={"val_loss": 312.4})
    backbone = [trained("backbone/stage1", 1, None, (untrained, *first[1:]))]
    backbone += [trained(f"backbone/stage{i}", i, None, _history(rng, 12, 0.6)) for i in (2, 3)]
    selection = SelectionReport(
        loss_factor=config.selection.loss_factor,
        start_id="backbone/stage3",
        start_train_loss=0.7,
        data=DIGEST,
        backbone=tuple(Trained(**row) for row in backbone),
        entries=tuple(sorted(entries, key=lambda e: e.id)),
        best=best,
        chosen=chosen.id,
        chosen_variant=chosen.variant or "",
    )
    evaluation = EvaluationReport(
        chosen=chosen.id,
        chosen_control=best_control.id if best_control else None,
        data=DIGEST,
        settings=config.evaluation,
        sizes=sizes(chosen.architecture),
        models=tuple(models),
    )
    return Results(selection, evaluation, predictions, _data_report(counts, int(twin["test"].sum())))


def _controlled(rng: np.random.Generator, of: Sequence[str], training: Stage) -> list[Controlled]:
    w = (0.1, 0.2, -0.1, -1.1, -0.6)
    return [Controlled(of=id_, w=w, training=training, history=_history(rng, 3, 0.4)) for id_ in of]


def _history(rng: np.random.Generator, epochs: int, start: float) -> tuple[Epoch, ...]:
    losses = start * 0.8 ** np.arange(epochs + 1) + rng.random(epochs + 1) / 20
    return tuple(
        Epoch(
            epoch=i,
            train_loss=None if i == 0 else float(loss),
            train_accuracy=None if i == 0 else float(np.exp(-loss)),
            val_loss=float(loss + 0.1),
            val_accuracy=float(np.exp(-loss - 0.1)),
        )
        for i, loss in enumerate(losses)
    )


def _data_report(counts: Sequence[Sequence[int]], twins: int) -> dict[str, Any]:
    of_split = dict.fromkeys(SPLITS, 0)
    images = int(np.sum(counts))
    return {
        "digest": DIGEST,
        "shape": "images",
        "validation": "official",
        "images": images,
        "distinct": images - 10,
        "repeats": 10,
        "in_several_splits": twins,
        "with_several_labels": 2,
        "twin_in_train": {"validation": 0, "test": twins},
        "counts": {name: dict(zip(CLASSES, counts[s], strict=True)) for s, name in enumerate(SPLITS)},
        "constant": of_split,
        "blank": of_split,
        "mean_grey": dict.fromkeys(SPLITS, 129.47),
    }
