"""The forecast of a training's time: what is measured, and what the measuring leaves as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lhcnet.config import Stage
from lhcnet.runtime import Device
from lhcnet.training import speed
from lhcnet.training.forecast import Forecast
from lhcnet.training.loop import DataSplit
from lhcnet.training.speed import Trial, try_batches

CPU = Device(torch.device("cpu"), "float32")
SIZED = Stage(epochs=5, patience=None, sizes=((4, 32), (1, 64)), batch_size=4)


def network() -> nn.Module:
    torch.manual_seed(0)
    pool = nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), pool, nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 7))


def tried(model: nn.Module, images: int = 8, stage: Stage | None = None, size: int = 8) -> Trial:
    split = DataSplit(np.resize(np.arange(251, dtype=np.uint8), (images, 48, 48)), np.zeros(images, np.uint8))
    stage = stage or Stage(batch_size=4, momentum=0.9, ema=0.9)
    return try_batches(model, split, stage, validation=0, input_size=size, device=CPU)


def test_weights_statistics_gradients_and_random_numbers_stay() -> None:
    model, expected = network(), network()
    drawn = torch.get_rng_state()
    assert tried(model).seconds[8] > 0
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_what_is_measured_trains_at_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    train_epoch = speed.train_epoch

    def watched(copy: nn.Module, *arguments: object, **settings: object) -> None:
        before = copy[0].weight.detach().clone()
        train_epoch(copy, *arguments, **settings)
        seen.append((settings["input_size"], copy.training, not torch.equal(copy[0].weight, before)))

    monkeypatch.setattr(speed, "train_epoch", watched)
    assert set(tried(network(), stage=SIZED, size=64).seconds) == {32, 64}
    assert set(seen) == {(32, True, True), (64, True, True)}


def test_it_grows_with_the_images() -> None:
    assert tried(network(), 20_000).seconds[8] > tried(network(), 4).seconds[8]


def test_memory_is_that_of_the_process() -> None:
    assert 50 << 20 < tried(network()).memory < 1 << 40


def test_time_left_follows_what_the_epochs_took() -> None:
    now = [0.0]
    forecast = Forecast(SIZED, 64, {32: 10.0, 64: 40.0}, clock=lambda: now[0])
    assert forecast.total == 80
    forecast.begin(2)  # two epochs were done before an interruption
    assert forecast.left(2) == 60
    assert forecast.in_words(2) == "about 0:01:00 left"
    now[0] = 20.0  # twice as long as expected; the measured time counts nearly alone
    assert forecast.left(3) == pytest.approx(50 * 21 / 11)
    assert forecast.left(5) == 0
    early = Forecast(Stage(epochs=3, patience=1), 16, {16: 10.0}, clock=lambda: now[0])
    assert early.in_words(0) == "at most 0:00:30 left"


def test_small_batches_are_measured_for_a_hundredth_of_a_long_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now, batches = [0.0], [0]

    def train_epoch(*_: object, **__: object) -> None:
        batches[0] += 1
        now[0] += 1.0 if batches[0] < 10 else 0.25  # another process competes at the beginning

    monkeypatch.setattr(speed, "train_epoch", train_epoch)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    stage = Stage(epochs=1, batch_size=4)
    assert tried(network(), images=400, stage=stage).seconds[8] == 100.0  # three batches: a hundredth is 1 s
    assert batches[0] == 3
    now[0], batches[0] = 0.0, 5
    assert tried(network(), images=2000, stage=stage).seconds[8] == 0.25 * 500
    assert now[0] == 4.25  # four slow batches are not yet a hundredth of what they announce
