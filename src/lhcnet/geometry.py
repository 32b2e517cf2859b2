"""Sizes of the feature maps, and which head partitions fit them. Imports no torch, so settings are checked early."""

from __future__ import annotations

from typing import Literal

PartitionName = Literal["horizontal", "vertical", "grid", "learnt"]
"""How a feature map is cut into heads. The paper uses `horizontal`; its section 5 leaves the others open."""


def grid_shape(heads: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of a grid of equal rectangles, one rectangle a head, as square as possible.

    Args:
        heads: number of rectangles.
        height, width: size of the feature map in pixels.

    Returns:
        (rows, columns) with rows * columns = heads; of two equally square grids the one with flatter rectangles. None
        if no grid of equal rectangles fits the map.
    """
    fitting = [
        (rows, heads // rows)
        for rows in range(min(heads, height), 0, -1)
        if heads % rows == 0 and height % rows == 0 and width % (heads // rows) == 0
    ]

    def elongation(shape: tuple[int, int]) -> float:
        h, w = height / shape[0], width / shape[1]
        return max(h / w, w / h)

    return min(fitting, key=elongation, default=None)


def partition_problem(partition: PartitionName, heads: int, height: int, width: int) -> str:
    """Explain why a head partition does not fit a feature map.

    Args:
        partition: how the map is cut.
        heads: number of heads.
        height, width: size of the feature map in pixels.

    Returns:
        The reason, or an empty string if the partition fits. `learnt` fits every map, because its heads overlap.
    """
    if partition == "grid" and grid_shape(heads, height, width) is None:
        return f"heads={heads} do not make a grid of equal rectangles on H*W = {height}*{width}"
    if partition in ("horizontal", "vertical") and height * width % heads:
        return f"heads={heads} does not divide H*W = {height}*{width} = {height * width}"
    return ""


def map_sides(input_size: int) -> tuple[int, int, int, int, int]:
    """Height (= width) in pixels of the feature maps at LHC1..LHC5, (56, 56, 28, 14, 7) at 224 (Figure 1).

    Every stride of 2 (stem convolution, pooling, stages 2-4) halves the side and rounds up.
    """
    half = (input_size + 1) // 2
    sides = [(half + 1) // 2] * 2
    for _ in range(3):
        sides.append((sides[-1] + 1) // 2)
    return sides[0], sides[1], sides[2], sides[3], sides[4]
