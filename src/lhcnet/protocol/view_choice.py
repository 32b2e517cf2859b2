"""The choice of TTA's views on validation (setting `evaluation.views: helpful`).

The mean over the paper's 60 views can be less accurate than the image alone, where a network did not learn such views.
Here whole families of them (flip, shift, rotation, zoom) are added to the image itself in a greedy forward selection.
It looks at 11 of the 16 combinations at most, few enough for some thousand validation images.

A combination is judged by its NLL after temperature scaling. A mean over views is less confident than a single view;
without scaling this alone would lower the NLL of an overconfident network, however bad the views are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from lhcnet.config import Count, Family, FrozenModel
from lhcnet.protocol.confidence import fit_temperature, nll

if TYPE_CHECKING:
    from lhcnet.inference.tta import View

FAMILIES: tuple[Family, ...] = get_args(Family)
PLAIN, PAPER = "plain", "paper"


class ViewScore(FrozenModel):
    """Validation accuracy (0..1) and NLL (nats, after temperature scaling) of the mean over some views, or of one."""

    name: str
    views: Count
    accuracy: float
    nll: float


class ViewChoice(FrozenModel):
    """The families that a model keeps, none for the image alone, and what decided it; all figures are of validation.

    `tried` has `plain` first, then each combination in the order in which the selection looked at it. `paper` is the
    mean over the paper's 60 views, for comparison. `single` has each of them alone.
    """

    families: tuple[Family, ...]
    views: Count
    tried: tuple[ViewScore, ...]
    paper: ViewScore
    single: tuple[ViewScore, ...]


def mean_over_views(stack: NDArray[np.float32], weights: Sequence[float]) -> NDArray[np.float32]:
    """Weighted mean of probabilities (V, n, classes) over V views, summed as in `lhcnet.inference.predict`."""
    total = sum(weights)
    mean = np.zeros(stack.shape[1:], np.float32)
    for p, weight in zip(stack, weights, strict=True):
        mean += p * np.float32(weight / total)
    return mean


def choose_views(
    stack: NDArray[np.float32], paper: Sequence[View], labels: NDArray[np.uint8]
) -> tuple[ViewChoice, NDArray[np.float32]]:
    """Greedy forward selection of families: each round adds the family that lowers the NLL most.

    A combination can only be taken if it is not less accurate than the image alone. So neither NLL nor accuracy on
    validation is worse than without TTA.

    Args:
        stack: (60, n, classes) probabilities of each of the paper's views of the validation images.
        paper: these views, `lhcnet.inference.tta.tta_views`.
        labels: (n,) the true classes.

    Returns:
        The choice; (n, classes) the mean over its views, which are `lhcnet.inference.tta.family_views`.
    """

    def rows(families: Sequence[Family]) -> list[int]:
        return [row for row, view in enumerate(paper) if view.families <= set(families)]

    def mean(families: Sequence[Family]) -> NDArray[np.float32]:
        kept = rows(families)
        return mean_over_views(stack[kept], [paper[row].family_weight for row in kept])

    def measured(name: str, p: NDArray[np.float32], views: int) -> ViewScore:
        found = nll(p, labels, fit_temperature(p, labels))
        return ViewScore(name=name, views=views, accuracy=float((p.argmax(1) == labels).mean()), nll=found)

    def combined(families: Sequence[Family]) -> ViewScore:
        name = " + ".join(families) or PLAIN
        return measured(name, mean(families), len(rows(families)))

    kept: tuple[Family, ...] = ()
    plain = best = combined(kept)
    tried = [plain]
    while remaining := [family for family in FAMILIES if family not in kept]:
        found = {family: combined((*kept, family)) for family in remaining}
        tried += found.values()
        helpful = [f for f in remaining if found[f].nll < best.nll and found[f].accuracy >= plain.accuracy]
        if not helpful:
            break
        added = min(helpful, key=lambda family: found[family].nll)
        kept, best = (*kept, added), found[added]
    choice = ViewChoice(
        families=kept,
        views=best.views,
        tried=tuple(tried),
        paper=measured(PAPER, mean_over_views(stack, [view.weight for view in paper]), len(paper)),
        single=tuple(measured(str(view), p, 1) for p, view in zip(stack, paper, strict=True)),
    )
    return choice, mean(kept)
