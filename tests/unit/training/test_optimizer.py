"""The optimisers compute what PyTorch's compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lhcnet.config import Stage
from lhcnet.training.optimizer import make_optimizer


@pytest.mark.parametrize(
    ("stage", "theirs"),
    [
        (Stage(momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True)),
        (Stage(optimizer="adam"), lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-7, fused=True)),
    ],
)
def test_the_same_bytes_as_of_pytorch_without_its_compiler(stage: Stage, theirs: Any) -> None:
    trained = []
    for make in (lambda net: make_optimizer(net, stage), lambda net: theirs(net.parameters())):
        torch.manual_seed(0)
        network = torch.nn.Linear(5, 5)
        optimizer = make(network)
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            network(torch.ones(2, 5)).square().sum().backward()
            optimizer.step()
        trained.append(network.weight.detach())
    assert torch.equal(*trained)
    ours = make_optimizer(torch.nn.Linear(5, 5), stage)
    for method in (ours.add_param_group, ours.zero_grad):
        assert not hasattr(method, "__wrapped__")  # PyTorch's would import torch._dynamo, as long as all of torch
