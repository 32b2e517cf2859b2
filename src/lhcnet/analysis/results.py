"""What the analyses of one trained LHC-Net leave: a small report and its arrays, in a folder.

`analysis.json` holds what is small, `arrays.npz` the matrices, histograms and attention maps (no pickle), and every
table is a CSV beside them. Reading it loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lhcnet.analysis.necessity import Necessity
from lhcnet.analysis.parameter_counts import Size
from lhcnet.config import FrozenModel, parse
from lhcnet.errors import LhcnetError
from lhcnet.io.files import read_json

MARKER = "analysis.json"
BINS = 1000  # of T between 0 and 1: quantiles are good to 0.001
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class HeadFigures(FrozenModel):
    """One head (counted from 1). `scaling` are the `QUANTILES` of T over images and channels."""

    head: int
    scaling: tuple[float, float, float, float, float]
    scaling_mean: float
    entropy: float
    entropy_of_mean: float


class ModuleFigures(FrozenModel):
    """One module. The correlations are null where no pair of heads has one."""

    place: str
    channels: int
    g: float
    correlation_mean: float | None
    correlation_max: float | None
    heads: tuple[HeadFigures, ...]


class AnalysisReport(FrozenModel):
    """`analysis.json`. Beside it `arrays.npz`: for each module `correlation/<place>` (heads, heads), `scaling/<place>`
    (heads, BINS) counts of T in [0, 1], `attention/<place>` (heads, C, C) mean of W; `predicted` (1 + changes, N)
    uint8 classes of the full network and of `necessity.plan(heads)`, `labels` (N,).
    """

    model: str
    data: str
    n: int
    necessity: Necessity
    modules: tuple[ModuleFigures, ...]
    sizes: tuple[Size, ...]


@dataclass(frozen=True)
class Analysis:
    """A report and its arrays."""

    report: AnalysisReport
    arrays: Mapping[str, NDArray[Any]]


def read(folder: Path) -> Analysis:
    """Read what `write` wrote. Raises `LhcnetError` naming the file that is missing or not what was expected."""
    report = parse(AnalysisReport, read_json(folder / MARKER), str(folder / MARKER))
    try:
        with np.load(folder / "arrays.npz", allow_pickle=False) as file:
            return Analysis(report, dict(file))
    except (OSError, ValueError) as error:
        raise LhcnetError(f"{folder / 'arrays.npz'}: expected the arrays of an analysis: {error}") from None
