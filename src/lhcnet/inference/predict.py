"""One prediction function: plain inference is the list of views with one entry, TTA the list with sixty."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lhcnet.data.transforms import upscale
from lhcnet.inference.tta import View, render
from lhcnet.runtime import Device


def batches(
    images: NDArray[np.uint8], input_size: int, truncate: bool, device: Device, batch_size: int
) -> Iterator[tuple[slice, Tensor]]:
    """Images (N, 48, 48) in order: which rows, and their pixels (B, 1, S, S) on the device."""
    for start in range(0, len(images), batch_size):
        rows = slice(start, min(start + batch_size, len(images)))
        pixels = torch.from_numpy(np.array(images[rows])).to(device.torch)
        yield rows, upscale(pixels, input_size, truncate=truncate)


def _logits(network: nn.Module, grey: Tensor, device: Device) -> Tensor:
    """(B, 1, S, S) -> (B, classes) float32."""
    with device.autocast():
        logits: Tensor = network(grey.expand(-1, 3, -1, -1))
    return logits.float()


@torch.inference_mode()
def predict(
    network: nn.Module,
    images: NDArray[np.uint8],
    views: Sequence[View],
    *,
    input_size: int,
    device: Device,
    batch_size: int = 32,
    truncate: bool = False,
) -> NDArray[np.float32]:
    """Class probabilities: the weighted mean over the views (section 4.1).

    Args:
        images: (N, 48, 48) uint8.
        views: what is shown of each image, with weights.
        input_size: side of the network's input in pixels.
        truncate: floor after resizing, as the paper's stored training images; validation and test keep fractions.

    Returns:
        (N, 7) float32, rows sum to 1.
    """
    network.eval()
    total = sum(view.weight for view in views)
    out = np.empty((len(images), 0), np.float32)
    for rows, grey in batches(images, input_size, truncate, device, batch_size):
        mean = torch.zeros((), device=device.torch)
        for view in views:
            mean = mean + _logits(network, render(grey, view), device).softmax(1) * (view.weight / total)
        if not out.shape[1]:
            out = np.empty((len(images), mean.shape[1]), np.float32)
        out[rows] = mean.cpu().numpy()
    return out


@torch.inference_mode()
def loss_and_accuracy(
    network: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    input_size: int,
    device: Device,
    batch_size: int = 32,
    truncate: bool = False,
    between_batches: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (0..1) of the final weights in evaluation mode, no augmentation."""
    network.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device.torch)
    hits = torch.zeros((), dtype=torch.int64, device=device.torch)
    for rows, grey in batches(images, input_size, truncate, device, batch_size):
        logits = _logits(network, grey, device)
        target = torch.from_numpy(labels[rows].astype(np.int64)).to(device.torch)
        loss += F.cross_entropy(logits, target, reduction="sum").double()
        hits += (logits.argmax(1) == target).sum()
        between_batches()
    return loss.item() / len(images), hits.item() / len(images)
