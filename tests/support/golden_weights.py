"""Reads the golden fixtures: the reference implementation's names and layouts to ours.

The reference is Keras: activations NHWC, convolution kernels HWIO, dense kernels (in, out).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from golden.golden_rng import load_table
from numpy.typing import NDArray
from torch import Tensor

from lhcnet.models.lhc import LHC
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.weights.keras import keras_state, unit_layers

GOLDEN = Path(__file__).parents[1] / "golden"
Arrays = dict[str, NDArray[np.float32]]

TABLE_2 = [
    {"heads": 8, "d": 196, "pool": 3, "g": 1.0, "kernel": 3},
    {"heads": 8, "d": 196, "pool": 3, "g": 1.0, "kernel": 3},
    {"heads": 7, "d": 56, "pool": 3, "g": 1.0, "kernel": 3},
    {"heads": 7, "d": 14, "pool": 3, "g": 1.0, "kernel": 3},
    {"heads": 1, "d": 25, "pool": 3, "g": 1.0, "kernel": 3},
]


@cache
def fixture(name: str) -> Arrays:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def drawn(table: str, prefix: str) -> Arrays:
    """The tensors of ``<table>_weights.csv`` whose names start with prefix, without it."""
    arrays = load_table(GOLDEN / f"{table}_weights.csv", prefix)
    return {name.removeprefix(prefix): array for name, array in arrays.items()}


def below(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def nchw(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


LHC_LAYERS = {"": "Wqk{head}", "w2": "Wp", "conv": "Wv"}
LAYERS = (
    {"bn_data": "Block0_BN1", "stem_conv": "Block0_Conv1", "stem_bn": "Block0_BN2", "bn": "bn"}
    | {"hidden.0": "fc1", "hidden.1": "fc2", "logits": "fc3"}
    | unit_layers(
        lambda stage, unit, part: f"stage{stage}_unit{unit}_{part}",
        {"bn1": "BN1", "conv1": "Conv1", "bn2": "BN2", "conv2": "Conv2", "shortcut": "ConvId"},
    )
    | {
        f"attention.{place}.lhc{'.' if ours else ''}{ours}": f"LHC{place + 1}/{theirs}"
        for place in range(5)
        for ours, theirs in LHC_LAYERS.items()
    }
)


def lhc_state(lhc: LHC, arrays: Arrays) -> dict[str, Tensor]:
    """State of the module from Wqk{h}, Wp, Wv; gradients have the same layout."""
    return keras_state(lhc, {name: array for name, array in arrays.items() if name.startswith("W")}, LHC_LAYERS)


def fill(network: ResNetV2, arrays: Arrays) -> None:
    """Give a network of the full depths its weights, with or without the five modules."""
    modules = any("lhc" in key for key in network.state_dict())
    renamed = {name.replace("moving_var", "moving_variance"): array for name, array in arrays.items()}
    wanted = {name: array for name, array in renamed.items() if modules or not name.startswith("LHC")}
    network.load_state_dict(network.state_dict() | keras_state(network, wanted, LAYERS))
