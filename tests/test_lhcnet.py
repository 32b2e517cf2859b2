"""LHC-Net, ResNet34v2 and LHC-NetC against the reference implementation, and how they are put together."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_weights import (
    GOLDEN,
    TABLE_2,
    Arrays,
    below,
    dense,
    drawn,
    fixture,
    lhc_state,
    nchw,
    network_state,
)
from torch import Tensor, nn

from lhcnet.models.lhc import LHC
from lhcnet.models.lhcnet import ResidualLHC, add_control, build, count_parameters, insert_modules
from lhcnet.models.resnetv2 import ResNetV2

COUNTS = json.loads((GOLDEN / "lhcnet_param_counts.json").read_text())
SMALL = {"input_size": 64, "depths": (1, 1, 1, 1), "widths": (8, 8, 12, 16), "head": (16,)}
ROWS = [
    {"heads": 8, "d": 4},
    {"heads": 4, "d": 6},
    {"heads": 2, "d": 3},
    {"heads": 4, "d": 2},
    {"heads": 1, "d": 5},
]


def small(**changes: object) -> ResNetV2:
    return build(**(SMALL | {"seed": 0} | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def weights() -> Arrays:
    return drawn("lhcnet", "net/")


def test_parameter_counts() -> None:
    plain = build(input_size=224, seed=0)
    assert count_parameters(plain) == COUNTS["plain_total"] == 27_606_224
    network = insert_modules(plain, TABLE_2, 0)
    assert count_parameters(network) == COUNTS["total"] == 32_411_668
    assert sum(p.numel() for p in network.parameters()) == COUNTS["trainable"]
    assert [count_parameters(slot) for slot in network.attention] == list(COUNTS["per_lhc"].values())
    assert round(100 * COUNTS["lhc_sum"] / count_parameters(network), 1) == 14.8  # Table A2
    assert count_parameters(add_control(network)) == COUNTS["lhcnetc_total"]


def recorded(network: ResNetV2, x: Tensor) -> dict[str, Tensor]:
    """Activations by the reference's names: conv1, conv2_1, ..., conv5_3, after the module if there is one."""
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
    modules = None if run == "plain" else TABLE_2
    network = build(input_size=224, modules=modules, seed=0)
    network.load_state_dict(network_state(weights, modules=modules is not None))
    if run == "ctrlA":
        add_control(network)
        assert [slot.w.item() for slot in network.attention] == golden["w"].tolist()  # type: ignore[operator, union-attr]
    network.eval().to(memory_format=memory)
    grey = torch.from_numpy(everything["input_u8"])[:, None].float()
    ours = recorded(network, grey.expand(-1, 3, -1, -1))

    torch.testing.assert_close(ours["logits"], torch.from_numpy(golden["logits"]), rtol=0, atol=5e-5)
    torch.testing.assert_close(
        ours["logits"].softmax(1), torch.from_numpy(golden["probs"]), rtol=0, atol=1e-5
    )
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
        torch.testing.assert_close(
            a[:, ::c, ::s, ::s], nchw(golden[f"{block}/slice"]), rtol=0, atol=2e-4, msg=block
        )
        mean, std = a.mean(dim=(2, 3)), a.std(dim=(2, 3), correction=0)
        torch.testing.assert_close(mean, torch.from_numpy(golden[f"{block}/mean"]), rtol=0, atol=1e-4)
        torch.testing.assert_close(std, torch.from_numpy(golden[f"{block}/std"]), rtol=0, atol=1e-4)


class OneModule(nn.Module):
    """The reference's training check: one module, flattened in its layout (h, w, c), one dense layer."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        self.slot = ResidualLHC(LHC(8, 6, 6, heads=4, d=5))
        self.fc = nn.Linear(288, 7)
        self.load_state_dict(one_module_state(arrays))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.slot(x).permute(0, 2, 3, 1).flatten(1))
        return y


def one_module_state(arrays: Arrays) -> dict[str, Tensor]:
    state = {f"slot.lhc.{name}": tensor for name, tensor in lhc_state(below(arrays, "LHC1/")).items()}
    return state | {"fc.weight": dense(arrays["fc/kernel"]), "fc.bias": torch.from_numpy(arrays["fc/bias"])}


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
            gradients = one_module_state(below(golden, "grad/"))
            for name, parameter in model.named_parameters():
                atol = 1e-4 * gradients[name].abs().max().item()
                torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=atol, msg=name)
        step.step()
    np.testing.assert_allclose(losses, golden[f"{optimiser}_losses"], rtol=1e-5)
    np.testing.assert_allclose(
        F.cross_entropy(model(x), labels).item(), golden[f"{optimiser}_loss_after"], rtol=1e-5
    )
    after = one_module_state(below(golden, f"{optimiser}_after/"))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, after[name], rtol=0, atol=tolerance, msg=name)


def test_insertion_keeps_the_backbone() -> None:
    plain = small().eval()
    plain.bn.running_mean += 1  # type: ignore[operator]
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    network = insert_modules(plain, ROWS, 3)
    assert network is plain
    assert not any(slot.training for slot in network.attention)
    after = network.state_dict()
    assert set(before) < set(after)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    assert {name.split(".")[0] for name in set(after) - set(before)} == {"attention"}
    with pytest.raises(ValueError, match="has attention modules already"):
        insert_modules(network, ROWS, 3)


def test_inserted_modules_are_added_to_their_input() -> None:
    network = small(modules=ROWS)
    for slot in network.attention:
        torch.nn.init.zeros_(slot.lhc.conv.weight)  # type: ignore[union-attr, arg-type]
    x = 255 * torch.rand(2, 3, 64, 64)
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(x), small().eval()(x))


def test_insertion_follows_the_network_it_goes_into() -> None:
    network = insert_modules(small().double(), ROWS, 0)
    assert {p.dtype for p in network.parameters()} == {torch.float64}
    assert network(torch.rand(2, 3, 64, 64, dtype=torch.float64)).dtype == torch.float64


def test_control_weighs_each_module() -> None:
    network = add_control(small(modules=ROWS))
    x = torch.randn(2, 8, 16, 16)
    slot = network.attention[3]
    assert isinstance(slot, ResidualLHC)
    z = torch.randn(2, 12, 4, 4)
    torch.testing.assert_close(slot(z), z + (1 + np.tanh(-1)) * slot.lhc(z))
    first = network.attention[0]
    assert isinstance(first, ResidualLHC)
    torch.testing.assert_close(first(x), x + first.lhc(x))  # w = 0 is the network it came from
    assert sum(p.numel() for n, p in network.named_parameters() if n.endswith(".w")) == 5
    assert first(x.bfloat16().float()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert first(x.bfloat16()).dtype == torch.bfloat16


def test_state_goes_from_one_network_to_another() -> None:
    source, target = small(modules=ROWS, control=True, seed=1), small(modules=ROWS, control=True, seed=2)
    target.load_state_dict(source.state_dict())
    x = 255 * torch.rand(2, 3, 64, 64)
    assert torch.equal(source.eval()(x), target.eval()(x))


def test_equal_seeds_give_equal_bytes() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, again, other = (small(modules=ROWS, seed=seed).state_dict() for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is not touched
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["stem_conv.weight"], other["stem_conv.weight"])
    assert not torch.equal(first["attention.2.lhc.w1"], other["attention.2.lhc.w1"])
    assert all(tensor.isfinite().all() for tensor in first.values())


def test_parts_draw_from_streams_of_their_own() -> None:
    plain, full = small(seed=4).state_dict(), small(modules=ROWS, seed=4).state_dict()
    assert all(torch.equal(tensor, full[name]) for name, tensor in plain.items())
    inserted = insert_modules(small(seed=9), ROWS, 4).state_dict()
    changed = insert_modules(small(seed=9), [{"heads": 1, "d": 9}, *ROWS[1:]], 4).state_dict()
    for name, tensor in full.items():
        if name.startswith("attention."):
            assert torch.equal(inserted[name], tensor)
        if name.startswith("attention.1."):
            assert torch.equal(changed[name], tensor)


def test_without_a_seed_the_global_generator_draws() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(small(modules=ROWS, seed=None).state_dict()["attention.0.lhc.w1"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:4], r"needs 5 modules \(LHC1..LHC5\), not 4"),
        ([*ROWS[:2], {"heads": 7, "d": 3}, *ROWS[3:]], r"LHC3: heads=7 does not divide H\*W = 8\*8 = 64"),
        ([*ROWS[:4], {"heads": 1, "d": 0}], "LHC5: d=0 must be at least 1"),
        ([{"heads": 8}, *ROWS[1:]], r"LHC1: unknown settings \[\], missing settings \['d'\]"),
        ([{"heads": 8, "d": 2, "dim": 3}, *ROWS[1:]], r"LHC1: unknown settings \['dim'\]"),
        ([{"heads": 8, "d": 2.5}, *ROWS[1:]], r"LHC1: d=2.5 must be a whole number"),
    ],
)
def test_impossible_modules_name_the_place(rows: list[dict[str, float]], message: str) -> None:
    network = small()
    with pytest.raises(ValueError, match=message):
        insert_modules(network, rows, 0)
    assert all(isinstance(slot, nn.Identity) for slot in network.attention)


def test_control_needs_modules_and_is_added_once() -> None:
    with pytest.raises(ValueError, match="control weights need 5 LHC modules, the network has 0"):
        small(control=True)
    with pytest.raises(ValueError, match="has its control weights already"):
        add_control(small(modules=ROWS, control=True))


def test_training_reaches_every_parameter() -> None:
    network = small(modules=[row | {"pool": 2, "kernel": 2, "g": 0.5} for row in ROWS], control=True)
    F.cross_entropy(network(255 * torch.rand(4, 3, 64, 64)), torch.tensor([0, 1, 2, 3])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
