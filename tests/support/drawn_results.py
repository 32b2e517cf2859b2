"""Results of an execution, drawn instead of trained: statistics and reports can be tried on them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lhcnet.config import Config, Stage
from lhcnet.data.audit import DataReport
from lhcnet.data.fer2013 import CLASSES, OFFICIAL_COUNTS, SPLITS
from lhcnet.protocol.results import ControlModel, EvaluationReport, ModelScores, Results
from lhcnet.protocol.score import Score, score
from lhcnet.protocol.selection import Entry, SelectionReport, best_on_validation
from lhcnet.protocol.sizes import sizes
from lhcnet.protocol.view_choice import ViewChoice, ViewScore
from lhcnet.saved import Architecture, Epoch, Metrics, ModelRecord, Provenance

DIGEST = "d" * 64
_TRIED = (("plain", 1, 0.5, 1.4), ("flip", 2, 0.51, 1.3), ("shift", 9, 0.49, 1.5), ("flip + shift", 18, 0.52, 1.35))
VIEW_CHOICE = ViewChoice(
    families=("flip",),
    views=2,
    tried=tuple(ViewScore(name=n, views=v, accuracy=a, nll=loss) for n, v, a, loss in _TRIED),
    paper=ViewScore(name="paper", views=60, accuracy=0.48, nll=1.6),
    single=tuple(ViewScore(name=f"view {i}", views=1, accuracy=0.4 + i / 1000, nll=1.7) for i in range(60)),
)


class Drawn(NamedTuple):
    results: Results
    data_report: DataReport


def record(
    config: Config,
    id_: str,
    set_: Any,
    *,
    training: Stage,
    history: tuple[Epoch, ...],
    stage: int = 4,
    variant: str | None = None,
    seed: int = 0,
    start: str = "e" * 64,
    control: bool = False,
    **metrics: Any,
) -> ModelRecord:
    """A model whose last epoch is the best; its weights are its id."""
    modules = None if variant is None else config.variants[variant]
    figures = {"train_loss": 0.65, "train_accuracy": 0.8, "val_loss": 0.9, "val_accuracy": 0.5}
    epochs = {"best_epoch": len(history) - 1, "epochs": len(history) - 1}
    return ModelRecord(
        architecture=Architecture.of(config.network).model_copy(update={"modules": modules, "control": control}),
        provenance=Provenance(
            id=id_,
            set=set_,
            stage=stage,
            seed=seed,
            variant=variant,
            data=DIGEST,
            start=start,
            training=training,
            compute=config.compute,
        ),
        metrics=Metrics(status="trained", **(figures | epochs | metrics)),
        history=history,
        weights=f"weights of {id_}",
    )


def draw_results(
    config: Config,
    *,
    counts: Sequence[Sequence[int]] = OFFICIAL_COUNTS.tolist(),
    accuracy: float = 0.73,
    tta: bool = True,
    control: bool = True,
    duplicates: float = 0.08,
    reason: str = "training loss 0.9000 >= limit 0.7700 (1.10 x 0.7000)",
) -> Drawn:
    """Seeds and variants as in `config`; the last variant of set B is rejected with `reason`.

    `duplicates` is the share of the validation and test images that have a duplicate in train.
    """
    rng = np.random.default_rng(0)
    labels = {name: np.repeat(np.arange(7), counts[s]).astype(np.uint8) for s, name in enumerate(SPLITS) if s}
    duplicate = {name: rng.random(len(of)) < duplicates for name, of in labels.items()}
    # how hard an image is decides more than the model does: models agree on most images
    hard = {name: rng.random(len(of)) for name, of in labels.items()}
    mistaken = {name: (of + rng.integers(1, 7, len(of))) % 7 for name, of in labels.items()}
    predictions: dict[str, np.ndarray] = {f"labels/{name}": of for name, of in labels.items()}
    predictions |= {f"train_duplicate/{name}": rows for name, rows in duplicate.items()}

    def scored(id_: str) -> ModelScores:
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
            own = ~duplicate["test"]
            views = 60 if suffix else 1
            scores[f"test_distinct{suffix}"] = score(p[own], labels["test"][own], split="test distinct", views=views)
        fitted = {"temperature": 1.3, **({"temperature_tta": 1.2} if tta else {})}
        if tta and config.evaluation.views == "helpful":
            fitted["view_choice"] = VIEW_CHOICE
        return ModelScores(id=id_, weights=f"weights of {id_}", **scores, **fitted)

    *kept_b, rejected = config.variants
    planned: list[tuple[Any, str | None, str, int]] = [("A", None, f"A/seed-{s}", s) for s in config.seeds.a]
    planned += [("B", name, f"B/{name}", config.seeds.b) for name in kept_b]
    planned += [("C", kept_b[0], f"C/{kept_b[0]}/seed-{s}", s) for s in config.seeds.c]
    models, entries = [], []
    stage4 = {"training": config.stage4}
    for set_, variant, id_, seed in planned:
        models.append(scored(id_))
        one = record(
            config,
            id_,
            set_,
            variant=variant,
            seed=seed,
            history=_history(rng, 6, 0.5),
            val_accuracy=models[-1].validation.accuracy,
            **stage4,
        )
        entries.append(Entry(record=one, kept=True, reason="training loss 0.6500 < limit 0.7700 (1.10 x 0.7000)"))
    by_set = {name: [entry.record for entry in entries if entry.set == name] for name in "ABC"}
    chosen = best_on_validation([*by_set["B"], *by_set["C"]])
    lost = record(
        config, f"B/{rejected}", "B", variant=rejected, history=_history(rng, 2, 0.9), train_loss=0.9, **stage4
    )
    entries.append(Entry(record=lost, kept=False, reason=reason))
    controlled = []
    for source in [*by_set["B"], *by_set["C"]] if control else []:
        models.append(scored(f"LHC-NetC/{source.id}"))
        one = record(
            config,
            f"LHC-NetC/{source.id}",
            "control",
            stage=5,
            variant=source.provenance.variant,
            control=True,
            training=config.control.training,
            history=_history(rng, 3, 0.4),
            val_accuracy=models[-1].validation.accuracy,
        )
        controlled.append(ControlModel(record=one, of=source.id, w=(0.1, 0.2, -0.1, -1.1, -0.6)))

    first = _history(rng, 30, 2.0)
    untrained = first[0].model_copy(update={"val_loss": 312.4})
    histories = [(untrained, *first[1:]), _history(rng, 12, 0.6), _history(rng, 12, 0.6)]
    selection = SelectionReport(
        loss_factor=config.selection.loss_factor,
        backbone=tuple(
            record(
                config,
                f"backbone/stage{i}",
                "backbone",
                stage=i,
                training=config.stages[i - 1],
                history=history,
                train_loss=0.7,
            )
            for i, history in enumerate(histories, 1)
        ),
        entries=tuple(sorted(entries, key=lambda e: e.id)),
        best={name: best_on_validation(of).id for name, of in by_set.items()},
        chosen=chosen.id,
    )
    evaluation = EvaluationReport(
        chosen=chosen.id,
        chosen_control=best_on_validation([one.record for one in controlled]).id if controlled else None,
        data=DIGEST,
        settings=config.evaluation,
        sizes=sizes(chosen.architecture),
        control=tuple(controlled),
        models=tuple(models),
    )
    found = Results(selection, evaluation, predictions)
    return Drawn(found, _data_report(counts, found.duplicates))


def change_record(results: Results, id_: str, weights: str | None = None, **metrics: Any) -> Results:
    """The results with other weights or metrics of one kept model of the sets A, B and C."""

    def changed(entry: Entry) -> Entry:
        if entry.id != id_:
            return entry
        update = {"metrics": entry.record.metrics.model_copy(update=metrics)}
        return entry.model_copy(update={"record": entry.record.model_copy(update=update | _weights(weights))})

    entries = tuple(map(changed, results.selection.entries))
    selection = results.selection.model_copy(update={"entries": entries})
    scored = tuple(
        model.model_copy(update=_weights(weights)) if model.id == id_ else model for model in results.evaluation.models
    )
    return Results(selection, results.evaluation.model_copy(update={"models": scored}), results.predictions)


def _weights(weights: str | None) -> dict[str, str]:
    return {} if weights is None else {"weights": weights}


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


def _data_report(counts: Sequence[Sequence[int]], duplicates: int) -> DataReport:
    of_split = dict.fromkeys(SPLITS, 0)
    images = int(np.sum(counts))
    return DataReport(
        digest=DIGEST,
        shape="images",
        validation="official",
        images=images,
        distinct=images - 10,
        repeats=10,
        in_several_splits=duplicates,
        with_several_labels=2,
        train_duplicates={"validation": 0, "test": duplicates},
        counts={name: dict(zip(CLASSES, counts[s], strict=True)) for s, name in enumerate(SPLITS)},
        constant=of_split,
        blank=of_split,
        mean_grey=dict.fromkeys(SPLITS, 129.47),
    )
