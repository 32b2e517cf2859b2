"""The ways to cut a map into heads: which there are and what fits. No torch, so that settings can be checked early."""

from __future__ import annotations

from typing import Literal

Split = Literal["horizontal", "vertical", "grid", "learnt"]
"""The paper's horizontal runs, and what its section 5 leaves open."""


def grid(heads: int, height: int, width: int) -> tuple[int, int] | None:
    """(rows, columns) of `heads` equal rectangles, as square as they get; flat ones win a tie. None if none fits."""
    fitting = [
        (rows, heads // rows)
        for rows in range(min(heads, height), 0, -1)
        if heads % rows == 0 and height % rows == 0 and width % (heads // rows) == 0
    ]

    def elongation(shape: tuple[int, int]) -> float:
        h, w = height / shape[0], width / shape[1]
        return max(h / w, w / h)

    return min(fitting, key=elongation, default=None)


def partition_problem(split: Split, heads: int, height: int, width: int) -> str:
    """Why a map of height x width pixels cannot be cut so; empty if it can. Learnt areas overlap: they always fit."""
    if split == "grid" and grid(heads, height, width) is None:
        return f"heads={heads} do not make a grid of equal rectangles on H*W = {height}*{width}"
    if split in ("horizontal", "vertical") and height * width % heads:
        return f"heads={heads} does not divide H*W = {height}*{width} = {height * width}"
    return ""


def map_sides(input_size: int) -> tuple[int, int, int, int, int]:
    """H = W of the maps at LHC1..LHC5: every stride of 2 (stem convolution, pool, stages 2-4) halves, rounding up."""
    half = (input_size + 1) // 2
    sides = [(half + 1) // 2] * 2
    for _ in range(3):
        sides.append((sides[-1] + 1) // 2)
    return sides[0], sides[1], sides[2], sides[3], sides[4]
