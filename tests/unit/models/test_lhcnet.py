"""How ResNet34v2, LHC-Net and LHC-NetC are put together; their numbers stand in test_golden_network.py."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.golden_weights import GOLDEN, TABLE_2
from torch import nn

from lhcnet import config
from lhcnet.errors import LhcnetError
from lhcnet.models.lhcnet import LHCNet, add_control, attention_share, count_parameters, insert_modules
from lhcnet.models.residual import ResidualLHC
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
    settings = SMALL | {"seed": 0} | changes
    return LHCNet(**settings) if "modules" in settings else ResNetV2(**settings)


def test_parameter_counts() -> None:
    plain = ResNetV2(seed=0)
    assert count_parameters(plain) == COUNTS["plain_total"] == 27_606_224
    assert attention_share(plain) == 0
    network = insert_modules(plain, TABLE_2, 0)
    assert count_parameters(network) == COUNTS["total"] == 32_411_668
    assert sum(p.numel() for p in network.parameters()) == COUNTS["trainable"]
    assert [count_parameters(slot) for slot in network.attention] == list(COUNTS["per_lhc"].values())
    assert attention_share(network) == COUNTS["lhc_sum"] / COUNTS["total"]
    assert round(100 * attention_share(network), 1) == 14.8  # Table A2
    assert count_parameters(add_control(network)) == COUNTS["lhcnetc_total"]


def test_defaults_are_those_of_the_paper_profile() -> None:
    network, resnet = (
        {name: p.default for name, p in inspect.signature(constructor).parameters.items()}
        for constructor in (LHCNet, ResNetV2)
    )
    settings = config.Config()
    paper = settings.network.model_dump(exclude={"weights", "backbone", "layers"})
    assert {name: resnet[name] for name in paper} == {name: network[name] for name in paper} == paper
    with torch.device("meta"):
        inserted = [module_of(slot) for slot in LHCNet().attention]
    rows = config.module_arguments(settings.variants["table2"])
    assert inserted == [{key: row[key] for key in inserted[0]} for row in rows]


def module_of(slot: nn.Module) -> dict[str, object]:
    assert isinstance(slot, ResidualLHC)
    return {key: getattr(slot.lhc, key) for key in ("heads", "d", "pool", "g", "kernel", "split")}


def test_models_need_no_settings_and_no_pydantic() -> None:
    code = "import sys, lhcnet.models.insertion; print(*{'pydantic', 'lhcnet.config', 'sympy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


def test_building_a_network_does_not_touch_the_global_generator_and_loads_no_sympy() -> None:
    code = (
        "import sys, torch; from lhcnet.models.lhcnet import LHCNet; torch.manual_seed(1);"
        "state = torch.get_rng_state(); LHCNet(seed=0);"
        "print('sympy' in sys.modules, torch.equal(state, torch.get_rng_state()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"]


def test_insertion_keeps_the_backbone() -> None:
    plain = small().eval()
    plain.bn.running_mean += 1
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
        torch.nn.init.zeros_(slot.lhc.conv.weight)
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


def test_equal_modules_start_differently() -> None:
    state = small(modules=[ROWS[0], ROWS[0], *ROWS[2:]]).state_dict()
    assert not torch.equal(state["attention.0.lhc.w1"], state["attention.1.lhc.w1"])


def test_reset_of_the_network_leaves_its_modules() -> None:
    network = small(modules=ROWS)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.reset_parameters(torch.Generator().manual_seed(1))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "stem_conv.weight" in changed
    assert not any(name.startswith("attention.") for name in changed)


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
        ([{"heads": 8}, *ROWS[1:]], "LHC1: d: required key is missing"),
        ([{"heads": 8, "d": 2, "dim": 3}, *ROWS[1:]], "LHC1: dim: unknown key"),
        ([{"heads": 8, "d": 2.5}, *ROWS[1:]], "LHC1: d=2.5 must be a whole number, at least 1"),
    ],
)
def test_impossible_modules_name_the_slot(rows: list[dict[str, float]], message: str) -> None:
    network = small()
    with pytest.raises(ValueError, match=message):
        insert_modules(network, rows, 0)
    assert all(isinstance(slot, nn.Identity) for slot in network.attention)


def test_control_needs_modules_and_is_added_once() -> None:
    with pytest.raises(ValueError, match="control weights need 5 LHC modules, the network has 0"):
        add_control(small())
    with pytest.raises(ValueError, match="has its control weights already"):
        add_control(small(modules=ROWS, control=True))


def test_training_reaches_every_parameter() -> None:
    network = small(modules=[row | {"pool": 2, "kernel": 2, "g": 0.5} for row in ROWS], control=True)
    F.cross_entropy(network(255 * torch.rand(4, 3, 64, 64)), torch.tensor([0, 1, 2, 3])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("kind", ["se", "cbam", "eca"])
def test_baseline_attention_in_the_slots(kind: str) -> None:
    """It scales its input: no residual sum, and nothing that LHC-NetC could weigh."""
    rows = [{"attention": kind}] * 5
    torch.manual_seed(11)
    before = torch.get_rng_state()
    network, again, other = (small(modules=rows, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    state, plain = network.state_dict(), small(seed=4).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.items())
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())
    inserted = set(state) - set(plain)
    assert not all(torch.equal(state[name], other.state_dict()[name]) for name in inserted)
    name = {"se": "SEModule", "cbam": "CbamModule", "eca": "EcaModule"}[kind]
    assert [type(part).__name__ for part in network.attention] == [name] * 5
    x = torch.rand(2, 8, 16, 16)
    with torch.no_grad():
        scale = network.eval().attention[0](x) / x
    assert scale.min() > 0
    assert scale.max() < 1
    with pytest.raises(ValueError, match="control weights need 5 LHC modules, the network has 0"):
        add_control(network)


def test_rows_of_both_kinds_mix() -> None:
    network = small(modules=[*ROWS[:4], {"attention": "se"}])
    assert [isinstance(part, ResidualLHC) for part in network.attention] == [True] * 4 + [False]
    full = small(modules=ROWS).state_dict()
    state = network.state_dict()
    assert all(torch.equal(state[name], full[name]) for name in set(state) & set(full))
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_an_error_names_timm_if_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.layers", None)
    with pytest.raises(LhcnetError, match=r"attention: se needs timm, which is not installed: pip install 'timm>=1.0'"):
        small(modules=[{"attention": "se"}] * 5)
