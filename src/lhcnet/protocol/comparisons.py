"""`statistics.json`: every comparison of an execution with its test, and spread and calibration, from saved results.

Nothing is chosen here: who is compared was chosen on validation, and the test images only say by how much they differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lhcnet.config import FrozenModel
from lhcnet.protocol.results import Evaluated, EvaluationReport
from lhcnet.protocol.score import LABELS
from lhcnet.protocol.selection import SelectionReport
from lhcnet.protocol.statistics import ALPHA, Paired, Permuted, Spread, mcnemar, permutation, sentence, spread, verdict

Predictions = Mapping[str, NDArray[Any]]
"""What `predictions.npz` holds."""

OTHER = "other attention"  # a variant with Squeeze and Excitation, CBAM or ECA in a place of LHC
BEST = "each the best on validation of its kept models"
ALL_KEPT = "all kept models of both sets; nobody was picked"
SAME_START = "the five w trained from the other, best epoch on validation"
SAME_MODEL = "one model seen twice; nobody was picked"

Tested = Annotated[Paired | Permuted, Field(discriminator="kind")]


class Comparison(FrozenModel):
    """Two models or sets on all test images, and on those without a byte-identical twin in train."""

    first: str
    second: str
    how_chosen: str
    test: Tested
    distinct: Tested
    verdict: str
    distinct_verdict: str
    sentence: str


class Calibration(FrozenModel):
    """Does a model's confidence (its largest probability) say how often it is right? Brier 0..2, log loss in nats."""

    model: str
    tta: bool
    images: str
    n: int
    accuracy: float
    confidence: float
    brier: float
    log_loss: float


class Statistics(FrozenModel):
    """`untested` are comparisons that could not be made, with the reason; accuracies in 0..1, differences in points."""

    alpha: float
    comparisons: tuple[Comparison, ...]
    untested: tuple[str, ...]
    spread: dict[str, dict[str, Spread]]
    calibration: tuple[Calibration, ...]


def statistics(selection: SelectionReport, evaluation: EvaluationReport, predictions: Predictions) -> Statistics:
    """All of it. Raises ValueError naming an array that `predictions` lacks."""
    if lost := sorted({f"{model.id}/test" for model in evaluation.models} - set(predictions)):
        raise ValueError(f"predictions of {', '.join(lost)} are missing")
    found = list(_comparisons(selection, evaluation, predictions))
    return Statistics(
        alpha=ALPHA,
        comparisons=tuple(one for one in found if isinstance(one, Comparison)),
        untested=tuple(one for one in found if isinstance(one, str)),
        spread=_spread(selection, evaluation),
        calibration=tuple(_calibration(selection, evaluation, predictions)),
    )


def _comparisons(
    selection: SelectionReport, evaluation: EvaluationReport, predictions: Predictions
) -> Iterator[Comparison | str]:
    own = ~predictions["twin/test"]

    def correct(key: str) -> NDArray[np.bool]:
        right: NDArray[np.bool] = predictions[key].argmax(1) == predictions["labels/test"]
        return right

    def paired(first: str, second: str, names: tuple[str, str], how_chosen: str) -> Comparison:
        a, b = correct(first), correct(second)
        return _comparison(names, how_chosen, mcnemar(a, b), mcnemar(a[own], b[own]))

    of_id = {id_: name for name, id_ in best_models(selection, evaluation).items()}
    chosen, plain = selection.chosen, selection.best.get("A")
    if plain is None:
        yield f"{of_id[chosen]} against ResNet34v2: no model of set A was kept."
    else:
        for tta, views in (("", ""), ("_tta", " with TTA")):
            if {f"{chosen}/test{tta}", f"{plain}/test{tta}"} <= set(predictions):
                names = (f"{of_id[chosen]} {chosen}{views}", f"{of_id[plain]} {plain}{views}")
                yield paired(f"{chosen}/test{tta}", f"{plain}/test{tta}", names, BEST)

    of_set = sets(selection, evaluation)
    with_lhc, without = of_set["LHC-Net"], of_set["ResNet34v2"]
    if min(len(with_lhc), len(without)) < 2:
        yield (
            f"B u C against A: {len(with_lhc)} against {len(without)} models, and a permutation test needs at least "
            "two of each."
        )
    else:
        test = permutation([m.test.accuracy for m in with_lhc], [m.test.accuracy for m in without])
        distinct = permutation(
            [m.test_distinct.accuracy for m in with_lhc], [m.test_distinct.accuracy for m in without]
        )
        yield _comparison(("B u C", "A"), ALL_KEPT, test, distinct)

    for model in evaluation.models:
        if model.control is None:
            continue
        if f"{model.control.of}/test" in predictions:
            names = (model.id, model.control.of)
            yield paired(f"{model.id}/test", f"{model.control.of}/test", names, SAME_START)
        else:
            yield f"{model.id} against {model.control.of}: the latter was not scored."

    for model in evaluation.models:
        if f"{model.id}/test_tta" in predictions:
            names = (f"{model.id} with TTA", f"{model.id} without TTA")
            yield paired(f"{model.id}/test_tta", f"{model.id}/test", names, SAME_MODEL)


def _comparison(
    names: tuple[str, str], how_chosen: str, test: Paired | Permuted, distinct: Paired | Permuted
) -> Comparison:
    return Comparison(
        first=names[0],
        second=names[1],
        how_chosen=how_chosen,
        test=test,
        distinct=distinct,
        verdict=verdict(test),
        distinct_verdict=verdict(distinct),
        sentence=sentence(*names, test),
    )


def sets(selection: SelectionReport, evaluation: EvaluationReport) -> dict[str, list[Evaluated]]:
    """The scored models by what they are: set A, the LHC-Nets of B u C, LHC-NetC, and B u C with other attention."""
    found: dict[str, list[Evaluated]] = {"ResNet34v2": [], "LHC-Net": [], "LHC-NetC": [], OTHER: []}
    lhc = {entry.id for entry in selection.entries if entry.architecture.has_lhc}
    for model in evaluation.models:
        of_b_or_c = "LHC-Net" if model.id in lhc else OTHER
        found[{"A": "ResNet34v2", "control": "LHC-NetC"}.get(model.set, of_b_or_c)].append(model)
    return found


def best_models(selection: SelectionReport, evaluation: EvaluationReport) -> dict[str, str]:
    """What a reader looks at first, name to id: the best on validation of A, of B u C (chosen) and of the LHC-NetCs."""
    found: dict[str, str] = {}
    best = {selection.best.get("A"), selection.chosen, evaluation.chosen_control}
    for name, models in sets(selection, evaluation).items():
        for model in models:
            if model.id in best:
                found[name] = model.id
    return found


def _spread(selection: SelectionReport, evaluation: EvaluationReport) -> dict[str, dict[str, Spread]]:
    """Set -> name of a test score (as in `Evaluated.accuracies`) -> spread over the models that have it."""
    of_name = sets(selection, evaluation)
    groups = {
        "A": of_name["ResNet34v2"],
        "B": [model for model in of_name["LHC-Net"] if model.set == "B"],
        "C": [model for model in of_name["LHC-Net"] if model.set == "C"],
        "B u C": of_name["LHC-Net"],
        "LHC-NetC": of_name["LHC-NetC"],
        OTHER: of_name[OTHER],
    }
    out: dict[str, dict[str, Spread]] = {}
    for name, models in groups.items():
        rows = [model.accuracies() for model in models]
        scores = {key for row in rows for key in row if key.startswith("test")}
        if rows:
            out[name] = {key: spread([row[key] for row in rows if key in row]) for key in sorted(scores)}
    return out


def _calibration(
    selection: SelectionReport, evaluation: EvaluationReport, predictions: Predictions
) -> Iterator[Calibration]:
    from sklearn.metrics import brier_score_loss, log_loss

    own = ~predictions["twin/test"]
    for id_ in best_models(selection, evaluation).values():
        for tta in (False, True):
            if (key := f"{id_}/test{'_tta' if tta else ''}") not in predictions:
                continue
            for images, rows in (("test", np.ones_like(own)), ("test without twins in train", own)):
                p, labels = predictions[key][rows], predictions["labels/test"][rows]
                yield Calibration(
                    model=id_,
                    tta=tta,
                    images=images,
                    n=len(labels),
                    accuracy=float((p.argmax(1) == labels).mean()),
                    confidence=float(p.max(1).mean(dtype=np.float64)),
                    brier=float(brier_score_loss(labels, p, labels=LABELS)),
                    log_loss=float(log_loss(labels, p, labels=LABELS)),
                )
