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
from pydantic import model_validator

from lhcnet.analysis.ablation import KINDS
from lhcnet.analysis.necessity import Necessity, plan
from lhcnet.analysis.parameter_counts import Size
from lhcnet.config import FrozenModel
from lhcnet.errors import LhcnetError
from lhcnet.io.arrays import read_npz, require_array
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.contents import OwnFolder, OwnJson
from lhcnet.io.files import read_json, write_json
from lhcnet.protocol.score import LABELS
from lhcnet.versioned import Versioned, read_versioned

MARKER = "analysis.json"
ANALYSIS_FOLDER = OwnFolder(
    MARKER,
    OwnJson((frozenset({"schema_version", "model", "necessity"}), frozenset({"schema_version", "skipped"}))),
    frozenset({MARKER, "arrays.npz"}),
)
_MOST_HEADS = 10_000
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

    @model_validator(mode="after")
    def _holds_together(self) -> AnalysisReport:
        heads = self.necessity.heads
        if tuple(len(module.heads) for module in self.modules) != heads or not heads:
            raise ValueError(f"modules: expected the heads of necessity, {', '.join(map(str, heads))}")
        if len({module.slot for module in self.modules}) != len(heads):
            raise ValueError("modules: expected each slot once")
        if max(heads) > _MOST_HEADS:
            raise ValueError(f"necessity.heads: expected at most {_MOST_HEADS:,} heads of a module")
        if [one.kind for one in self.necessity.needed] != list(KINDS):
            raise ValueError(f"necessity.needed: expected {', '.join(KINDS)}")
        return self


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
    with atomic_directory(folder, ANALYSIS_FOLDER) as out:
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
    arrays = read_npz(folder / "arrays.npz", "the arrays of an analysis")
    try:
        _require_fitting(arrays, report)
    except (KeyError, ValueError) as error:
        raise LhcnetError(f"{folder / 'arrays.npz'}: does not fit {MARKER}: {error}") from None
    return Analysis(report, arrays)


def _require_fitting(arrays: Mapping[str, NDArray[Any]], report: AnalysisReport) -> None:
    for module in report.modules:
        heads, channels, slot = len(module.heads), module.channels, module.slot
        shapes = {"correlation": (heads, heads), "scaling": (heads, BINS), "attention": (heads, channels, channels)}
        for name, shape in shapes.items():
            array = arrays[f"{name}/{slot}"]
            require_array(array, f"{name}/{slot}", array.dtype if array.dtype.kind in "iuf" else np.float32, shape)
    rows = 1 + len(plan(report.necessity.heads))
    labels = require_array(arrays["labels"], "labels", np.uint8, (report.n,))
    predicted = require_array(arrays["predicted"], "predicted", np.uint8, (rows, report.n))
    if max(labels.max(initial=0), predicted.max(initial=0)) > max(LABELS):
        raise ValueError("labels and predicted: expected classes 0..6")
