"""The estimate of a training's time: nothing of the network changes."""

from __future__ import annotations

import torch
from torch import nn

from lhcnet.config import Stage
from lhcnet.runtime import Device
from lhcnet.training.speed import epoch_seconds

CPU = Device(torch.device("cpu"), "float32")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 7))


def seconds(model: nn.Module, images: int) -> float:
    return epoch_seconds(model, images=images, validation=0, stage=Stage(batch_size=4), input_size=8, device=CPU)


def test_weights_statistics_gradients_and_random_numbers_stay() -> None:
    model, expected = network(), network()
    drawn = torch.get_rng_state()
    assert seconds(model, 8) > 0
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_it_grows_with_the_images() -> None:
    assert seconds(network(), 4_000_000) > seconds(network(), 4)
