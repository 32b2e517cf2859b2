"""Model directories with tiny untrained networks whose answers differ from image to image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lhcnet.config import LHCSettings
from lhcnet.saved import Architecture, Fitted, Metrics, ModelInfo, Provenance, save
from support.host import BACKBONE, LAYERS

KINDS: dict[str, dict[str, Any]] = {
    "lhcnet": {"depths": (1,) * 4, "widths": (8,) * 4, "head": (16,), "modules": (LHCSettings(heads=1, d=3),) * 5},
    "host": {"backbone": BACKBONE, "layers": LAYERS},
}


def untrained(folder: Path, kind: str, fitted: Fitted | None = None) -> Path:
    """Write a model directory of one of KINDS, with what `evaluate` would have stored in it."""
    architecture = Architecture(input_size=32, dropout=0.2, bn_momentum=0.1, **KINDS[kind])
    provenance = Provenance(id="A/seed-1", set="A", stage=4, seed=1, variant=None, data="d" * 64, start="none")
    info = ModelInfo(architecture=architecture, provenance=provenance, fitted=fitted)
    save(folder, architecture.build(seed=0), info, Metrics(status="trained"), [])
    return folder
