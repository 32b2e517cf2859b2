"""Which heads an ablated network loses, and how. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

# off: a module or head adds nothing. reset: it has its initial weights again ("de-trained" in the paper)
AblationKind = Literal["off", "reset"]
KINDS: tuple[AblationKind, ...] = ("off", "reset")


@dataclass(frozen=True)
class Ablation:
    """Heads that a network loses: `lost[i]` are those of the module in slot i, both counted from 0."""

    kind: AblationKind
    lost: tuple[frozenset[int], ...]

    @property
    def first(self) -> int:
        """Index of the first slot that changes; the layers before it compute what they do in the full network."""
        return next((slot for slot, heads in enumerate(self.lost) if heads), len(self.lost) - 1)


def lose_module(heads: Sequence[int], slot: int, kind: AblationKind) -> Ablation:
    """Ablation of the module in `slot`; `heads` are the numbers of heads of all modules, (8, 8, 7, 7, 1)."""
    return Ablation(kind, tuple(frozenset(range(n) if i == slot else ()) for i, n in enumerate(heads)))


def lose_head(heads: Sequence[int], slot: int, head: int, kind: AblationKind) -> Ablation:
    """Ablation of one head of the module in `slot`."""
    return Ablation(kind, tuple(frozenset([head] if i == slot else ()) for i in range(len(heads))))


def keep_first(heads: Sequence[int], kept: int, kind: AblationKind) -> Ablation:
    """Ablation of all heads but the first `kept`, counted from the input of the network."""
    before = np.cumsum([0, *heads[:-1]]).tolist()
    return Ablation(kind, tuple(frozenset(range(max(kept - b, 0), n)) for b, n in zip(before, heads, strict=True)))
