"""The optimisers of Tables 3-6, as Keras configures them."""

from __future__ import annotations

import torch
from torch import nn

from lhcnet.config import Stage


def make_optimizer(network: nn.Module, stage: Stage) -> torch.optim.Optimizer:
    """The optimiser of one training stage, over the network's trainable parameters.

    Adam has Keras' epsilon of 1e-7 (PyTorch's default is 1e-8); SGD has no momentum and no weight decay.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    if stage.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=stage.learning_rate, eps=1e-7, fused=True)
    return torch.optim.SGD(parameters, lr=stage.learning_rate)
