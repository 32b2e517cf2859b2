"""How long a training will take, measured on this machine before its first batch."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import nn

from lhcnet.config import Stage
from lhcnet.runtime import Device


def epoch_seconds(
    network: nn.Module, *, images: int, validation: int, stage: Stage, input_size: int, device: Device
) -> float:
    """Estimate the seconds of an epoch from two batches of blank images; weights, statistics and random numbers stay.

    Args:
        network: the network to train.
        images: number of training images.
        validation: number of validation images; without gradients they take a third of the time.
        stage: settings of the training.
        input_size: S, side of the network's input in pixels.
        device: where to train, and in which precision.

    Returns:
        the estimate. Augmentation is not part of it.
    """
    device.move(network)
    was_training = network.training
    network.eval()  # no dropout, and the statistics of BatchNorm do not move
    batch = min(images, stage.batch_size)
    blank = torch.zeros(batch, 3, input_size, input_size, device=device.torch)
    target = torch.zeros(batch, dtype=torch.int64, device=device.torch)
    seconds = 0.0
    for _ in range(2):  # the first one also allocates memory and chooses kernels
        start = time.perf_counter()
        with device.autocast():
            logits = network(blank)
        F.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]
        if device.torch.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    network.zero_grad(set_to_none=True)
    network.train(was_training)
    return seconds / batch * (images + validation / 3)
