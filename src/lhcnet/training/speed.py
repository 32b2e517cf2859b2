"""How long a training will take, measured on this machine before its first batch."""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F
from torch import nn

from lhcnet.config import Stage
from lhcnet.runtime import Device

_BATCHES, _FEWEST, _LONGEST = 4, 2, 10.0  # seconds


def epoch_seconds(
    network: nn.Module, *, images: int, validation: int, stage: Stage, input_size: int, device: Device
) -> float:
    """Estimate the seconds of an epoch from a few batches of blank images; weights, statistics and random numbers stay.

    The first batches also allocate memory and choose kernels, so the fastest one counts: four batches, or as many as
    begin within ten seconds, two at least.

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
    seconds, begun = math.inf, time.perf_counter()
    for number in range(_BATCHES):
        start = time.perf_counter()
        if number >= _FEWEST and start - begun > _LONGEST:
            break
        with device.autocast():
            logits = network(blank)
        F.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]
        if device.torch.type == "cuda":
            torch.cuda.synchronize()
        seconds = min(seconds, time.perf_counter() - start)
    network.zero_grad(set_to_none=True)
    network.train(was_training)
    return seconds / batch * (images + validation / 3)
