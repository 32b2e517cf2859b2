"""Model directories of tiny networks with random weights, whose answers differ from image to image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lhcnet.config import parse
from lhcnet.data.drawn_faces import draw
from lhcnet.data.transforms import upscale
from lhcnet.saved import Architecture, Epoch, Fitted, Metrics, ModelInfo, Provenance, SavedModel, open_model, save
from support.host import BACKBONE, LAYERS

MODULE = {"heads": 1, "d": 3}
SIZES = {"input_size": 32, "dropout": 0.2, "bn_momentum": 0.1}
KINDS: dict[str, dict[str, Any]] = {
    "lhcnet": {"depths": [1] * 4, "widths": [8] * 4, "head": [16], "modules": [MODULE] * 5},
    "host": {"backbone": BACKBONE, "layers": LAYERS},
}


def write_model(folder: Path, architecture: dict[str, Any], fitted: Fitted | None = None) -> SavedModel:
    """A model directory, for example of one of KINDS, with what `evaluate` would have stored in it."""
    built = parse(Architecture, SIZES | architecture, "test")
    provenance = Provenance(id="C/seed-0", set="C", stage=4, seed=0, variant="wide", data="0" * 64, start="none")
    history = [Epoch(epoch=0, val_accuracy=0.5, val_loss=1.0)]
    metrics = Metrics(status="trained", train_loss=1.0)
    network = built.build(seed=1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # statistics of faces: without them the logits are in the thousands
        faces = torch.from_numpy(draw(42, seed=0).images.copy())
        network.train()(upscale(faces, built.input_size, truncate=False).expand(-1, 3, -1, -1))
    save(folder, network, ModelInfo(architecture=built, provenance=provenance, fitted=fitted), metrics, history)
    return open_model(folder)
