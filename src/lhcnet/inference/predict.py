"""Prediction: class probabilities as the weighted mean over views, and loss and accuracy without views."""

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
    """Images in batches, resized and on the device.

    Args:
        images: (N, 48, 48) uint8.
        input_size: S, side of the network's input in pixels.
        truncate: floor after resizing, as in `lhcnet.data.transforms.upscale`.
        device: where the batches go.
        batch_size: number of images in a batch; the last batch may be smaller.

    Yields:
        The slice of `images`, and the batch (B, 1, S, S) float32 with values 0..255.
    """
    for start in range(0, len(images), batch_size):
        rows = slice(start, min(start + batch_size, len(images)))
        pixels = torch.from_numpy(np.array(images[rows])).to(device.torch)
        yield rows, upscale(pixels, input_size, truncate=truncate)


def _logits(network: nn.Module, grey: Tensor, device: Device) -> Tensor:
    """Grey images (B, 1, S, S) to logits (B, classes) float32."""
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
    """Class probabilities: the weighted mean of the probabilities of several views of each image (section 4.1).

    Args:
        network: maps images (B, 3, S, S) with values 0..255 to logits (B, classes); put into evaluation mode.
        images: (N, 48, 48) uint8.
        views: the views and their weights: `lhcnet.inference.tta.plain_views` for plain inference,
            `lhcnet.inference.tta.tta_views` for test-time augmentation.
        input_size: S, side of the network's input in pixels.
        device: where the network is, and the precision of the forward pass.
        batch_size: number of images in a batch.
        truncate: floor after resizing, as for the paper's training images; validation and test images are not
            truncated.

    Returns:
        Probabilities (N, classes) float32; each row sums to 1.

    Raises:
        FloatingPointError: the network's outputs are not finite, so they are no probabilities.
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
    _require_finite(out)
    return out


@torch.inference_mode()
def predict_each(
    network: nn.Module,
    images: NDArray[np.uint8],
    views: Sequence[View],
    *,
    input_size: int,
    device: Device,
    batch_size: int = 32,
) -> NDArray[np.float32]:
    """Class probabilities of each view by itself; `predict` has their mean.

    Args:
        network, images, views, input_size, device, batch_size: as in `predict`.

    Returns:
        Probabilities (V, N, classes) float32 of V views.

    Raises:
        FloatingPointError: as `predict`.
    """
    network.eval()
    parts = []
    for _, grey in batches(images, input_size, False, device, batch_size):
        found = [_logits(network, render(grey, view), device).softmax(1).cpu().numpy() for view in views]
        parts.append(np.stack(found))
    out: NDArray[np.float32] = np.concatenate(parts, axis=1)
    _require_finite(out.swapaxes(0, 1))
    return out


def _require_finite(p: NDArray[np.float32]) -> None:
    """Raise FloatingPointError if probabilities (N, ...) are not finite."""
    if broken := int((~np.isfinite(p.reshape(len(p), -1))).any(axis=1).sum()):
        raise FloatingPointError(f"the network's outputs are not finite for {broken} of {len(p)} images")


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
    """Mean cross-entropy and accuracy in evaluation mode, without augmentation.

    Args:
        network, images, input_size, device, batch_size, truncate: as in `predict`.
        labels: (N,) uint8.
        between_batches: called after each batch.

    Returns:
        Cross-entropy in nats, accuracy from 0 to 1.
    """
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
