"""Settings of a tiny network of timm in place of ResNet34v2."""

from __future__ import annotations

from typing import Any

BACKBONE = "timm:test_efficientnet"
MODULE = {"heads": 1, "d": 3}
SETTINGS: dict[str, Any] = {  # at 32 pixels its maps are 16x16, 8x8, 4x4, 2x2 and 1x1: four slots
    "network": {
        "backbone": BACKBONE,
        "input_size": 32,
        "dropout": 0.2,
        "bn_momentum": 0.1,
        "weights": "none",
    },
    "variants": {"wide": [MODULE | {"heads": 4}] * 4, "narrow": [MODULE] * 4},
    "selection.loss_factor": 10.0,
}
LAYERS = ("blocks.0", "blocks.1", "blocks.2", "blocks.3")
SHAPES = [(16, 16, 16), (24, 8, 8), (32, 4, 4), (48, 2, 2)]
