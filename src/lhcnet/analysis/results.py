"""Results of the analyses of one LHC-Net: `analysis.json`, and `arrays.npz` with matrices, histograms and maps.

Reading them does not load torch.
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
from lhcnet.config import FrozenModel
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.files import read_json, write_json
from lhcnet.versioned import Versioned, read_versioned

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
    """One module. The correlations (mean and largest of the pairs of heads) are null if there is no pair."""

    slot: str
    channels: int
    g: float
    correlation_mean: float | None
    correlation_max: float | None
    heads: tuple[HeadFigures, ...]


class AnalysisReport(Versioned):
    """`analysis.json`. Beside it `arrays.npz`: for each module `correlation/<slot>` (heads, heads), `scaling/<slot>`
    (heads, BINS) counts of T in [0, 1], `attention/<slot>` (heads, C, C) mean of W; `predicted` (1 + ablations, N)
    uint8 classes of the full network and of `necessity.plan(heads)`, `labels` (N,).
    """

    model: str
    weights: str
    data: str
    n: int
    necessity: Necessity
    modules: tuple[ModuleFigures, ...]
    sizes: tuple[Size, ...]


class Skipped(Versioned):
    """`analysis.json` of a model that cannot be analysed, with the reason."""

    skipped: str


@dataclass(frozen=True)
class Analysis:
    """A report and its arrays."""

    report: AnalysisReport
    arrays: Mapping[str, NDArray[Any]]


def write(analysis: Analysis | Skipped, folder: Path) -> None:
    """Write the folder, complete or not at all."""
    with atomic_directory(folder, MARKER) as out:
        if isinstance(analysis, Analysis):
            np.savez_compressed(out / "arrays.npz", **analysis.arrays)  # type: ignore[arg-type]
        report = analysis.report if isinstance(analysis, Analysis) else analysis
        write_json(out / MARKER, report.to_dict())


def read(folder: Path) -> Analysis | Skipped:
    """Read what `write` wrote. Raises `LhcnetError` naming the file that is missing or damaged."""
    file = folder / MARKER
    values = read_json(file)
    if isinstance(values, dict) and "skipped" in values:
        return read_versioned(Skipped, file)
    report = read_versioned(AnalysisReport, file)
    try:
        with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
            return Analysis(report, dict(arrays))
    except (OSError, ValueError) as error:
        raise LhcnetError(f"{folder / 'arrays.npz'}: expected the arrays of an analysis: {error}") from None
