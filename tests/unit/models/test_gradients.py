"""Gradients of whole networks: against finite differences, and against the reference's gradients of one module."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.golden_weights import GOLDEN, drawn, fixture, lhc_state, nchw
from torch import Tensor, nn

from lhcnet.models.lhcnet import LHCNet
from lhcnet.models.residual import ResidualLHC
from lhcnet.models.resnetv2 import ResNetV2

LEARNT_HEADS = [3, 8, 5, 2, 2]  # they need not divide the map, and may share its one pixel
NETWORKS = {  # maps are 8x8, 8x8, 4x4, 2x2 and 1x1: every option where it has something to cut or to weigh
    "plain": None,
    "LHC-Net": {},
    "LHC-NetC": {"control": True},
    "pool 2, kernel 2, g 0.5": {"pool": 2, "kernel": 2, "g": 0.5},
    "vertical": {"split": "vertical"},
    "grid": {"split": "grid"},
    "learnt": {
        "split": "learnt",
        "heads": [3, 8, 5, 2, 2],
    },  # 2 heads on one pixel: even there the masks get a gradient
    "norm before": {"norm": "before"},
    "norm after": {"norm": "after"},
    "second convolution": {"second_conv": True},
    "all of it": {"split": "learnt", "heads": LEARNT_HEADS, "norm": "both", "second_conv": True, "control": True},
}


def network(name: str) -> ResNetV2:
    """Small, in double precision, with weights away from their start: there biases and w are zero."""
    options = NETWORKS[name]
    sizes = {"input_size": 32, "depths": (1, 1, 1, 1), "widths": (4, 4, 5, 6), "head": (8,), "seed": 1}
    if options is None:
        made = ResNetV2(**sizes).double()
    else:
        options = dict(options)
        control = options.pop("control", False)
        heads = options.pop("heads", [8, 4, 4, 2, 1])
        rows = [{"heads": n, "d": d} | options for n, d in zip(heads, (4, 5, 3, 2, 3), strict=True)]
        made = LHCNet(rows, control=control, **sizes).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        for norm_name, tensor in made.named_buffers():
            if norm_name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
    return made


def measured(f: Callable[[], Tensor], tensors: list[Tensor], directions: list[Tensor], step: float) -> float:
    """Central difference of f with all the tensors moved at once, each along its direction."""
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            for tensor, direction in zip(tensors, directions, strict=True):
                tensor += sign * step * direction
            values.append(f().item())
            for tensor, direction in zip(tensors, directions, strict=True):
                tensor -= sign * step * direction
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_moves_as_its_gradient_says(name: str, training: bool) -> None:
    """Through batch statistics and dropout: the images, the backbone, and each kind of parameter of the modules."""
    model = network(name).train(training)
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.tensor([0, 2, 6])
    groups: dict[str, list[Tensor]] = {"images": [images]}
    for key, parameter in model.named_parameters():
        kind = key.split(".", 2)[2] if key.startswith("attention.") else "backbone"
        groups.setdefault(kind, []).append(parameter)

    def loss() -> Tensor:
        torch.manual_seed(4)  # the same dropout each time
        return F.cross_entropy(model(images), labels)

    loss().backward()
    for kind, tensors in groups.items():
        assert all(tensor.grad is not None and tensor.grad.any() for tensor in tensors), kind
        directions = [torch.randn(t.shape, dtype=torch.float64, generator=generator) for t in tensors]
        exact = sum((t.grad * direction).sum().item() for t, direction in zip(tensors, directions, strict=True))
        expected = pytest.approx(exact, rel=1e-5, abs=1e-7)
        # the second step is for a kink of a ReLU or a max-pool between the points of the first
        assert any(measured(loss, tensors, directions, step) == expected for step in (1e-6, 1e-7)), kind


CONFIGS = json.loads((GOLDEN / "lhc_module_configs.json").read_text())


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("v_")])
def test_a_module_in_a_network_has_the_references_gradients(name: str, slot: int) -> None:
    """At its slot the module is given the fixture's x and the fixture's R arrives as gradient of its output.

    Then its own gradients, and what it passes on, must be the fixture's: nothing else in the network may reach them.
    """
    c, golden, tensors = CONFIGS[name], fixture(f"lhc_module_{name}"), drawn("lhc_module", f"lhc_module/{name}/")
    rows: list[dict[str, float]] = [{"heads": 1, "d": 2}] * 5
    rows[slot] = {key: c[key] for key in ("heads", "d", "pool", "g", "kernel")}
    widths = (c["C"], 4, 4, 4)  # of the first two slots
    model = LHCNet(rows, input_size=4 * c["H"], depths=(1, 1, 1, 1), widths=widths, head=(), seed=1)
    module = model.attention[slot]
    assert isinstance(module, ResidualLHC)
    module.lhc.load_state_dict(lhc_state(module.lhc, tensors))

    x, R = nchw(tensors["x"]).requires_grad_(), nchw(tensors["R"])
    module.register_forward_pre_hook(lambda _slot, _args: (x,))
    module.register_forward_hook(lambda _slot, _args, y: y.register_hook(lambda _gradient: R) and None)
    model(torch.rand(2, 3, 4 * c["H"], 4 * c["H"])).sum().backward()

    expected = lhc_state(module.lhc, {k.removeprefix("grad/"): a for k, a in golden.items() if k.startswith("grad/")})
    expected["x"] = nchw(golden["grad/x"])
    for key, tensor in {"x": x, **dict(module.lhc.named_parameters())}.items():
        assert tensor.grad is not None
        atol = 1e-4 * expected[key].abs().max().item()
        torch.testing.assert_close(tensor.grad, expected[key], rtol=0, atol=atol, msg=key)


@pytest.mark.parametrize("name", ["LHC-Net", "LHC-NetC"])
def test_the_chain_rule_holds_at_every_slot(name: str) -> None:
    """From the gradient G that arrives at a slot: w gets its closed form, the module (1 + tanh w) G through LHC."""
    model = network(name).train()
    inputs: dict[int, Tensor] = {}
    arriving: dict[int, Tensor] = {}

    def watch(slot: int) -> None:
        def before(_slot: nn.Module, args: tuple[Tensor]) -> None:
            inputs[slot] = args[0]
            args[0].retain_grad()

        def after(_slot: nn.Module, _args: object, y: Tensor) -> None:
            y.register_hook(lambda gradient: arriving.__setitem__(slot, gradient))

        model.attention[slot].register_forward_pre_hook(before)
        model.attention[slot].register_forward_hook(after)

    for slot in range(5):
        watch(slot)
    F.cross_entropy(model(torch.rand(4, 3, 32, 32, dtype=torch.float64)), torch.tensor([0, 1, 2, 6])).backward()

    for slot, module in enumerate(model.attention):
        assert isinstance(module, ResidualLHC)
        a, G = inputs[slot].detach().requires_grad_(), arriving[slot]
        factor = torch.tensor(1.0).double() if module.w is None else 1 + module.w.detach().tanh()
        y = module.lhc(a)
        through_a, *through_weights = torch.autograd.grad(y, [a, *module.lhc.parameters()], factor * G)
        torch.testing.assert_close(inputs[slot].grad, G + through_a, rtol=1e-9, atol=1e-12)
        for parameter, expected in zip(module.lhc.parameters(), through_weights, strict=True):
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-12)
        if module.w is not None:
            slope = 1 - module.w.detach().tanh() ** 2
            torch.testing.assert_close(module.w.grad, (G * y.detach()).sum() * slope, rtol=1e-9, atol=1e-12)
