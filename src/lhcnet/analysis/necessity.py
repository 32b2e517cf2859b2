"""How many modules and heads a network needs (section 3.2.4; there, 16 of 31 heads: the first two modules).

Every changed network is compared with the full one on the same images, by McNemar's exact test: of the images that one
of the two alone gets right, how far from half belong to each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lhcnet.analysis.ablation import WAYS, Change, Way, keep_first, lose_head, lose_module
from lhcnet.config import FrozenModel
from lhcnet.protocol.score import Score, score
from lhcnet.protocol.statistics import ALPHA, mcnemar

PAPER_HEADS, PAPER_OF, PAPER_MODULES = 16, 31, 2

Verdict = Literal["within noise", "worse", "better"]


class Compared(FrozenModel):
    """A changed network beside the full one. `lost` and `won` are the images that one of the two alone gets right."""

    way: Way
    score: Score
    lost: int
    won: int
    p: float
    verdict: Verdict


class Part(Compared):
    """A module, or one head of it (counted from 1), is switched off or set back."""

    place: str
    head: int | None


class Kept(Compared):
    """Only the first `heads` are kept; `modules` says how many modules that is, where it is a whole number."""

    heads: int
    modules: int | None


class Needed(FrozenModel):
    """The smallest numbers from which on no network is worse than the full one beyond noise."""

    way: Way
    heads: int
    modules: int


class Necessity(FrozenModel):
    """What the network loses with each module, each head, and all heads behind the first ones."""

    heads: tuple[int, ...]
    full: Score
    modules: tuple[Part, ...]
    single: tuple[Part, ...]
    kept: tuple[Kept, ...]
    needed: tuple[Needed, ...]


def plan(heads: Sequence[int]) -> list[Change]:
    """All changes that `necessity` looks up, each once; `heads` are those of the five modules."""
    changes: list[Change] = []
    for way in WAYS:
        changes += [lose_module(heads, place, way) for place in range(len(heads))]
        changes += [lose_head(heads, place, head, way) for place, n in enumerate(heads) for head in range(n)]
        changes += [keep_first(heads, kept, way) for kept in range(sum(heads))]
    return list(dict.fromkeys(changes))


def necessity(
    heads: Sequence[int], probabilities: NDArray[np.float32], labels: NDArray[np.uint8], *, split: str
) -> Necessity:
    """(1 + changes, N, 7) probabilities of the full network and of `plan(heads)`, and (N,) labels."""
    from lhcnet.models.resnetv2 import SLOTS  # loads torch, which a finished report does without

    full = probabilities[0]
    under = dict(zip(plan(heads), probabilities[1:], strict=True))
    bounds = np.cumsum([0, *heads]).tolist()

    def compared(change: Change) -> dict[str, Any]:
        other = under.get(change, full)  # all heads kept is the full network
        test = mcnemar(full.argmax(1) == labels, other.argmax(1) == labels)
        found = {"lost": test.b, "won": test.c, "p": test.p, "verdict": verdict(test.b, test.c, test.p)}
        return found | {"way": change.way, "score": score(other, labels, split=split, views=1)}

    modules, single, kept = [], [], []
    for way in WAYS:
        for place, n in enumerate(heads):
            name = SLOTS[place]
            modules.append(Part(**compared(lose_module(heads, place, way)), place=name, head=None))
            for head in range(n):
                single.append(Part(**compared(lose_head(heads, place, head, way)), place=name, head=head + 1))
        for m in range(sum(heads) + 1):
            whole = bounds.index(m) if m in bounds else None
            kept.append(Kept(**compared(keep_first(heads, m, way)), heads=m, modules=whole))
    return Necessity(
        heads=tuple(heads),
        full=score(full, labels, split=split, views=1),
        modules=tuple(modules),
        single=tuple(single),
        kept=tuple(kept),
        needed=tuple(needed([k for k in kept if k.way == way]) for way in WAYS),
    )


def verdict(lost: int, won: int, p: float) -> Verdict:
    if p >= ALPHA:
        return "within noise"
    return "worse" if lost > won else "better"


def needed(kept: Sequence[Kept]) -> Needed:
    """Behind the largest number that is still worse, so that one lucky small number does not decide."""
    worse = [k for k in kept if k.verdict == "worse"]
    return Needed(
        way=kept[0].way,
        heads=1 + max((k.heads for k in worse), default=-1),
        modules=1 + max((k.modules for k in worse if k.modules is not None), default=-1),
    )
