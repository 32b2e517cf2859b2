"""Parameters and memory of a network in closed form: nothing is built, so impossible settings are refused at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from lhcnet.geometry import map_sides

CLASSES = 7
MAX_PARAMETERS = 2**31  # 8 GiB of weights in float32; the paper's LHC-Net has 32 million
MAX_MEMORY = 2**40  # bytes of one training, 1 TiB
LARGEST = 2**31  # torch's sizes of windows and layers are below this


@dataclass(frozen=True)
class Sizes:
    """What a network's memory depends on: the sizes of ResNet34v2, and the settings of its five modules or None."""

    input_size: int
    depths: Sequence[int]
    widths: Sequence[int]
    head: Sequence[int]
    modules: Sequence[Mapping[str, Any]] | None = None


def parameters(sizes: Sizes) -> int:
    """Number of parameters, with the moving statistics of BatchNorm; that of a baseline module is an upper bound."""
    inputs = sizes.widths[0]
    total = 9 + 3 * inputs * 49 + 4 * inputs  # bn_data, stem convolution and its BatchNorm
    for depth, width in zip(sizes.depths, sizes.widths, strict=True):
        total += 4 * inputs + 9 * inputs * width + 4 * width + 9 * width**2 + inputs * width  # the first unit
        total += (depth - 1) * (8 * width + 18 * width**2)
        inputs = width
    total += 4 * inputs
    for size in (*sizes.head, CLASSES):
        total += inputs * size + size
        inputs = size
    return total + sum(_module_parameters(row, C, side) for row, C, side in _slots(sizes))


def _module_parameters(row: Mapping[str, Any], C: int, side: int) -> int:
    if "attention" in row:
        return C**2 + 8 * C + 1000  # an upper bound: their dense layers reduce the channels to a 16th
    heads, d, convolution = row["heads"], row["d"], C**2 * row.get("kernel", 3) ** 2 + C
    learnt = row.get("split", "horizontal") == "learnt"
    embedding = side**2 * d * (heads if learnt else 1) + heads * d
    norms = {"none": 0, "both": 2}.get(row.get("norm", "none"), 1) * 4 * C
    masks = heads * side**2 if learnt else 0
    return int(embedding + C**2 + C + convolution * (1 + row.get("second_conv", False)) + norms + masks)


def _slots(sizes: Sizes) -> list[tuple[Mapping[str, Any], int, int]]:
    """(settings, channels, side of the map) of each attention module."""
    if sizes.modules is None:
        return []
    channels = (sizes.widths[0], *sizes.widths)
    return list(zip(sizes.modules, channels, map_sides(sizes.input_size), strict=True))


def activations(sizes: Sizes) -> int:
    """Numbers that the backward pass of one image needs: inputs of convolutions, norms, pools and products."""
    half, *sides = (sizes.input_size + 1) // 2, *map_sides(sizes.input_size)
    total = 6 * sizes.input_size**2 + sizes.widths[0] * (2 * half**2 + 3 * sides[0] ** 2)  # stem, pool and its indices
    before, inputs = sides[0], sizes.widths[0]
    for depth, width, side in zip(sizes.depths, sizes.widths, sides[1:], strict=True):
        total += 2 * inputs * before**2 + 2 * width * side**2 + (depth - 1) * 4 * width * side**2
        before, inputs = side, width
    total += 2 * inputs * before**2 + 2 * sum(sizes.head)
    return total + sum(_module_activations(row, C, side) for row, C, side in _slots(sizes))


def _module_activations(row: Mapping[str, Any], C: int, side: int) -> int:
    pixels = C * side**2
    if "attention" in row:
        return 4 * pixels
    heads, d = row["heads"], row["d"]
    maps = heads if row.get("split", "horizontal") == "learnt" else 1  # each learnt head sees the whole map
    own = 4 * (row.get("norm", "none") != "none") + 2 * row.get("second_conv", False)
    return int(pixels * (5 + 4 * maps + own) + heads * C * (5 * d + 2 * C))


@dataclass(frozen=True)
class Memory:
    """Estimated memory of one training in bytes.

    Args:
        parameters: number of parameters.
        weights: of the weights, their best copy, gradients and the optimiser's moments.
        activations: of one batch, forward and backward.
    """

    parameters: int
    weights: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.activations

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters, about {gib(self.total)} of memory ({gib(self.weights)} for weights, "
            f"gradients and optimiser, {gib(self.activations)} for a batch)"
        )


def training_memory(sizes: Sizes, *, batch_size: int, adam: bool, bfloat16: bool, more_copies: int = 0) -> Memory:
    """Estimate the memory of a training; measured and estimated activations differ by less than a factor of two.

    Args:
        sizes: of the network.
        batch_size: images of a batch.
        adam: whether the optimiser is Adam.
        bfloat16: whether activations are bfloat16.
        more_copies: copies of the weights for momentum and for their average, `Stage.more_copies`.
    """
    count = parameters(sizes)
    copies = (5 if adam else 3) + more_copies  # weights, best weights and gradients; Adam keeps two moments
    return Memory(count, 4 * copies * count, batch_size * activations(sizes) * (2 if bfloat16 else 4))


def training_problem(
    sizes: Sizes, stage: str, *, batch_size: int, adam: bool, bfloat16: bool, more_copies: int = 0
) -> str:
    """Why no machine has the memory for a training with the settings `stage`, or an empty string."""
    needed = training_memory(sizes, batch_size=batch_size, adam=adam, bfloat16=bfloat16, more_copies=more_copies)
    if needed.total <= MAX_MEMORY:
        return ""
    return (
        f"a training with batches of {batch_size:,} images ({stage}) would need {needed}; expected at most "
        f"{gib(MAX_MEMORY)}: lower {stage}.batch_size or network.input_size"
    )


def problem(sizes: Sizes) -> str:
    """Why a network with these sizes cannot be built, or an empty string."""
    if (count := parameters(sizes)) > MAX_PARAMETERS:
        return (
            f"the network would have {count:,} parameters, {gib(4 * count)} of weights; expected at most "
            f"{MAX_PARAMETERS:,}: lower widths, depths, head, or heads, d and kernel of the modules"
        )
    return ""


def gib(size: float) -> str:
    """A number of bytes in GiB, for people."""
    return f"{size / 2**30:,.0f} GiB" if size >= 100 * 2**30 else f"{size / 2**30:,.2f} GiB"


def span(seconds: float) -> str:
    """A time in seconds, as hours:minutes:seconds for people; a second at least."""
    return str(timedelta(seconds=max(1, round(seconds))))
