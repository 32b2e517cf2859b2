"""The LHC module against the reference implementation's numbers and against the paper's equations."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from support.golden_weights import GOLDEN, TABLE_2, Arrays, drawn, fixture, lhc_state, nchw
from support.naive_lhc import modules, naive
from torch import Tensor

from lhcnet.models.lhc import LHC, LHCIntermediates

CONFIGS = json.loads((GOLDEN / "lhc_module_configs.json").read_text())
SMALL = [name for name in CONFIGS if name.startswith("v_")]


def golden_module(name: str) -> tuple[LHC, Arrays, Arrays]:
    """(module with the golden weights, its fixture, the drawn tensors)."""
    c, tensors = CONFIGS[name], drawn("lhc_module", f"lhc_module/{name}/")
    lhc = LHC(c["C"], c["H"], c["H"], heads=c["heads"], d=c["d"], pool=c["pool"], g=c["g"], kernel=c["kernel"])
    lhc.load_state_dict(lhc_state(lhc, tensors))
    return lhc, fixture(f"lhc_module_{name}"), tensors


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_is_the_reference(name: str) -> None:
    lhc, golden, tensors = golden_module(name)
    x = nchw(tensors["x"])
    with torch.no_grad():
        y = x + lhc(x)
    torch.testing.assert_close(y, nchw(golden["y"]), rtol=0, atol=5e-6 if name in SMALL else 1e-4)
    assert sum(p.numel() for p in lhc.parameters()) == CONFIGS[name]["stats"]["param_count"]


@pytest.mark.parametrize("name", CONFIGS)
def test_intermediates_are_the_reference(name: str) -> None:
    lhc, golden, tensors = golden_module(name)
    with torch.no_grad():
        mid = lhc.intermediates(nchw(tensors["x"]))
    expected = {key.removeprefix("mid/"): a for key, a in golden.items() if key.startswith("mid/")}
    ours = {
        "q": mid.q,
        "k": mid.k,
        "v": mid.v,
        "exponent": mid.exponent,
        "T": mid.divisor,  # the reference calls d ** (g + T) by this name; in the paper T is the sigmoid (13)
        "norm_scores": mid.norm_scores,
        "attention": mid.attention,
        "T_first": mid.divisor[:1],
        "attention_first_rows": mid.attention[:1, :, :8],
    }
    assert len(expected) == (7 if name in SMALL else 2)
    for key, array in expected.items():
        # relative to the tensor's largest value; softmax magnifies the rounding of scores in the hundreds
        scale = 2e-6 if name in SMALL else 1e-4
        atol = scale * float(np.abs(array).max())
        torch.testing.assert_close(ours[key], torch.from_numpy(array), rtol=0, atol=atol, msg=key)


@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_the_reference(name: str) -> None:
    lhc, golden, tensors = golden_module(name)
    x = nchw(tensors["x"]).requires_grad_()
    loss = ((x + lhc(x)) * nchw(tensors["R"])).sum()
    loss.backward()
    torch.testing.assert_close(loss.item(), float(golden["loss"]), rtol=1e-5, atol=1e-4)
    expected = lhc_state(lhc, {k.removeprefix("grad/"): a for k, a in golden.items() if k.startswith("grad/")})
    expected["x"] = nchw(golden["grad/x"])
    for key, tensor in {"x": x, **dict(lhc.named_parameters())}.items():
        assert tensor.grad is not None
        atol = 1e-4 * expected[key].abs().max().item()
        torch.testing.assert_close(tensor.grad, expected[key], rtol=0, atol=atol, msg=key)


@settings(max_examples=40, deadline=None)
@given(modules())
def test_forward_is_the_equations(lhc: LHC) -> None:
    x = 3 * torch.randn(2, lhc.channels, lhc.height, lhc.width, dtype=torch.float64)
    expected = torch.from_numpy(np.stack([naive(lhc, image) for image in x.numpy()]))
    with torch.no_grad():
        torch.testing.assert_close(lhc(x), expected, rtol=1e-10, atol=1e-11)
        # as it is trained: another memory layout, another precision
        torch.testing.assert_close(lhc(x.to(memory_format=torch.channels_last)), expected, rtol=1e-10, atol=1e-11)
        narrow = lhc.float()(x.float())
    torch.testing.assert_close(narrow.double(), expected, rtol=1e-3, atol=1e-3)


def module(**changes: object) -> LHC:
    torch.manual_seed(0)
    arguments = {"channels": 6, "height": 4, "width": 6, "heads": 4, "d": 5} | changes
    return LHC(**arguments)


def merged(mid: LHCIntermediates, x: Tensor) -> Tensor:
    return mid.A.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("settings_", [{}, {"d": 6}, {"heads": 1, "pool": 2}, {"g": 0.0, "kernel": 4}])
def test_forward_agrees_with_intermediates(settings_: dict[str, object]) -> None:
    """d = 6 is the length of a slice here: then a fused attention kernel may be chosen."""
    lhc = module(**settings_)
    x = torch.randn(3, 6, 4, 6)
    with torch.no_grad():
        mid = lhc.intermediates(x)
        torch.testing.assert_close(lhc(x), merged(mid, x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mid.attention.sum(3), torch.ones(3, lhc.heads, 6))
    torch.testing.assert_close(mid.divisor, lhc.d ** (lhc.g + mid.T))


def test_gradients_are_finite_differences() -> None:
    lhc = module(channels=3, height=3, width=4, heads=2, d=2, pool=2, kernel=2).double()
    x = torch.randn(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*lhc.named_parameters(), strict=True)

    def loss(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(lhc, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(loss, (x, *(p.detach().clone().requires_grad_() for p in parameters)))


def test_huge_scaling_averages_all_channels() -> None:
    """Equation (19): the limit of a large divisor is the plain mean over the channels."""
    lhc = module(g=40.0)
    x = torch.randn(2, 6, 4, 6)
    with torch.no_grad():
        v = lhc.intermediates(x).v  # (B, heads, C, L)
        mean = v.mean(2, keepdim=True).expand_as(v).transpose(1, 2).reshape(x.shape)
        torch.testing.assert_close(lhc(x), mean)


def test_small_scaling_selects_one_channel() -> None:
    """(18): a large alpha makes of each row of attention a one-hot vector at its largest score."""
    lhc, x = module(g=0.0), torch.randn(2, 6, 4, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        lhc.w1 *= 300
        mid = lhc.intermediates(x)
    one_hot = torch.nn.functional.one_hot(mid.scores.argmax(3), 6).float()
    assert (mid.attention - one_hot).abs().max() < 1e-3


def test_scaling_never_changes_the_ranking() -> None:
    """(20): dividing a row of scores by d^(g+T) leaves the order of its attention weights as it was."""
    lhc, x = module(g=0.5), torch.randn(2, 6, 4, 6, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        mid = lhc.intermediates(x)
    assert mid.divisor.std() > 0  # the rows are scaled differently
    assert torch.equal(mid.attention.argsort(3), mid.scores.argsort(3))


def test_heads_are_local() -> None:
    """A pixel reaches only the slices within a pool's (and the value path's) distance of it."""
    lhc = module(height=12, width=6, heads=12)  # one row a head
    x = torch.randn(1, 6, 12, 6)
    moved = x.clone()
    moved[:, :, 0] += 1
    with torch.no_grad():
        changed = (lhc(x) != lhc(moved)).any(dim=3).any(dim=1)[0]
    assert changed.tolist() == [True] * 3 + [False] * 9  # convolution and value pool: two rows down


def test_channels_last_gives_channels_last() -> None:
    lhc = module().to(memory_format=torch.channels_last)
    x = torch.randn(2, 6, 4, 6).to(memory_format=torch.channels_last)
    plain = module()
    with torch.no_grad():
        assert (x + lhc(x)).is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(lhc(x), plain(x.contiguous()))


def test_bfloat16_autocast_is_close() -> None:
    """bfloat16 keeps 8 bits, 0.4 %; the scaling and the softmax must not add to it."""
    torch.manual_seed(0)
    lhc, x = LHC(64, 14, 14, heads=7, d=14), torch.randn(2, 64, 14, 14)
    with torch.no_grad():
        exact = lhc(x)
        with torch.autocast("cpu", torch.bfloat16):
            from_float32, from_bfloat16 = lhc(x), lhc(x.bfloat16())
            mid = lhc.intermediates(x.bfloat16())
    assert from_float32.dtype == torch.float32
    assert from_bfloat16.dtype == torch.bfloat16
    assert mid.T.dtype == mid.attention.dtype == torch.float32
    for narrow in (from_float32, from_bfloat16.float()):
        assert (narrow - exact).abs().max() < 0.02 * exact.abs().max()
    torch.testing.assert_close(mid.T, lhc.intermediates(x).T, rtol=0, atol=0.02)


def test_start_is_glorot() -> None:
    torch.manual_seed(0)
    lhc = LHC(32, 12, 12, heads=6, d=10, kernel=5)
    assert lhc.w1.shape == (6, 24, 10)
    for weight, fans in ((lhc.w1, 24 + 10), (lhc.w2.weight, 32 + 32), (lhc.conv.weight, 25 * 64)):
        limit = (6 / fans) ** 0.5
        assert 0.98 * limit < weight.abs().max().item() <= limit
        assert abs(weight.std().item() * 3**0.5 / limit - 1) < 0.05
    for bias in (lhc.b1, lhc.w2.bias, lhc.conv.bias):
        assert not bias.any()


def test_start_is_drawn_from_the_generator() -> None:
    states = []
    for seed in (1, 1, 2):
        lhc = module()
        lhc.reset_parameters(torch.Generator().manual_seed(seed))
        states.append(torch.cat([p.detach().flatten() for p in lhc.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_table_2_sizes() -> None:
    shapes = [(64, 56), (64, 56), (128, 28), (256, 14), (512, 7)]
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in LHC(C, S, S, **row).parameters())
            for (C, S), row in zip(shapes, TABLE_2, strict=True)
        ]
    assert counts == [657312, 657312, 208392, 658714, 2623714]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 12, "width": 12, "heads": 7}, r"heads=7 does not divide H\*W = 12\*12 = 144"),
        ({"heads": 0}, "heads=0 must be at least 1"),
        ({"d": 0}, "d=0 must be at least 1"),
        ({"pool": 0}, "pool=0 must be at least 1"),
        ({"kernel": -1}, "kernel=-1 must be at least 1"),
        ({"channels": 0}, "channels=0 must be at least 1"),
        ({"g": -0.5}, "g=-0.5 must be a finite number, at least 0"),
        ({"g": float("nan")}, "g=nan must be a finite number"),
    ],
)
def test_impossible_settings_say_why(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(**changes)


@pytest.mark.parametrize("shape", [(1, 6, 6, 4), (1, 5, 4, 6), (6, 4, 6)])
def test_other_input_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"built for \(B, 6, 4, 6\)"):
        module()(torch.zeros(shape))
