"""How many modules and heads a network needs (section 3.2.4; in the paper, 16 of 31 heads: the first two modules).

Every ablated network is compared with the full one on the same images by McNemar's exact test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lhcnet.analysis.ablation import KINDS, Ablation, AblationKind, keep_first, lose_head, lose_module
from lhcnet.config import FrozenModel
from lhcnet.protocol.score import Score, score
from lhcnet.protocol.statistics import ALPHA, mcnemar


class Ablated(FrozenModel):
    """Score of an ablated network.

    `lost` images are right by the full network alone, `won` by the ablated one alone; `p` is McNemar's.
    """

    kind: AblationKind
    score: Score
    lost: int
    won: int
    p: float

    @property
    def significant(self) -> bool:
        return self.p < ALPHA

    @property
    def worse(self) -> bool:
        """Significantly worse than the full network."""
        return self.significant and self.lost > self.won


class PartAblated(Ablated):
    """One module is lost, or one `head` of it (counted from 1)."""

    slot: str
    head: int | None


class FirstHeadsKept(Ablated):
    """Only the first `heads` are kept; `modules` is set if they are those of a whole number of modules."""

    heads: int
    modules: int | None


class Needed(FrozenModel):
    """The smallest numbers from which on no network is significantly worse than the full one."""

    kind: AblationKind
    heads: int
    modules: int


class Necessity(FrozenModel):
    """Ablation of each module, of each head, and of all heads after the first ones."""

    heads: tuple[int, ...]
    full: Score
    modules: tuple[PartAblated, ...]
    single: tuple[PartAblated, ...]
    kept: tuple[FirstHeadsKept, ...]
    needed: tuple[Needed, ...]


def plan(heads: Sequence[int]) -> list[Ablation]:
    """All ablations that `necessity` needs, each once; `heads` are those of the modules."""
    ablations: list[Ablation] = []
    for kind in KINDS:
        ablations += [lose_module(heads, slot, kind) for slot in range(len(heads))]
        ablations += [lose_head(heads, slot, head, kind) for slot, n in enumerate(heads) for head in range(n)]
        ablations += [keep_first(heads, kept, kind) for kept in range(sum(heads))]
    return list(dict.fromkeys(ablations))


def necessity(
    heads: Sequence[int], probabilities: NDArray[np.float32], labels: NDArray[np.uint8], *, split: str
) -> Necessity:
    """Compare every ablated network with the full one.

    Args:
        heads: numbers of heads of the modules.
        probabilities: (1 + ablations, N, 7) of the full network and of `plan(heads)`.
        labels: (N,) true classes.
        split: name of the images.
    """
    from lhcnet.models.slots import SLOTS  # loads torch; reading a finished report does not need it

    full = probabilities[0]
    under = dict(zip(plan(heads), probabilities[1:], strict=True))
    bounds = np.cumsum([0, *heads]).tolist()

    def compared(ablation: Ablation) -> dict[str, Any]:
        other = under.get(ablation, full)  # all heads kept is the full network
        test = mcnemar(full.argmax(1) == labels, other.argmax(1) == labels)
        scored = score(other, labels, split=split, views=1)
        return {"kind": ablation.kind, "score": scored, "lost": test.b, "won": test.c, "p": test.p}

    modules, single, kept = [], [], []
    for kind in KINDS:
        for i, (slot, n) in enumerate(zip(SLOTS, heads, strict=False)):
            modules.append(PartAblated(**compared(lose_module(heads, i, kind)), slot=slot, head=None))
            for head in range(n):
                single.append(PartAblated(**compared(lose_head(heads, i, head, kind)), slot=slot, head=head + 1))
        for m in range(sum(heads) + 1):
            whole = bounds.index(m) if m in bounds else None
            kept.append(FirstHeadsKept(**compared(keep_first(heads, m, kind)), heads=m, modules=whole))
    return Necessity(
        heads=tuple(heads),
        full=score(full, labels, split=split, views=1),
        modules=tuple(modules),
        single=tuple(single),
        kept=tuple(kept),
        needed=tuple(needed([k for k in kept if k.kind == kind]) for kind in KINDS),
    )


def needed(kept: Sequence[FirstHeadsKept]) -> Needed:
    """One more than the largest numbers that are significantly worse than the full network."""
    worse = [k for k in kept if k.worse]
    return Needed(
        kind=kept[0].kind,
        heads=1 + max((k.heads for k in worse), default=-1),
        modules=1 + max((k.modules for k in worse if k.modules is not None), default=-1),
    )
