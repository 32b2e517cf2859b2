"""Exponential moving average of a network: its weights, and the statistics of its BatchNorm layers."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of the network that `update_parameters` moves towards it after each batch.

    It starts as the network after the first batch; then average = decay * average + (1 - decay) * network. Tensors of
    whole numbers (counters) are copied. Its `state_dict` is its complete state.
    """
    return AveragedModel(network, multi_avg_fn=partial(_update, decay), use_buffers=True)


@torch.no_grad()
def _update(
    decay: float,
    averages: tuple[Tensor, ...] | list[Tensor],
    current: tuple[Tensor, ...] | list[Tensor],
    _: Tensor | int,
) -> None:
    for average, value in zip(averages, current, strict=True):
        if average.is_floating_point():
            average.lerp_(value, 1 - decay)
        else:
            average.copy_(value)
