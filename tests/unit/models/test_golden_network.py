"""Whole networks and optimiser steps against the reference implementation's numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.golden_weights import TABLE_2, Arrays, below, drawn, fill, fixture, lhc_state, nchw
from torch import Tensor, nn

from lhcnet.models.lhc import LHC
from lhcnet.models.lhcnet import LHCNet, add_control
from lhcnet.models.residual import ResidualLHC
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.weights.keras import from_keras


@pytest.fixture(scope="module")
def weights() -> Arrays:
    return drawn("lhcnet", "net/")


def recorded(network: ResNetV2, x: Tensor) -> dict[str, Tensor]:
    """Activations by the reference's names, conv1, conv2_1, ..., conv5_3, taken after the module if any."""
    out: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, y: out.__setitem__(name, y)

    network.attention[0].register_forward_hook(keep("conv1"))
    for s, stage in enumerate(network.stages):
        for u, unit in enumerate(stage):
            last = u == len(stage) - 1
            (network.attention[s + 1] if last else unit).register_forward_hook(keep(f"conv{s + 2}_{u + 1}"))
    network.hidden[0].register_forward_hook(keep("fc1"))
    network.hidden[1].register_forward_hook(keep("fc2"))
    with torch.no_grad():
        features = network.forward_features(x)
        out["gap"] = features.mean(dim=(2, 3))
        out["logits"] = network.forward_head(features)
    return out


@pytest.mark.parametrize(
    ("run", "memory"),
    [
        ("plain", torch.channels_last),
        ("lhc", torch.channels_last),
        ("lhc", torch.contiguous_format),
        ("ctrlA", torch.channels_last),
    ],
)
def test_network_is_the_reference(run: str, memory: torch.memory_format, weights: Arrays) -> None:
    everything = fixture("lhcnet_forward")
    golden = below(everything, f"{run}/")
    network = ResNetV2() if run == "plain" else LHCNet(TABLE_2)
    fill(network, weights)
    if run == "ctrlA":
        add_control(network)
        assert [slot.w.item() for slot in network.attention] == golden["w"].tolist()
    network.eval().to(memory_format=memory)
    grey = torch.from_numpy(everything["input_u8"])[:, None].float()
    ours = recorded(network, grey.expand(-1, 3, -1, -1))

    torch.testing.assert_close(ours["logits"], torch.from_numpy(golden["logits"]), rtol=0, atol=5e-5)
    torch.testing.assert_close(ours["logits"].softmax(1), torch.from_numpy(golden["probs"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours["gap"], torch.from_numpy(golden["gap"]), rtol=0, atol=5e-5)
    for layer in ("fc1", "fc2"):
        expected = torch.from_numpy(golden[f"{layer}_first64"])
        torch.testing.assert_close(ours[layer][:, :64].relu(), expected, rtol=0, atol=5e-5)
    blocks = sorted({key.split("/")[0] for key in golden if key.endswith("/slice")})
    assert len(blocks) == 17
    for block in blocks:
        a = ours[block]
        with_module = block in ("conv1", "conv2_3", "conv3_4", "conv4_6", "conv5_3")
        s, c = max(1, a.shape[2] // 7), 1 if with_module else max(1, a.shape[1] // 64)
        torch.testing.assert_close(a[:, ::c, ::s, ::s], nchw(golden[f"{block}/slice"]), rtol=0, atol=2e-4, msg=block)
        mean, std = a.mean(dim=(2, 3)), a.std(dim=(2, 3), correction=0)
        torch.testing.assert_close(mean, torch.from_numpy(golden[f"{block}/mean"]), rtol=0, atol=1e-4)
        torch.testing.assert_close(std, torch.from_numpy(golden[f"{block}/std"]), rtol=0, atol=1e-4)


class OneModule(nn.Module):
    """The reference's training check: one module, flattened in its layout (h, w, c), one dense layer."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        self.slot = ResidualLHC(LHC(8, 6, 6, heads=4, d=5))
        self.fc = nn.Linear(288, 7)
        self.load_state_dict(self.state(arrays))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.slot(x).permute(0, 2, 3, 1).flatten(1))
        return y

    def state(self, arrays: Arrays) -> dict[str, Tensor]:
        module = lhc_state(self.slot.lhc, below(arrays, "LHC1/"))
        state = {f"slot.lhc.{name}": tensor for name, tensor in module.items()}
        return state | {"fc.weight": from_keras(arrays["fc/kernel"]), "fc.bias": torch.from_numpy(arrays["fc/bias"])}


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_optimiser_steps_are_the_reference(optimiser: str) -> None:
    golden, start = below(fixture("bn_train_step"), "tiny/"), drawn("bn_train_step", "tiny/")
    model, x, labels = OneModule(start), nchw(start["x"]), torch.from_numpy(golden["labels"])
    if optimiser == "sgd":
        steps, tolerance, step = 1, 1e-6, torch.optim.SGD(model.parameters(), lr=0.01)
    else:
        # Keras adds eps before the bias correction, torch after it: up to 2.9e-5 apart in moves of 3e-4
        steps, tolerance, step = 3, 3e-5, torch.optim.Adam(model.parameters(), lr=1e-4, eps=1e-7)
    losses = []
    for i in range(steps):
        logits = model(x)
        loss = F.cross_entropy(logits, labels)
        losses.append(loss.item())
        step.zero_grad()
        loss.backward()
        if i == 0:
            probabilities = torch.from_numpy(golden["probs_before"])
            torch.testing.assert_close(logits.softmax(1), probabilities, rtol=0, atol=1e-6)
            gradients = model.state(below(golden, "grad/"))
            for name, parameter in model.named_parameters():
                atol = 1e-4 * gradients[name].abs().max().item()
                torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=atol, msg=name)
        step.step()
    np.testing.assert_allclose(losses, golden[f"{optimiser}_losses"], rtol=1e-5)
    np.testing.assert_allclose(F.cross_entropy(model(x), labels).item(), golden[f"{optimiser}_loss_after"], rtol=1e-5)
    after = model.state(below(golden, f"{optimiser}_after/"))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, after[name], rtol=0, atol=tolerance, msg=name)
