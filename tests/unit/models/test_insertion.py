"""Attention after the layers of other people's networks."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lhcnet.models.insertion import GatedResidual, LayerWithAttention, insert_lhc
from lhcnet.models.residual import ResidualLHC


def drawn(make: Callable[[], nn.Module]) -> nn.Module:
    """A network with random weights and statistics, without the minutes that big hosts take to draw theirs.

    Classifiers of a hundred million weights are cut down to what follows the last feature map.
    """
    with torch.device("meta"):
        model = make()
        if isinstance(getattr(model, "classifier", None), nn.Sequential) and hasattr(model, "avgpool"):
            linear = next(layer for layer in model.classifier if isinstance(layer, nn.Linear))
            model.classifier = nn.Linear(linear.in_features, 7)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.zero_()
        elif tensor.dim() > 1:
            nn.init.kaiming_normal_(tensor, generator=generator)
        elif name.endswith("running_var") or (name.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.uniform_(-0.1, 0.1, generator=generator)
    return model


def torchvision_host(name: str) -> nn.Module:
    from torchvision import models

    more = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return drawn(lambda: models.get_model(name, weights=None, num_classes=7, **more))


def timm_host(name: str) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=7)


HOSTS = {  # the four families that the paper names: (layers, side of the images, their maps)
    "alexnet": (["features.2", "features.12"], 64, [(64, 7, 7), (256, 1, 1)]),
    "vgg11": (["features.2", "features.10"], 32, [(64, 16, 16), (256, 4, 4)]),
    "googlenet": (["maxpool1", "inception3b", "inception4e"], 64, [(64, 16, 16), (480, 8, 8), (832, 4, 4)]),
    "inception_v3": (["Mixed_5d", "Mixed_6e"], 75, [(288, 7, 7), (768, 3, 3)]),
    "resnet18": (["maxpool", "layer1", "layer4.1"], 64, [(64, 16, 16), (64, 16, 16), (512, 2, 2)]),
    "resnet50": (["layer2", "layer3"], 64, [(512, 8, 8), (1024, 4, 4)]),
    "timm/resnet18": (["layer1", "layer2"], 64, [(64, 16, 16), (128, 8, 8)]),
    "timm/convnext_atto": (["stages.0", "stages.1"], 64, [(40, 16, 16), (80, 8, 8)]),
    "timm/efficientnet_b0": (["blocks.1", "blocks.3"], 64, [(24, 16, 16), (80, 4, 4)]),
}


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_keeps_weights_and_output_and_gains_modules(name: str) -> None:
    at, side, shapes = HOSTS[name]
    host = timm_host(name.removeprefix("timm/")) if name.startswith("timm/") else torchvision_host(name)
    torch.manual_seed(3)
    x = torch.randn(2, 3, side, side)
    model = insert_lhc(copy.deepcopy(host), at, x[:1], seed=0)

    added = [model.get_submodule(layer) for layer in at]
    modules = [after.attention.attention.lhc for after in added]
    assert [(m.channels, m.height, m.width) for m in modules] == shapes
    state = model.state_dict()
    kept = {key: tensor for key, tensor in state.items() if ".attention." not in f".{key}"}
    assert len(kept) == len(host.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(kept.values(), host.state_dict().values(), strict=True))
    with torch.no_grad():
        before = host.eval()(x)
        assert torch.equal(model.eval()(x), before)  # to the bit
        for after in added:
            after.attention.w.fill_(1.0)
        assert (model(x) - before).abs().max() > 1e-3 * before.abs().max()


class Small(nn.Module):
    """A user's network: a layer that runs twice, one that never does, one with a tuple, one shared by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.twice = nn.Conv2d(4, 4, 1)
        self.never = nn.Conv2d(4, 4, 1)
        self.pair = Pair()
        self.pool = nn.MaxPool2d(2)
        self.flat = nn.Flatten()
        self.end = nn.Linear(4 * 6 * 5, 2)
        self.alias = self.end

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.first(x)))
        x = self.pool(self.pair(x)[0])
        y: Tensor = self.end(self.flat(x))
        return y


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def small() -> tuple[Small, Tensor]:
    torch.manual_seed(0)
    return Small(), torch.randn(4, 3, 12, 10)


def test_inserting_leaves_flags_statistics_and_generators() -> None:
    model, x = small()
    model.first[2].eval()  # part of a network that trains does not
    flags = {name: module.training for name, module in model.named_modules()}
    statistics = model.first[1].running_mean.clone()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    insert_lhc(model, {"first": {"norm": "both"}}, x, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    after = {name.replace("first.layer", "first"): module.training for name, module in model.named_modules()}
    assert {name: after[name] for name in flags} == flags
    assert all(flag for name, flag in after.items() if "attention" in name)
    assert torch.equal(model.first.layer[1].running_mean, statistics)
    assert not insert_lhc(small()[0].eval(), "first", x).first.attention.training


def test_without_the_gate_it_is_the_papers_sum() -> None:
    model, x = small()
    insert_lhc(model.eval(), ["pool"], x, gated=False, heads=5, d=2, seed=1)
    slot = model.pool.attention
    assert isinstance(slot, ResidualLHC)
    z = torch.randn(2, 4, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(slot(z), z + slot.lhc(z))
        assert (model(x) - small()[0].eval()(x)).abs().max() > 1e-3


def test_the_gate_weighs_what_the_module_adds() -> None:
    model, x = small()
    insert_lhc(model, ["pool"], x, seed=1)
    gate = model.pool.attention
    assert isinstance(gate, GatedResidual)
    z = torch.randn(2, 4, 6, 5)
    with torch.no_grad():
        gate.w.fill_(-0.5)
        expected = z + torch.tensor(-0.5).tanh() * gate.attention.lhc(z)
        torch.testing.assert_close(gate(z), expected)


def test_training_opens_the_gate_and_reaches_every_parameter() -> None:
    model, x = small()
    insert_lhc(model, ["first", "pool"], x, second_conv=True, seed=1)
    step = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # the first step moves w alone
        step.zero_grad()
        model(x).square().sum().backward()
        step.step()
    for name, parameter in model.named_parameters():
        if not name.startswith("never"):
            assert parameter.grad.any(), name
    assert model.first.attention.w != 0


def test_defaults_follow_table_2() -> None:
    """d is half the pixels of a head; heads are the paper's at 56 and 14 (it takes 7 at 28, and 1 at 7)."""
    sizes = []
    for side in (56, 28, 14, 7, 13):
        model = nn.Sequential(nn.Identity())
        insert_lhc(model, ["0"], torch.zeros(1, 2, side, side))
        sizes.append((model[0].attention.attention.lhc.heads, model[0].attention.attention.lhc.d))
    assert sizes == [(8, 196), (8, 49), (7, 14), (7, 4), (1, 85)]
    model = nn.Sequential(nn.Identity(), nn.Identity())
    insert_lhc(model, {"0": {"split": "grid"}, "1": {"heads": 7, "split": "learnt"}}, torch.zeros(1, 2, 15, 5))
    lhcs = [after.attention.attention.lhc for after in model]
    assert [(lhc.heads, lhc.d, lhc.split) for lhc in lhcs] == [(5, 8, "grid"), (7, 6, "learnt")]


def test_names_may_have_settings_of_their_own() -> None:
    model, x = small()
    insert_lhc(model, {"first": {"heads": 2, "d": 3, "kernel": 5}, "pool": {"d": 9}}, x, kernel=1)
    first, pool = (getattr(model, name).attention.attention.lhc for name in ("first", "pool"))
    assert [(lhc.heads, lhc.d, lhc.kernel) for lhc in (first, pool)] == [(2, 3, 5), (6, 9, 1)]


def test_layers_inside_layers() -> None:
    model, x = small()
    before = model.eval()(x)
    insert_lhc(model, ["first", "first.0"], x)
    assert isinstance(model.first.layer[0], LayerWithAttention)
    assert torch.equal(model(x), before)
    insert_lhc(model, "first.layer.1", x)  # and again later, behind a layer that has none
    assert torch.equal(model(x), before)


def test_equal_seeds_give_equal_modules_each_layer_its_own() -> None:
    states = []
    for seed, at in ((1, ["first", "pool"]), (1, ["pool"]), (2, ["pool"])):
        model, x = small()
        states.append(insert_lhc(model, at, x, seed=seed).state_dict()["pool.attention.attention.lhc.conv.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    pair = insert_lhc(nn.Sequential(nn.Identity(), nn.Identity()), ["0", "1"], torch.zeros(1, 2, 4, 4), seed=1)
    first, second = (after.attention.attention.lhc.w1 for after in pair)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_modules_follow_the_hosts_type(dtype: torch.dtype) -> None:
    model, x = small()
    insert_lhc(model.to(dtype), ["first", "pool"], x.to(dtype))
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model(x.to(dtype)).dtype == dtype


def test_it_copies_and_travels() -> None:
    model, x = small()
    insert_lhc(model.eval(), ["first", "pool"], x)
    with torch.no_grad():
        model.pool.attention.w.fill_(0.3)
        expected = model(x)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        fresh = insert_lhc(small()[0].eval(), ["first", "pool"], x)
        fresh.load_state_dict(model.state_dict())
        for other in (copy.deepcopy(model), torch.load(file, weights_only=False), fresh):
            assert torch.equal(other(x), expected)


@pytest.mark.parametrize("kind", ["se", "cbam", "eca"])
@pytest.mark.parametrize("gated", [True, False])
def test_baseline_attention_after_the_same_layers(kind: str, gated: bool) -> None:
    model, x = small()
    plain = model.eval()(x)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    insert_lhc(model, ["first", "pool"], x, attention=kind, gated=gated, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model(x), plain) == gated
    if gated:
        gate = model.pool.attention
        with torch.no_grad():
            gate.w.fill_(0.5)
            z = torch.rand(2, 4, 6, 5)
            torch.testing.assert_close(gate(z), torch.lerp(z, gate.attention(z), torch.tensor(0.5).tanh()))


@pytest.mark.parametrize(
    ("at", "settings", "says"),
    [
        (["frist"], {}, "no layer 'frist'; did you mean one of first"),
        (["zzz"], {}, "no layer 'zzz'; did you mean one of first, twice"),
        ([""], {}, "no layer ''"),
        ([], {}, "name at least one layer"),
        (["flat"], {}, r"flat: expected a layer whose output is a tensor \(B, C, H, W\), not \(4, 120\)"),
        (["pair"], {}, r"pair: expected a layer whose output is a tensor \(B, C, H, W\), not a tuple"),
        (["twice"], {}, "twice: this layer ran 2 times"),
        (["never"], {}, "never: this layer ran 0 times"),
        (["end"], {}, "end: the network has this layer under other names too: alias"),
        (["first"], {"heads": 7}, r"first: heads=7 does not divide H\*W = 12\*10 = 120"),
        (["first"], {"heads": 9, "split": "grid"}, "first: heads=9 do not make a grid"),
        (["first"], {"heads": 0}, "first: heads=0 must be at least 1"),
        (["first"], {"dim": 3}, "first: dim: unknown key"),
        (["first"], {"split": "diagonal"}, "first: split='diagonal' must be one of horizontal, vertical, grid, learnt"),
        ({"first": {"attention": "bam"}}, {}, "first: attention='bam' must be one of se, cbam, eca"),
        (["first"], {"attention": "se", "d": 3}, "first: d: unknown key"),
    ],
)
def test_errors_name_the_layer_and_leave_the_network(at: object, settings: dict[str, object], says: str) -> None:
    model, x = small()
    before = str(model)
    with pytest.raises(ValueError, match=says):
        insert_lhc(model, at, x, **settings)
    assert str(model) == before
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["pool", "pool.layer", "pool.attention", "pool.attention.attention.lhc.conv"])
def test_a_layer_gets_attention_once(name: str) -> None:
    model, x = small()
    insert_lhc(model, ["pool"], x)
    with pytest.raises(ValueError, match=f"{name}: this layer has attention already"):
        insert_lhc(model, [name], x)
