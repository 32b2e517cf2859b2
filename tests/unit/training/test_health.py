"""Dead LHC modules and exploding gradients are detected, and such models are rejected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from lhcnet import steps
from lhcnet.config import Config, Stage
from lhcnet.data.drawn_faces import draw
from lhcnet.models.lhcnet import LHCNet
from lhcnet.models.residual import ResidualLHC
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.protocol.selection import apply_loss_rule
from lhcnet.runtime import Device
from lhcnet.saved import open_model
from lhcnet.training import loop as training
from lhcnet.training.health import attention_statistics
from lhcnet.training.loop import DataSplit, fit

CPU = Device(torch.device("cpu"), "float32")
FACES = draw(200, seed=0)


def network() -> ResNetV2:
    modules = [{"heads": 1, "d": 4}] * 5
    sizes = {"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "head": (16,), "dropout": 0.0, "bn_momentum": 0.1}
    net = LHCNet(modules, input_size=32, seed=1, **sizes)
    net.bn_data.running_mean, net.bn_data.running_var = torch.full((3,), 128.0), torch.full((3,), 64.0**2)
    return net


def lhc(net: ResNetV2, slot: int) -> ResidualLHC:
    module = net.attention[slot]
    assert isinstance(module, ResidualLHC)
    return module


def test_entropy_is_the_mean_entropy_of_the_attention_rows() -> None:
    net = network()
    found = attention_statistics(net, FACES.images, input_size=32, device=CPU)
    assert list(found) == ["LHC1", "LHC2", "LHC3", "LHC4", "LHC5"]
    with torch.no_grad():
        kept: list[torch.Tensor] = []
        hook = lhc(net, 0).lhc.register_forward_pre_hook(lambda _, x: kept.append(x[0]))
        attention_statistics(net, FACES.images, input_size=32, device=CPU)
        hook.remove()
        W = lhc(net, 0).lhc.intermediates(kept[0]).attention.double().numpy()
    expected = entropy(W, axis=-1).mean() / np.log(W.shape[-1])
    assert found["LHC1"].entropy == pytest.approx(expected, abs=1e-5)
    assert [statistics.dead for statistics in found.values()] == [""] * 5


@pytest.mark.parametrize(("w", "word"), [(0.0, "uniform"), (1e4, "one-hot")])
def test_a_dead_module_is_detected(w: float, word: str) -> None:
    """Queries and keys of zero give uniform attention, very large ones give one-hot attention."""
    net = network()
    with torch.no_grad():
        lhc(net, 2).lhc.w1.mul_(w)
        lhc(net, 2).lhc.b1.mul_(w)
    found = attention_statistics(net, FACES.images, input_size=32, device=CPU)
    assert found["LHC3"].dead == word
    assert found["LHC1"].dead == ""
    assert found["LHC3"].entropy == pytest.approx(float(word == "uniform"), abs=1e-3)


def test_a_model_with_a_dead_module_is_rejected(
    stores: tuple[Path, Path], tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = {"context": steps.RunContext(compute=tiny.compute), "seed": 0}
    stages = tiny.stages
    start = steps.train_backbone(stores[0], tmp_path / "1", stage=stages[0], network=tiny.network, **common)
    for number in (2, 3):
        out = tmp_path / str(number)
        start = steps.train_stage(stores[0], start.path, out, stage_number=number, stage=stages[number - 1], **common)
    begun = steps.insert_lhc(start.path, tmp_path / "b", variant=tiny.variant("wide"), set_="B", seed=0)

    def fit_and_kill_a_module(network: ResNetV2, *args: object, **settings: object) -> training.FitResult:
        result = fit(network, *args, **settings)  # type: ignore[arg-type]
        with torch.no_grad():
            lhc(network, 4).lhc.w1.zero_()
            lhc(network, 4).lhc.b1.zero_()
        return result

    monkeypatch.setattr(training, "fit", fit_and_kill_a_module)
    saved = steps.train_stage(stores[0], begun.path, tmp_path / "out", stage_number=4, stage=tiny.stage4, **common)
    assert open_model(saved.path).metrics.status == "dead"
    kept, reason = apply_loss_rule(saved.record(), 1e9, 1.1)
    assert not kept
    assert reason == "dead: attention of LHC5 is uniform everywhere"
    assert saved.metrics.attention_entropy["LHC5"] == pytest.approx(1)


def test_exploding_gradients_stop_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = [DataSplit(FACES.images[FACES.splits == s], FACES.labels[FACES.splits == s]) for s in (0, 1)]
    stage = Stage(batch_size=16, epochs=2, learning_rate=0.01)
    good = fit(network(), *splits, stage, seed=0, input_size=32, device=CPU)
    norms = [row.grad_norm for row in good.history]
    assert norms[0] is None
    largest = norms[1]
    assert largest is not None
    assert 0 < largest < training.MAX_GRADIENT_NORM
    monkeypatch.setattr(training, "MAX_GRADIENT_NORM", largest / 2)
    bad = fit(network(), *splits, stage, seed=0, input_size=32, device=CPU)
    assert bad.status == "diverged"
    assert bad.reason.startswith("gradient norm is not below")
    assert bad.best_epoch == 0
