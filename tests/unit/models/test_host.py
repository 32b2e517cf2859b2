"""Networks of timm and torchvision as backbones: layers found, slots, normalisation, copies, errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from support.host import BACKBONE, LAYERS, SHAPES
from torch import Tensor, nn

from lhcnet.errors import LhcnetError
from lhcnet.models.host import HostNetwork, classifier_names, default_layers
from lhcnet.models.insertion import insert_lhc
from lhcnet.models.lhcnet import add_control, control_weights, freeze_all_but_control, insert_modules
from lhcnet.models.resolution import last_layers

ROWS = [{"heads": 2, "d": 3}] * 4


def network(seed: int | None = 0, **changes: Any) -> HostNetwork:
    settings = {"backbone": BACKBONE, "layers": LAYERS, "input_size": 32, "dropout": 0.2, "bn_momentum": 0.1}
    return HostNetwork(**settings | changes, seed=seed)


def images(n: int = 2) -> Tensor:
    return 255 * torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("backbone", "size", "layers"),
    [
        (BACKBONE, 32, LAYERS),
        (BACKBONE, 48, (*LAYERS, "blocks.4")),
        ("timm:test_resnet", 48, ("act1", "layer1", "layer2", "layer3", "layer4")),
        ("timm:test_convnext", 32, ("stages.0", "stages.1", "stages.2")),
        ("timm:tf_efficientnet_lite0", 48, ("blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6")),
        ("torchvision:mobilenet_v3_small", 48, ("features.0", "features.1", "features.3", "features.8", "features.11")),
        ("torchvision:resnet18", 64, ("relu", "layer1", "layer2", "layer3", "layer4")),
        ("torchvision:vgg11", 32, ("features.1", "features.4", "features.9", "features.14", "features.19")),
    ],
)
def test_default_layers_end_the_resolutions(backbone: str, size: int, layers: tuple[str, ...]) -> None:
    assert default_layers(backbone, size) == layers


def test_default_layers_are_the_stages_that_timm_names() -> None:
    for name in ("test_resnet", "test_efficientnet", "resnet18", "mobilenetv3_small_050", "test_convnext2"):
        host = timm.create_model(name)
        stages = [stage["module"] for stage in host.feature_info]
        assert list(last_layers(host, torch.zeros(1, 3, 64, 64))) == stages, name


def test_layers_inside_a_residual_block_are_not_on_the_main_path() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pointwise, self.strided = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.strided(self.pointwise(x)) + x[:, :, ::2, ::2]
            return y

    net = nn.Sequential(nn.Conv2d(3, 3, 1), Block(), nn.BatchNorm2d(3), nn.Flatten())
    assert last_layers(net, torch.zeros(1, 3, 8, 8)) == ("0", "1")


def test_a_slot_follows_each_layer_as_insert_lhc_puts_it() -> None:
    host = timm.create_model("test_efficientnet", num_classes=7).eval()
    net = network()
    net.host.load_state_dict(host.state_dict())
    assert net.slots == ("LHC1", "LHC2", "LHC3", "LHC4")
    assert list(net.slot_shapes) == SHAPES
    x = images()
    normalised = (x / 255 - torch.tensor(timm.get_pretrained_cfg("test_efficientnet").mean)[:, None, None]) / (
        torch.tensor(timm.get_pretrained_cfg("test_efficientnet").std)[:, None, None]
    )
    net.eval()
    torch.testing.assert_close(net(x), host(normalised))

    insert_modules(net, ROWS, seed=1)
    other = insert_lhc(copy.deepcopy(host), dict(zip(LAYERS, ROWS, strict=True)), normalised, gated=False).eval()
    for name, module in zip(LAYERS, net.attention, strict=True):
        other.get_submodule(name).attention.load_state_dict(module.state_dict())
    with torch.no_grad():
        assert not torch.allclose(net(x), host(normalised))  # x + LHC(x)
        torch.testing.assert_close(net(x), other(normalised))


def test_equal_seeds_give_equal_weights_and_the_global_generator_stays() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, two, other = network(4).state_dict(), network(4).state_dict(), network(5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert not torch.equal(one["host.conv_stem.weight"], other["host.conv_stem.weight"])


def test_settings_reach_the_host() -> None:
    net = network(dropout=0.35, bn_momentum=0.07)
    assert net.host.drop_rate == 0.35
    assert {m.momentum for m in net.host.modules() if isinstance(m, nn.BatchNorm2d)} == {0.07}
    resnet = network(backbone="torchvision:resnet18", layers=["layer1"], dropout=0.35)
    assert [m.p for m in resnet.host.modules() if isinstance(m, nn.Dropout)] == [0.35]
    assert classifier_names("torchvision:resnet18", resnet.host) == ("fc",)
    assert classifier_names(BACKBONE, net.host) == ("classifier",)


def test_a_copy_has_slots_of_its_own() -> None:
    net = insert_modules(network(), ROWS, seed=1).eval()
    x = images()
    with torch.no_grad():
        before = net(x)
        other = copy.deepcopy(net)
        for module in other.attention:
            for parameter in module.parameters():
                parameter.zero_()
        assert torch.equal(net(x), before)
        assert not torch.equal(other(x), before)


def test_control_weights_of_four_modules() -> None:
    net = freeze_all_but_control(add_control(insert_modules(network(), ROWS, seed=1)))
    assert control_weights(net) == (0.0, 0.0, -1.0, -0.5)
    assert [name for name, p in net.named_parameters() if p.requires_grad] == [f"attention.{i}.w" for i in range(4)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "timm:resnet17"}, "network.backbone: timm has no network resnet17; did you mean one of resnet"),
        ({"backbone": "torchvision:fcn_resnet50"}, "torchvision has no network for classification fcn_resnet50"),
        ({"backbone": "torchvision:alexnet"}, "network.input_size: torchvision:alexnet cannot work with images of 32"),
        (
            {"layers": ["blocks.7"]},
            "network.layers: timm:test_efficientnet: the network has no layer 'blocks.7'",
        ),
        ({"layers": ["classifier"]}, r"network.layers: .*classifier: expected a layer whose output is a tensor"),
    ],
)
def test_errors_are_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LhcnetError, match=message) as error:
        network(**changes)
    assert "\n" not in str(error.value)


def test_a_network_without_square_maps_has_no_default_layers() -> None:
    with pytest.raises(LhcnetError, match=r"no layer with square feature maps .* names in network\.layers"):
        default_layers("timm:test_vit", 160)
