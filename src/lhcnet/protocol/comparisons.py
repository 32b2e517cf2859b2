"""`statistics.json`: every comparison of an execution with its test, the spread over seeds, and calibration.

Nothing is chosen here. Which models are compared was decided on validation; the test images only say by how much they
differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lhcnet.config import FrozenModel
from lhcnet.protocol.confidence import Confidence, measure
from lhcnet.protocol.results import Results, metrics_digest, one_each
from lhcnet.protocol.score import LABELS
from lhcnet.protocol.sizes import OTHER
from lhcnet.protocol.statistics import ALPHA, Paired, Permuted, SeedSpread, mcnemar, permutation, seed_spread
from lhcnet.versioned import Versioned

Tested = Annotated[Paired | Permuted, Field(discriminator="kind")]

# best: the best models on validation of two networks. sets: all kept models of two sets. control: an LHC-NetC and the
# LHC-Net it was trained from. tta: one model with TTA and without
Question = Literal["best", "sets", "control", "tta"]


class Comparison(FrozenModel):
    """Two models (ids) or two sets, on all test images.

    `distinct` is the same test on the images without a duplicate in train; null if no test image has one. `tta` says
    that both were predicted with TTA (question `tta`: the first alone).
    """

    question: Question
    first: str
    second: str
    tta: bool
    test: Tested
    distinct: Tested | None


class Calibration(FrozenModel):
    """Confidence (largest probability) and accuracy of a model on n test images, 0..1; Brier score 0..2; log loss."""

    model: str
    tta: bool
    duplicates: bool
    n: int
    accuracy: float
    confidence: float
    brier: float
    log_loss: float


class Statistics(Versioned):
    """`untested` are comparisons that could not be made, with the reason.

    `spread` has the test accuracies (names as in `ModelScores.accuracies`) of each set. `calibration` has a row with
    `duplicates` for all test images, and one without for the others if some have a duplicate in train. `confidence` has
    the same models; it is empty if their temperatures are unknown, as in results of earlier versions.
    """

    metrics_digest: str
    alpha: float
    comparisons: tuple[Comparison, ...]
    untested: tuple[str, ...]
    spread: dict[str, dict[str, SeedSpread]]
    calibration: tuple[Calibration, ...]
    confidence: tuple[Confidence, ...] = ()


def statistics(results: Results) -> Statistics:
    """All statistics of an execution. Raises ValueError naming an array that the predictions lack."""
    if missing := results.missing():
        raise ValueError(f"predictions of {', '.join(missing)} are missing")
    found = list(_comparisons(results))
    return Statistics(
        metrics_digest=metrics_digest(results),
        alpha=ALPHA,
        comparisons=tuple(one for one in found if isinstance(one, Comparison)),
        untested=tuple(one for one in found if isinstance(one, str)),
        spread=_spread(results),
        calibration=tuple(_calibration(results)),
        confidence=tuple(_confidence(results)),
    )


def _comparisons(results: Results) -> Iterator[Comparison | str]:
    chosen, plain = results.selection.chosen, results.selection.best.get("A")
    known = set(results.predictions)
    if plain is None:
        yield f"{chosen} was not compared with a ResNet34v2: no model of set A was kept."
    else:
        for tta in (False, True):
            first, second = (f"{id_}/test{'_tta' if tta else ''}" for id_ in (chosen, plain))
            if {first, second} <= known:
                yield _paired(results, "best", (chosen, plain), (first, second), tta=tta)

    yield _sets(results)

    for one in results.evaluation.control:
        if f"{one.of}/test" in known:
            keys = f"{one.record.id}/test", f"{one.of}/test"
            yield _paired(results, "control", (one.record.id, one.of), keys, tta=False)
        else:
            yield f"{one.record.id} was not compared with {one.of}, which has no scores."

    for model in results.evaluation.models:
        if f"{model.id}/test_tta" in known:
            keys = f"{model.id}/test_tta", f"{model.id}/test"
            yield _paired(results, "tta", (model.id, model.id), keys, tta=True)


def _paired(
    results: Results, question: Question, names: tuple[str, str], keys: tuple[str, str], *, tta: bool
) -> Comparison:
    a, b = (results.correct(key) for key in keys)
    own = results.distinct
    distinct = mcnemar(a[own], b[own]) if results.duplicates and own.any() else None
    return Comparison(
        question=question, first=names[0], second=names[1], tta=tta, test=mcnemar(a, b), distinct=distinct
    )


def _sets(results: Results) -> Comparison | str:
    """The LHC-Nets of B ∪ C and the models of set A; models with equal weights count once."""
    of = [
        [results.evaluation.model(model.id) for model in one_each(results.sets[name])]
        for name in ("LHC-Net", "ResNet34v2")
    ]
    if min(map(len, of)) < 2:
        return (
            f"B ∪ C was not compared with A: a permutation test needs at least two models with different weights in "
            f"each set, and there are {len(of[0])} and {len(of[1])}."
        )
    test = permutation(*([model.test.accuracy for model in models] for models in of))
    distinct = permutation(*([model.test_distinct.accuracy for model in models] for models in of))
    return Comparison(
        question="sets",
        first="B ∪ C",
        second="A",
        tta=False,
        test=test,
        distinct=distinct if results.duplicates else None,
    )


def _spread(results: Results) -> dict[str, dict[str, SeedSpread]]:
    lhc = results.sets["LHC-Net"]
    groups = {
        "A": results.sets["ResNet34v2"],
        "B": [model for model in lhc if model.set == "B"],
        "C": [model for model in lhc if model.set == "C"],
        "B ∪ C": lhc,
        "LHC-NetC": results.sets["LHC-NetC"],
        OTHER: results.sets[OTHER],
    }
    found: dict[str, dict[str, SeedSpread]] = {}
    for name, models in groups.items():
        rows = [(model, results.evaluation.model(model.id).accuracies()) for model in models]
        keys = sorted({key for _, row in rows for key in row if key.startswith("test")})
        for key in keys:
            scored = {model.id: row[key] for model, row in rows if key in row}
            values = [scored[model.id] for model in one_each(model for model in models if model.id in scored)]
            found.setdefault(name, {})[key] = seed_spread(values, len(scored))
    return found


def _calibration(results: Results) -> Iterator[Calibration]:
    from sklearn.metrics import brier_score_loss, log_loss

    own = results.distinct
    parts: dict[bool, NDArray[np.bool]] = {True: np.ones_like(own)}
    if results.duplicates and own.any():
        parts[False] = own
    for id_ in results.best.values():
        for tta in (False, True):
            if (key := f"{id_}/test{'_tta' if tta else ''}") not in results.predictions:
                continue
            for duplicates, rows in parts.items():
                p, labels = results.predictions[key][rows], results.labels[rows]
                yield Calibration(
                    model=id_,
                    tta=tta,
                    duplicates=duplicates,
                    n=len(labels),
                    accuracy=float((p.argmax(1) == labels).mean()),
                    confidence=float(p.max(1).mean(dtype=np.float64)),
                    brier=float(brier_score_loss(labels, p, labels=LABELS)),
                    log_loss=float(log_loss(labels, p, labels=LABELS)),
                )


def _confidence(results: Results) -> Iterator[Confidence]:
    predictions = results.predictions
    for id_ in results.best.values():
        scores = results.evaluation.model(id_)
        for tta, temperature in ((False, scores.temperature), (True, scores.temperature_tta)):
            if temperature is not None:
                known, unseen = (
                    (predictions[f"{id_}/{split}{'_tta' * tta}"], predictions[f"labels/{split}"])
                    for split in ("validation", "test")
                )
                yield measure(id_, known, unseen, temperature, tta=tta)
