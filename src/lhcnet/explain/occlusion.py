"""Occlusion: how far the probability of a class falls when a place is covered, by captum.

Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lhcnet.data.fer2013 import Bytes
from lhcnet.data.transforms import resize
from lhcnet.prediction.network import NetworkModel

PATCH, STRIDE = 12, 4  # pixels of the 48x48 image; 100 places


@torch.inference_mode()
def fall_when_covered(model: NetworkModel, crop: Bytes, label: int) -> NDArray[np.float32]:
    """Mean fall of a probability over the patches that cover a pixel. A patch has the mean grey value of the face.

    Args:
        model: a network.
        crop: the face, (48, 48).
        label: index of the class.

    Returns:
        (48, 48), from -1 to 1. Below zero: the probability rises when the place is covered.
    """
    from captum.attr import Occlusion

    network = model.network.eval()

    def probabilities(grey: Tensor) -> Tensor:
        """(B, 1, 48, 48), values 0..255, to (B, classes)."""
        with model.device.autocast():
            logits: Tensor = network(resize(grey, network.input_size).expand(-1, 3, -1, -1))
        return logits.float().softmax(1)

    image = torch.from_numpy(crop.astype(np.float32)).to(model.device.torch)[None, None]
    found = Occlusion(probabilities).attribute(
        image,
        sliding_window_shapes=(1, PATCH, PATCH),
        strides=(1, STRIDE, STRIDE),
        baselines=float(crop.mean()),
        target=label,
        perturbations_per_eval=model.batch_size,
    )
    return np.asarray(found[0, 0].cpu().numpy(), np.float32)
