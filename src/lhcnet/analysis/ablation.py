"""Which heads a changed network loses, and how: what `switching` applies and `necessity` looks up. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Way = Literal["off", "reset"]
WAYS: tuple[Way, ...] = ("off", "reset")


@dataclass(frozen=True)
class Change:
    """Heads that a network loses: ``lost[i]`` are those of module i, both counted from 0."""

    way: Way
    lost: tuple[frozenset[int], ...]

    @property
    def first(self) -> int:
        """The first place that is touched; what lies before it is as in the full network."""
        return next((place for place, heads in enumerate(self.lost) if heads), len(self.lost) - 1)


def lose_module(heads: Sequence[int], place: int, way: Way) -> Change:
    """Module ``place`` is lost; ``heads`` are the numbers of heads of all modules, (8, 8, 7, 7, 1) in Table 2."""
    return Change(way, tuple(frozenset(range(n) if i == place else ()) for i, n in enumerate(heads)))


def lose_head(heads: Sequence[int], place: int, head: int, way: Way) -> Change:
    """One head of module ``place`` is lost."""
    return Change(way, tuple(frozenset([head] if i == place else ()) for i in range(len(heads))))


def keep_first(heads: Sequence[int], kept: int, way: Way) -> Change:
    """Only the first ``kept`` heads stay, counted from the input of the network."""
    before = np.cumsum([0, *heads[:-1]]).tolist()
    return Change(way, tuple(frozenset(range(max(kept - b, 0), n)) for b, n in zip(before, heads, strict=True)))
