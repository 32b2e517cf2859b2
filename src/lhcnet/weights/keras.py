"""Converts weights of Keras networks to state dicts of ours: names, memory layouts, and checks.

Keras stores the kernel of a convolution as (height, width, inputs, outputs) and that of a dense layer as (inputs,
outputs). Variables are named layer/variable here, for example `conv0/kernel`. Layer names differ between files, so the
caller passes the table of layers.
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
"""Path of a module of ours -> its Keras layer; of an LHC module -> the dense layers of its heads, as `Wqk/{head}`."""

NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
OTHER = {"weight": "kernel", "bias": "bias", "w1": "kernel", "b1": "bias", "w": "w"}
PER_HEAD = ("w1", "b1")  # stacked over the heads; in Keras each head has a layer of its own
NOT_IN_KERAS = "num_batches_tracked"


def unit_layers(layer: Callable[[int, int, str], str], parts: Mapping[str, str]) -> dict[str, str]:
    """Rows of a table of layers for the units of ResNet34.

    Args:
        layer: (stage, unit, part) -> name of the Keras layer; stages and units are counted from 1.
        parts: name of a layer in our unit -> `part`, its name in the file.
    """
    return {
        f"stages.{stage}.{unit}.{ours}": layer(stage + 1, unit + 1, theirs)
        for stage, depth in enumerate(RESNET34_DEPTHS)
        for unit in range(depth)
        for ours, theirs in parts.items()
    }


def keras_state(network: nn.Module, arrays: Mapping[str, NDArray[Any]], layers: Layers) -> dict[str, Tensor]:
    """State dict of those modules of a network that are in the table of layers.

    Args:
        network: determines which variables are expected and their shapes; it is not changed.
        arrays: exactly these variables, by name; arrays or HDF5 data sets, which are read after their shape is checked.
        layers: table of layers.

    Returns:
        Name of a parameter or buffer -> tensor, in PyTorch's layout.

    Raises:
        ValueError: a variable is missing, has another shape, has values that are not finite, or is not expected.
    """
    norms = {path for path, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    state: dict[str, Tensor] = {}
    surplus = set(arrays)
    for key, tensor in network.state_dict().items():
        path, _, leaf = key.rpartition(".")
        if path not in layers or leaf == NOT_IN_KERAS:
            continue
        name = f"{layers[path]}/{(NORM if path in norms else OTHER)[leaf]}"
        if leaf in PER_HEAD:
            names = [name.format(head=head) for head in range(len(tensor))]
            shape = tuple(tensor.shape[1:])
            state[key] = torch.from_numpy(np.stack([_array(arrays, name, shape) for name in names]))
            surplus -= set(names)
        else:
            state[key] = from_keras(_array(arrays, name, _keras_shape(tensor)))
            surplus.discard(name)
    if surplus:
        first, more = min(surplus), len(surplus) - 1
        raise ValueError(f"unexpected weight {first}{f' (and {more} more)' if more else ''}")
    return state


def from_keras(array: NDArray[np.float32]) -> Tensor:
    """Convert a kernel of a convolution or a dense layer to PyTorch's layout; vectors and scalars do not change."""
    tensor = torch.from_numpy(array)
    return (tensor.permute(3, 2, 0, 1) if tensor.dim() == 4 else tensor.t()).contiguous()


def _array(arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The variable as a float32 array, after its shape, type and values are checked."""
    if name not in arrays:
        raise ValueError(f"{name} is missing, expected a weight of shape {shape}")
    stored = arrays[name]
    if stored.shape != shape or stored.dtype.kind != "f":
        raise ValueError(f"{name} is {stored.dtype} of shape {stored.shape}, expected floating point of shape {shape}")
    array = np.array(stored, np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite, expected numbers of shape {shape}")
    return array


def _keras_shape(tensor: Tensor) -> tuple[int, ...]:
    """Shape of a tensor in Keras' layout."""
    return tuple((tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor.t()).shape)
