"""ResNet34v2: BatchNorm semantics against the reference implementation, structure, start weights, errors.

The whole network stands against the reference in test_golden_network.py.
"""

from __future__ import annotations

import pytest
import torch
from support.golden_weights import below, drawn, fixture, nchw
from torch import Tensor, nn

from lhcnet.models.lhcnet import count_parameters
from lhcnet.models.resnetv2 import BN_EPS, InputNorm, ResNetV2, slot_shapes
from lhcnet.weights.keras import from_keras


def tiny(**changes: object) -> ResNetV2:
    torch.manual_seed(0)
    settings = {"input_size": 64, "depths": (1, 2, 1, 1), "widths": (8, 12, 16, 20), "head": (24, 16)}
    return ResNetV2(**(settings | changes))


def seen(network: ResNetV2, x: Tensor) -> list[Tensor]:
    """What arrives at the five attention slots."""
    inputs: list[Tensor] = []
    hooks = [slot.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for slot in network.attention]
    network(x)
    for hook in hooks:
        hook.remove()
    return inputs


def test_stem_and_its_moving_statistics_are_the_reference() -> None:
    golden, drawn_ = below(fixture("bn_train_step"), "stem/"), drawn("bn_train_step", "stem/")
    network = tiny(widths=(64, 8, 8, 8), bn_momentum=0.01)
    with torch.no_grad():
        for norm, name in ((network.bn_data, "Block0_BN1"), (network.stem_bn, "Block0_BN2")):
            norm.bias.copy_(torch.from_numpy(drawn_[f"{name}/beta"]))
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(torch.from_numpy(drawn_[f"{name}/moving_mean"]))
            norm.running_var.copy_(torch.from_numpy(drawn_[f"{name}/moving_var"]))
        network.stem_bn.weight.copy_(torch.from_numpy(drawn_["Block0_BN2/gamma"]))
        network.stem_conv.weight.copy_(from_keras(drawn_["Block0_Conv1/kernel"]))
        x = nchw(golden["x_u8"]).float()
        evaluated = seen(network.eval(), x)[0]
        trained = seen(network.train(), x)[0]
    torch.testing.assert_close(evaluated, nchw(golden["y_eval"]), rtol=0, atol=2e-5)
    torch.testing.assert_close(trained, nchw(golden["y_train"]), rtol=0, atol=2e-5)
    for norm, name in ((network.bn_data, "Block0_BN1"), (network.stem_bn, "Block0_BN2")):
        for ours, theirs in ((norm.running_mean, "mean"), (norm.running_var, "var")):
            expected = torch.from_numpy(golden[f"{name}/moving_{theirs}_after"])
            torch.testing.assert_close(ours, expected, rtol=2e-6, atol=1e-7)


def test_moving_variance_is_bessel_corrected_as_in_keras() -> None:
    golden = below(fixture("bn_train_step"), "bn_small/")
    x = nchw(drawn("bn_train_step", "bn_small/")["x"])
    norm = InputNorm(3, eps=BN_EPS, momentum=0.01)  # fresh: the fixed scale 1 is what Keras starts with
    with torch.no_grad():
        torch.testing.assert_close(norm(x), nchw(golden["y_train"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(norm.running_mean, torch.from_numpy(golden["moving_mean_after"]))
    torch.testing.assert_close(norm.running_var, torch.from_numpy(golden["moving_var_after"]))


def test_parameter_counts() -> None:
    with torch.device("meta"):
        network = ResNetV2()
    assert count_parameters(network) == 27_606_224
    assert sum(p.numel() for p in network.parameters()) == 27_590_858


def test_structure() -> None:
    network = tiny()
    assert [name for name, _ in network.bn_data.named_parameters()] == ["bias"]  # no scale on the input
    for stage in network.stages:
        assert [unit.shortcut is not None for unit in stage] == [True] + [False] * (len(stage) - 1)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(2e-5, 0.01)}
    assert all(m.bias is None for m in network.modules() if isinstance(m, nn.Conv2d))
    assert {m.momentum for m in tiny(bn_momentum=0.1).modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("size", [224, 96, 65, 50, 48, 33, 31])
def test_slot_shapes_round_as_the_convolutions_do(size: int) -> None:
    network = tiny(input_size=size).eval()
    with torch.no_grad():
        shapes = [tuple(z.shape[1:]) for z in seen(network, torch.rand(1, 3, size, size))]
    assert shapes == slot_shapes(size, (8, 12, 16, 20))


def test_slot_shapes_of_the_paper() -> None:
    paper = [(64, 56, 56), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
    assert slot_shapes(224, (64, 128, 256, 512)) == paper


def test_features_then_head_is_forward() -> None:
    network = tiny().eval()
    x = 255 * torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = network.forward_features(x)
        assert features.shape == (2, 20, 2, 2)
        assert (features >= 0).all()
        assert torch.equal(network.forward_head(features), network(x))
    assert network(x).shape == (2, 7)


def test_head_may_be_one_layer() -> None:
    assert tiny(head=(), classes=3)(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_grey_copied_to_three_channels_needs_no_copy() -> None:
    network = tiny().eval()
    grey = 255 * torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(grey.expand(-1, 3, -1, -1)), network(grey.repeat(1, 3, 1, 1)))


def test_channels_last_and_bfloat16_are_close() -> None:
    network = tiny().eval()
    x = 255 * torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        network.bn_data.running_mean, network.bn_data.running_var = (
            torch.full((3,), 127.5),
            torch.full((3,), 5e3),
        )
        exact = network(x)
        network.to(memory_format=torch.channels_last)
        torch.testing.assert_close(network(x.to(memory_format=torch.channels_last)), exact)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = network(x)
    assert narrow.dtype == torch.float32  # the head is not narrowed
    assert (narrow - exact).abs().max() < 0.05 * exact.abs().max()


def test_dropout_only_while_training() -> None:
    features = torch.rand(3, 20, 2, 2)
    network = tiny()
    assert not torch.equal(network.forward_head(features), network.forward_head(features))
    network.eval()
    assert torch.equal(network.forward_head(features), network.forward_head(features))


def test_start_is_he_for_convolutions_and_glorot_for_the_head() -> None:
    network = tiny(widths=(32, 64, 64, 64), head=(256,))
    for weight, limit in (
        (network.stem_conv.weight, (6 / (49 * 3)) ** 0.5),
        (network.stages[1][0].conv1.weight, (6 / (9 * 32)) ** 0.5),
        (network.hidden[0].weight, (6 / (64 + 256)) ** 0.5),
        (network.logits.weight, (6 / (256 + 7)) ** 0.5),
    ):
        assert 0.98 * limit < weight.abs().max().item() <= limit
    assert not network.hidden[0].bias.any()


def test_reset_is_complete_and_repeatable() -> None:
    network = tiny()
    network.reset_parameters(torch.Generator().manual_seed(5))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()(255 * torch.rand(4, 3, 64, 64))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    network.reset_parameters(torch.Generator().manual_seed(5))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (3, 4, 6)}, r"depths=\(3, 4, 6\) must have four numbers"),
        ({"widths": (8,) * 5}, "must have four numbers"),
        ({"widths": (8, 8, 0, 8)}, "must all be at least 1"),
        ({"classes": 0}, "classes=0 must all be at least 1"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and less than 1"),
        ({"bn_momentum": 0.0}, "bn_momentum=0.0 must be more than 0"),
    ],
)
def test_impossible_settings_say_why(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)
