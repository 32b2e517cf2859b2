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

GOLDEN = Path(__file__).parent / "golden"
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


def conv(kernel: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))


def dense(kernel: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(kernel.T))


def lhc_state(arrays: Arrays) -> dict[str, Tensor]:
    """State of an ``LHC`` from Wqk{h}, Wp, Wv; gradients have the same layout."""
    heads = sum(name.startswith("Wqk") and name.endswith("kernel") for name in arrays)
    return {
        "w1": torch.from_numpy(np.stack([arrays[f"Wqk{h}/kernel"] for h in range(heads)])),
        "b1": torch.from_numpy(np.stack([arrays[f"Wqk{h}/bias"] for h in range(heads)])),
        "w2.weight": dense(arrays["Wp/kernel"]),
        "w2.bias": torch.from_numpy(arrays["Wp/bias"]),
        "conv.weight": conv(arrays["Wv/kernel"]),
        "conv.bias": torch.from_numpy(arrays["Wv/bias"]),
    }


def network_state(arrays: Arrays, *, modules: bool) -> dict[str, Tensor]:
    """State of a ``ResNetV2`` with the full depths, with or without the five modules."""
    state: dict[str, Tensor] = {}

    def norm(theirs: str, ours: str) -> None:
        for a, b in (("gamma", "weight"), ("beta", "bias"), ("moving_mean", "running_mean")):
            if f"{theirs}/{a}" in arrays:
                state[f"{ours}.{b}"] = torch.from_numpy(arrays[f"{theirs}/{a}"])
        state[f"{ours}.running_var"] = torch.from_numpy(arrays[f"{theirs}/moving_var"])
        state[f"{ours}.num_batches_tracked"] = torch.tensor(0)

    norm("Block0_BN1", "bn_data")
    norm("Block0_BN2", "stem_bn")
    norm("bn", "bn")
    state["stem_conv.weight"] = conv(arrays["Block0_Conv1/kernel"])
    for stage, depth in enumerate((3, 4, 6, 3)):
        for unit in range(depth):
            theirs, ours = f"stage{stage + 1}_unit{unit + 1}", f"stages.{stage}.{unit}"
            norm(f"{theirs}_BN1", f"{ours}.bn1")
            norm(f"{theirs}_BN2", f"{ours}.bn2")
            for a, b in (("Conv1", "conv1"), ("Conv2", "conv2"), ("ConvId", "shortcut")):
                if f"{theirs}_{a}/kernel" in arrays:
                    state[f"{ours}.{b}.weight"] = conv(arrays[f"{theirs}_{a}/kernel"])
    for theirs, ours in (("fc1", "hidden.0"), ("fc2", "hidden.1"), ("fc3", "logits")):
        state[f"{ours}.weight"] = dense(arrays[f"{theirs}/kernel"])
        state[f"{ours}.bias"] = torch.from_numpy(arrays[f"{theirs}/bias"])
    if modules:
        for place in range(5):
            for name, tensor in lhc_state(below(arrays, f"LHC{place + 1}/")).items():
                state[f"attention.{place}.lhc.{name}"] = tensor
    return state
