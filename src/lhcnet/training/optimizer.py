"""The optimisers of Tables 3-6, as Keras configures them, with momentum and weight decay as options."""

from __future__ import annotations

from inspect import unwrap
from typing import Any, TypeVar

import torch
from torch import nn

from lhcnet.config import Stage

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def _uncompiled(kind: type[Kind]) -> type[Kind]:
    """An optimiser without PyTorch's decorators that keep its methods out of a compiled graph.

    When they first run, they import `torch._dynamo`: a thousand modules, as much work as importing all of torch.
    Nothing is compiled here, and the computation is the same.
    """
    methods = {name: unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad")}
    methods["step"] = torch.no_grad()(unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)


SGD, Adam, AdamW = _uncompiled(torch.optim.SGD), _uncompiled(torch.optim.Adam), _uncompiled(torch.optim.AdamW)

_BIASES = ("bias", "b1")  # last parts of their names; `b1` is that of an LHC module's heads


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of an optimiser: biases and vectors (weights of norms, control weights) do not decay."""
    decayed, others = list[nn.Parameter](), list[nn.Parameter]()
    for name, p in network.named_parameters():
        if p.requires_grad:
            plain = p.ndim <= 1 or name.rpartition(".")[2] in _BIASES
            (others if plain else decayed).append(p)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(network: nn.Module, stage: Stage) -> torch.optim.Optimizer:
    """The optimiser of one training stage, over the network's trainable parameters.

    Adam has Keras' epsilon of 1e-7 (PyTorch's default is 1e-8). Its weight decay is decoupled (AdamW), that of SGD is
    added to the gradient.
    """
    groups: list[Any] = [p for p in network.parameters() if p.requires_grad]
    if stage.weight_decay:
        groups = decay_groups(network, stage.weight_decay)
    if stage.optimizer == "adam" and stage.weight_decay:
        return AdamW(groups, lr=stage.learning_rate, eps=1e-7, fused=True)
    if stage.optimizer == "adam":
        return Adam(groups, lr=stage.learning_rate, eps=1e-7, fused=True)
    return SGD(groups, lr=stage.learning_rate, momentum=stage.momentum, nesterov=stage.nesterov)
