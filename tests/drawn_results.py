"""Saved results of an execution, drawn instead of trained, so that what is made of them can be tried in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lhcnet.config import Config
from lhcnet.data.sources import CLASSES, OFFICIAL_COUNTS, SPLITS
from lhcnet.evaluation.score import Score, score
from lhcnet.evaluation.selection import Entry, SelectionReport, Trained, best_on_validation
from lhcnet.evaluation.summary import Controlled, Evaluated, EvaluationReport
from lhcnet.models.saved import Epoch


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
    reason: str = "training loss 0.9 is not below 1.1 x the start's 0.7",
    seed: int = 0,
) -> Results:
    """As `config` lists seeds and variants; the last of set B is rejected with `reason`."""
    rng = np.random.default_rng(seed)
    labels = {name: np.repeat(np.arange(7), counts[s]).astype(np.uint8) for s, name in enumerate(SPLITS)}
    twin = {name: rng.random(len(labels[name])) < 0.08 for name in ("validation", "test")}
    predictions: dict[str, np.ndarray] = {f"labels/{split}": labels[split] for split in twin}
    predictions |= {f"twin/{split}": rows for split, rows in twin.items()}
    # how hard an image is decides more than the model does: models agree on most images
    hard = {split: rng.random(len(labels[split])) for split in twin}
    mistaken = {split: (labels[split] + rng.integers(1, 7, len(labels[split]))) % 7 for split in twin}

    def history(epochs: int, start: float) -> tuple[Epoch, ...]:
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

    def evaluated(id_: str, set_: Any, controlled: Controlled | None = None) -> Evaluated:
        scores: dict[str, Score] = {}
        for suffix, gain in (("", 0.0), ("_tta", 0.01))[: 1 + tta]:
            for split in twin:
                sure = accuracy + gain - hard[split] + rng.normal(0, 0.03, len(hard[split]))
                said = np.where(sure > 0, labels[split], mistaken[split])
                logits = rng.normal(0, 0.5, (len(said), 7)) + 4 * np.abs(sure)[:, None] * np.eye(7)[said]
                logits[np.arange(len(said)), said] = logits.max(1) + 0.1
                p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
                predictions[f"{id_}/{split}{suffix}"] = p = p.astype(np.float32)
                scores[split + suffix] = score(p, labels[split], split=split, views=60 if suffix else 1)
            own = ~twin["test"]
            scores[f"test_distinct{suffix}"] = score(
                predictions[f"{id_}/test{suffix}"][own],
                labels["test"][own],
                split="test, no twin in train",
                views=60 if suffix else 1,
            )
        return Evaluated(id=id_, set=set_, control=controlled, **scores)

    *kept_b, rejected = config.variants
    ids = [("A", None, f"A/seed-{s}", s) for s in config.seeds.a]
    ids += [("B", name, f"B/{name}", config.seeds.b) for name in kept_b]
    ids += [("C", kept_b[0], f"C/{kept_b[0]}/seed-{s}", s) for s in config.seeds.c]
    models = [evaluated(id_, set_) for set_, _, id_, _ in ids]
    entries = [
        _entry(m.id, set_, name, s, m, history(6, 0.5)) for m, (set_, name, _, s) in zip(models, ids, strict=True)
    ]
    entries.append(_entry(f"B/{rejected}", "B", rejected, config.seeds.b, None, history(2, 0.9), reason))
    if control:
        with_lhc = [m.id for m in models if m.set != "A"]
        models += [
            evaluated(
                f"LHC-NetC/{of}",
                "control",
                Controlled(of=of, w=(0.1, 0.2, -0.1, -1.1, -0.6), history=history(3, 0.4)),
            )
            for of in with_lhc
        ]
    kept = [e for e in entries if e.kept]
    chosen = best_on_validation([e for e in kept if e.set != "A"])
    first = history(30, 2.0)
    untrained = first[0].model_copy(update={"val_loss": 312.4})
    backbone = [_trained("backbone/stage1", 0, None, (untrained, *first[1:]))]
    backbone += [_trained(f"backbone/stage{i}", 0, None, history(12, 0.6)) for i in (2, 3)]
    selection = SelectionReport(
        loss_factor=config.selection.loss_factor,
        start_id="backbone/stage3",
        start_train_loss=0.7,
        data="d" * 64,
        backbone=tuple(Trained(**row) for row in backbone),
        entries=tuple(sorted(entries, key=lambda e: e.id)),
        best={name: best_on_validation([e for e in kept if e.set == name]).id for name in "ABC"},
        chosen=chosen.id,
        chosen_variant=chosen.variant or "",
    )
    evaluation = EvaluationReport(
        chosen=chosen.id,
        chosen_control=f"LHC-NetC/{chosen.id}" if control else None,
        data=selection.data,
        models=tuple(models),
    )
    return Results(selection, evaluation, predictions, _data_report(counts, twin["test"]))


def _trained(id_: str, seed: int, model: Evaluated | None, history: tuple[Epoch, ...]) -> dict[str, Any]:
    return {
        "id": id_,
        "seed": seed,
        "best_epoch": len(history) - 1,
        "train_loss": 0.65 if model else 0.9,
        "train_accuracy": 0.8,
        "val_loss": 0.9,
        "val_accuracy": model.validation.accuracy if model else 0.5,
        "history": history,
    }


def _entry(
    id_: str, set_: str, variant: str | None, seed: int, model: Evaluated | None, history: Any, reason: str = ""
) -> Entry:
    kept = {"set": set_, "variant": variant, "kept": model is not None}
    return Entry(**_trained(id_, seed, model, history), **kept, reason=reason or "training loss 0.65 is below 0.77")


def _data_report(counts: Sequence[Sequence[int]], twin: np.ndarray) -> dict[str, Any]:
    of_split = dict.fromkeys(SPLITS, 0)
    images = int(np.sum(counts))
    return {
        "digest": "d" * 64,
        "shape": "images",
        "validation": "official",
        "images": images,
        "distinct": images - 10,
        "repeats": 10,
        "in_several_splits": int(twin.sum()),
        "with_several_labels": 2,
        "twin_in_train": {"validation": 0, "test": int(twin.sum())},
        "counts": {name: dict(zip(CLASSES, counts[s], strict=True)) for s, name in enumerate(SPLITS)},
        "constant": of_split,
        "blank": of_split,
        "mean_grey": dict.fromkeys(SPLITS, 129.47),
    }
