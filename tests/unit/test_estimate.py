"""Parameters and memory in closed form, compared with networks that were built."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lhcnet.config import Stage, parse
from lhcnet.errors import LhcnetError
from lhcnet.estimate import activations, parameters, training_memory
from lhcnet.models.lhcnet import count_parameters
from lhcnet.profiles import profile
from lhcnet.saved import Architecture

SMALL = {"input_size": 48, "depths": [1, 2, 1, 3], "widths": [8, 16, 8, 24], "head": [32, 5]}
PLAIN_ROW = {"heads": 1, "d": 3}
ROWS: dict[str, list[dict[str, Any]] | None] = {
    "plain": None,
    "lhc": [{"heads": 4, "d": 7}, *[PLAIN_ROW] * 4],
    "options": [
        {"heads": 3, "d": 4, "split": "learnt", "norm": "both", "second_conv": True, "kernel": 5},
        {"heads": 4, "d": 2, "split": "grid", "norm": "before"},
        {"heads": 2, "d": 9, "split": "vertical", "norm": "after", "pool": 5},
        PLAIN_ROW | {"second_conv": True, "kernel": 1},
        {"heads": 7, "d": 2, "split": "learnt"},
    ],
}


def architecture(modules: list[dict[str, Any]] | None, **sizes: Any) -> Architecture:
    values = SMALL | {"dropout": 0.4, "bn_momentum": 0.01, "modules": modules} | sizes
    return parse(Architecture, values, "test")


@pytest.mark.parametrize("kind", ROWS)
def test_parameters_are_those_of_the_built_network(kind: str) -> None:
    found = architecture(ROWS[kind])
    assert parameters(found.sizes) == count_parameters(found.build(None, "meta"))


def test_parameters_of_the_papers_networks() -> None:
    paper = profile("paper")
    for modules in (None, paper.variants["table2"]):
        found = Architecture.of(paper.network).model_copy(update={"modules": modules})
        assert parameters(found.sizes) == count_parameters(found.build(None, "meta"))


@pytest.mark.parametrize("attention", ["se", "cbam", "eca"])
def test_parameters_of_a_baseline_are_not_underestimated(attention: str) -> None:
    found = architecture([{"attention": attention}, *[PLAIN_ROW] * 4])
    assert parameters(found.sizes) >= count_parameters(found.build(None, "meta"))


@pytest.mark.parametrize("kind", ROWS)
def test_activations_are_right_within_a_factor_of_two(kind: str) -> None:
    """Compared with what autograd keeps for the backward pass of one image."""
    found = architecture(ROWS[kind], widths=[32, 32, 48, 64], input_size=96)
    network, kept = found.build(0).train(), {}
    own = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor, storage.nbytes()  # kept alive, so no address is used twice
        return tensor

    images = 4
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(network(255 * torch.rand(images, 3, 96, 96)), torch.zeros(images).long())
    assert loss.isfinite()
    measured = sum(size for _, size in kept.values()) / images
    assert measured / 2 < 4 * activations(found.sizes) < measured * 2


def test_the_memory_of_a_training_is_a_sentence() -> None:
    needed = training_memory(architecture(None).sizes, batch_size=64, adam=True, bfloat16=False)
    assert needed.total == needed.weights + needed.activations
    assert needed.weights == 20 * needed.parameters
    assert "GiB for weights, gradients and optimiser" in str(needed)
    more = Stage(momentum=0.9, ema=0.99).more_copies
    needed = training_memory(architecture(None).sizes, batch_size=64, adam=False, bfloat16=False, more_copies=more)
    assert needed.weights == 20 * needed.parameters  # weights, best weights, gradients, momentum, average


def rows(**first: Any) -> dict[str, Any]:
    return {"variants": {"table2_small": [PLAIN_ROW | first, *[PLAIN_ROW] * 4]}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"compute.threads": 10**12}, "compute.threads: .*less than or equal to 1024"),
        ({"network.widths": [10**6] * 4}, r"network: the network would have [\d,]+ parameters, [\d,]+ GiB of weights"),
        ({"network.widths": [2**31, 1, 1, 1]}, "network.widths.0: .*less than 2147483648"),
        ({"network.head": [10**9]}, r"network: the network would have .*lower widths, depths, head"),
        ({"network.head": [10**18]}, "network.head.0: .*less than 2147483648"),
        ({"network.depths": [10**6, 1, 1, 1]}, "network.depths.0: .*less than or equal to 1000"),
        ({"network.head": [1] * 10**4}, "network.head: .*at most 100 items"),
        (rows(pool=2**31), "variants.table2_small.lhc1.pool: .*less than or equal to 1024"),
        (rows(pool=10**9), "variants.table2_small.lhc1.pool: .*less than or equal to 1024"),
        (rows(kernel=1000001), "variants.table2_small.lhc1.kernel: .*less than or equal to 1024"),
        (rows(d=10**12), "variants.table2_small.lhc1.d: .*less than 2147483648"),
        (rows(d=10**9), "variants.table2_small: the network would have .* d and kernel"),
        (rows(heads=10**9, split="learnt"), "variants.table2_small: the network would have "),
        (rows(heads=2**40, split="learnt"), "variants.table2_small.lhc1.heads: .*less than 2147483648"),
        (
            {"stage1.batch_size": 10**9},
            r"network: a training with batches of 1,000,000,000 images \(stage1\)",
        ),
        ({"control.training.batch_size": 10**9}, r"images \(control.training\) would need .* lower control.training"),
        ({"evaluation.batch_size": 10**12}, "evaluation.batch_size: .*less than 2147483648"),
        ({"checkpoints.folder": "a\0b"}, "checkpoints.folder"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_impossible_settings_are_refused_before_anything_is_built(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(LhcnetError, match=says) as error:
        profile("demo", changes)
    assert str(error.value).isprintable()
