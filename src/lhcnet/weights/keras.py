"""Weights of Keras networks in ours: names, layouts, and one sentence for whatever does not fit.

Keras keeps the kernel of a convolution as (height, width, inputs, outputs) and that of a dense layer as (inputs,
outputs). A variable is named layer/variable here, `conv0/kernel`. Which layer is which module of ours is a table that
the caller brings, for every file has names of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lhcnet.models.resnetv2 import RESNET34_DEPTHS

Layers = Mapping[str, str]
"""Path of a module of ours -> its Keras layer; an LHC -> the dense layers of its heads, as in `Wqk/{head}`."""

NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
OTHER = {"weight": "kernel", "bias": "bias", "w1": "kernel", "b1": "bias", "w": "w"}
A_HEAD_EACH = ("w1", "b1")
NOT_IN_KERAS = "num_batches_tracked"


def unit_layers(layer: Callable[[int, int, str], str], parts: Mapping[str, str]) -> dict[str, str]:
    """The part of a table for the units of ResNet34: `layer(stage, unit, part)`, stage and unit counted from 1."""
    return {
        f"stages.{stage}.{unit}.{ours}": layer(stage + 1, unit + 1, theirs)
        for stage, depth in enumerate(RESNET34_DEPTHS)
        for unit in range(depth)
        for ours, theirs in parts.items()
    }


def keras_state(network: nn.Module, arrays: Mapping[str, NDArray[Any]], layers: Layers) -> dict[str, Tensor]:
    """The part of the network's state that the table covers, from Keras arrays.

    Args:
        network: says which variables there must be and of what shape; it is left as it is.
        arrays: exactly those variables, by name. An HDF5 data set will do: it is read once its shape is known to fit.
        layers: where they belong.

    Raises:
        ValueError: a variable that is missing, of another shape, not of finite numbers, or not asked for.
    """
    norms = {path for path, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    state: dict[str, Tensor] = {}
    surplus = set(arrays)
    for key, tensor in network.state_dict().items():
        path, _, leaf = key.rpartition(".")
        if path not in layers or leaf == NOT_IN_KERAS:
            continue
        name = f"{layers[path]}/{(NORM if path in norms else OTHER)[leaf]}"
        if leaf in A_HEAD_EACH:
            names = [name.format(head=head) for head in range(len(tensor))]
            shape = tuple(tensor.shape[1:])
            state[key] = torch.from_numpy(np.stack([_array(arrays, name, shape) for name in names]))
            surplus -= set(names)
        else:
            state[key] = from_keras(_array(arrays, name, _in_keras(tensor)))
            surplus.discard(name)
    if surplus:
        first, more = min(surplus), len(surplus) - 1
        raise ValueError(f"{first} is there{f' (and {more} more)' if more else ''}, expected no such weight")
    return state


def from_keras(array: NDArray[np.float32]) -> Tensor:
    """A kernel of a convolution or a dense layer in PyTorch's layout; vectors and numbers as they are."""
    tensor = torch.from_numpy(array)
    return (tensor.permute(3, 2, 0, 1) if tensor.dim() == 4 else tensor.t()).contiguous()


def _array(arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if name not in arrays:
        raise ValueError(f"{name} is missing, expected a weight of shape {shape}")
    stored = arrays[name]
    if stored.shape != shape or stored.dtype.kind != "f":
        raise ValueError(f"{name} is {stored.dtype} of shape {stored.shape}, expected floating point of shape {shape}")
    array = np.array(stored, np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite, expected numbers of shape {shape}")
    return array


def _in_keras(tensor: Tensor) -> tuple[int, ...]:
    return tuple((tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor.t()).shape)
