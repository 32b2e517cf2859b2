"""Class activation: where the last feature maps speak for a class (Grad-CAM), by captum.

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lhcnet.data.fer2013 import SIDE, Bytes
from lhcnet.inference.predict import batches
from lhcnet.models.host import HostNetwork
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.models.resolution import last_layers
from lhcnet.models.slots import SlotNetwork
from lhcnet.prediction.network import NetworkModel


def class_activation(model: NetworkModel, crop: Bytes, label: int) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """The last feature maps, weighted with the mean gradient of a logit and added up.

    Args:
        model: a network.
        crop: the face, (48, 48).
        label: index of the class.

    Returns:
        (48, 48), interpolated bilinearly, and rows and columns of the maps. Above zero: they speak for the class there.
    """
    from captum.attr import LayerGradCam

    network = model.network.eval()
    ((_, pixels),) = batches(crop[None], network.input_size, False, model.device, 1)
    x = pixels.expand(-1, 3, -1, -1).clone().requires_grad_()
    whole, layer = _with_last_maps(network)
    with torch.inference_mode(False), model.device.autocast():
        activation = LayerGradCam(whole, layer).attribute(x, target=label)
    maps = activation.detach().float()  # (1, 1, H, W)
    found = F.interpolate(maps, (SIDE, SIDE), mode="bilinear")
    return np.asarray(found[0, 0].cpu().numpy(), np.float32), (maps.shape[2], maps.shape[3])


def _with_last_maps(network: SlotNetwork) -> tuple[nn.Module, nn.Module]:
    """The network, and the layer whose outputs are its last feature maps of more than one pixel."""
    if isinstance(network, HostNetwork):
        example = network.mean.new_zeros(1, 3, network.input_size, network.input_size)
        names = last_layers(network.host, example) or network.layers
        return network, network.host.get_submodule(names[-1])  # a slot that follows this layer is seen with its module
    if not isinstance(network, ResNetV2):
        raise TypeError(f"expected a ResNetV2 or a HostNetwork, not {type(network).__name__}")
    whole = _Split(network)
    return whole, whole.maps


class _Split(nn.Module):
    """ResNetV2 with a layer whose output are the maps after the last BN-ReLU."""

    def __init__(self, network: ResNetV2) -> None:
        super().__init__()
        self.network, self.maps = network, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.network.forward_head(self.maps(self.network.forward_features(x)))
