"""What section 5 of the paper leaves open: other ways to cut heads, norms, a second convolution."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from support.naive_lhc import naive

from lhcnet.errors import LhcnetError
from lhcnet.geometry import grid_shape
from lhcnet.models.head_partition import PARTITIONS, LearntPartition
from lhcnet.models.lhc import LHC
from lhcnet.models.lhcnet import LHCNet
from lhcnet.models.residual import ResidualLHC, attention_module
from lhcnet.profiles import profile

C, H, W, HEADS = 5, 4, 6, 6
OPTIONS = [
    {"split": "vertical"},
    {"split": "grid"},
    {"split": "learnt"},
    {"norm": "before"},
    {"norm": "after"},
    {"norm": "both"},
    {"second_conv": True},
]


def module(split: str, seed: int = 0, **changes: object) -> LHC:
    """In double precision, weights large enough that attention is far from uniform."""
    torch.manual_seed(seed)
    arguments = {"channels": C, "height": H, "width": W, "heads": HEADS, "d": 3, "split": split} | changes
    lhc = LHC(**arguments).double()
    for parameter in lhc.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return lhc


def images(n: int = 2, seed: int = 1) -> torch.Tensor:
    return 3 * torch.randn(n, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slot(seed: int = 0, **options: object) -> ResidualLHC:
    row = {"heads": 6, "d": 3, "kernel": 3} | options
    made = attention_module(row, (C, H, W), "LHC1", bn_momentum=0.25, generator=torch.Generator().manual_seed(seed))
    assert isinstance(made, ResidualLHC)
    return made


def pixels_of(split: str) -> list[NDArray[np.int64]]:
    """The row-major numbers of each head's pixels on the map of 4 x 6, six heads; written out by hand."""
    return {
        "horizontal": np.arange(24).reshape(6, 4),
        "vertical": np.array([[column + 6 * row for row in range(4)] for column in range(6)]),
        "grid": np.array([[p, p + 1, p + 6, p + 7] for p in (0, 2, 4, 12, 14, 16)]),  # 2x3 squares of 2x2
    }[split]


@pytest.mark.parametrize("split", ["horizontal", "vertical", "grid"])
def test_heads_see_their_pixels_and_no_others(split: str) -> None:
    """The equations over hand-written pixel lists: cutting and joining are both right, or this fails."""
    lhc, x = module(split), images()
    expected = torch.from_numpy(np.stack([naive(lhc, image, pixels_of(split)) for image in x.numpy()]))
    with torch.no_grad():
        torch.testing.assert_close(lhc(x), expected, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(lhc(x.to(memory_format=torch.channels_last)), expected, rtol=1e-10, atol=1e-11)


def test_learnt_partitions_are_the_equations_with_masks() -> None:
    lhc, x = module("learnt"), images()
    logits = lhc.partition.logits.detach().numpy()
    masks = np.exp(logits) / np.exp(logits).sum(axis=0)
    everything = [np.arange(H * W)] * HEADS
    expected = np.stack([naive(lhc, image, everything, masks) for image in x.numpy()])
    with torch.no_grad():
        torch.testing.assert_close(lhc(x), torch.from_numpy(expected), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("split", ["horizontal", "vertical", "grid"])
def test_learnt_partitions_with_hard_masks_are_that_split(split: str) -> None:
    """All splits are points of one family: one-hot masks, and zeros in w1 outside of the head's own pixels."""
    hard, learnt = module(split), module("learnt")
    with torch.no_grad():
        state = hard.state_dict()
        state["areas.logits"] = torch.full((HEADS, H * W), -1e4, dtype=torch.float64)
        state["w1"] = torch.zeros(HEADS, H * W, 3, dtype=torch.float64)
        for head, own in enumerate(pixels_of(split)):
            state["areas.logits"][head, own] = 0
            state["w1"][head, own] = hard.w1[head]
        learnt.load_state_dict(state)
        x = images()
        torch.testing.assert_close(learnt(x), hard(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("heads", [1, 4, 7])
def test_learnt_partitions_start_near_the_horizontal_runs_and_share_every_pixel(heads: int) -> None:
    """Seven heads do not divide 24 pixels: nearly equal runs will do."""
    masks = LearntPartition(heads, H, W).masks().detach()
    assert masks.sum(0).allclose(torch.ones(H * W))
    own = masks.argmax(0)
    assert own.tolist() == sorted(own.tolist())
    sizes = own.bincount(minlength=heads)
    assert sizes.max() - sizes.min() <= 1
    assert masks.max(0).values.allclose(torch.full((H * W,), 0.9 if heads > 1 else 1.0))
    drawn = module("learnt", heads=heads)
    drawn.reset_parameters()
    assert drawn.partition.masks().allclose(masks.double())


def test_saved_keys_of_learnt_masks_do_not_change() -> None:
    lhc = module("learnt")
    state = lhc.state_dict()
    assert "areas.logits" in state
    assert not [key for key in state if key.startswith("partition")]
    for other in (copy.deepcopy(lhc), pickle.loads(pickle.dumps(lhc)), module("learnt", seed=9)):
        other.load_state_dict(state)
        assert torch.equal(other.partition.logits, lhc.partition.logits)


@pytest.mark.parametrize("split", PARTITIONS)
def test_intermediates_serve_every_split(split: str) -> None:
    lhc, x = module(split), images()
    with torch.no_grad():
        mid = lhc.intermediates(x)
        torch.testing.assert_close(lhc.partition.join(mid.A), lhc(x), rtol=1e-10, atol=1e-11)
    assert mid.v.shape == mid.A.shape == (2, HEADS, C, H * W if split == "learnt" else H * W // HEADS)
    assert mid.q.shape == (2, HEADS, C, 3)


@pytest.mark.parametrize("split", PARTITIONS)
def test_every_split_works_in_bfloat16(split: str) -> None:
    lhc, x = module(split).float(), images().float()
    lhc.reset_parameters()
    with torch.no_grad():
        exact, narrow = lhc(x), lhc.bfloat16()(x.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            mixed = lhc.float()(x.bfloat16())
    assert narrow.dtype == mixed.dtype == torch.bfloat16
    for y in (narrow, mixed):
        assert (y.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("heads", "height", "width", "shape"),
    [
        (8, 56, 56, (4, 2)),
        (7, 28, 28, (7, 1)),
        (4, 14, 14, (2, 2)),
        (1, 7, 7, (1, 1)),
        (6, 4, 6, (2, 3)),
        (4, 2, 32, (1, 4)),  # as square as rectangles get, not as many rows as columns
        (7, 12, 12, None),
        (8, 4, 9, None),
    ],
)
def test_the_grid_is_as_square_as_it_gets(heads: int, height: int, width: int, shape: tuple[int, int] | None) -> None:
    assert grid_shape(heads, height, width) == shape


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_each_option_changes_the_output_and_no_weight_of_the_module(options: dict[str, object]) -> None:
    plain, changed = slot().eval(), slot(**options).eval()
    x = images().float()
    with torch.no_grad():
        for part in (plain, changed):  # statistics as training leaves them
            for norm in (part.norm1, part.norm2):
                if norm is not None:
                    norm.running_var.fill_(4.0)
        assert (changed(x) - plain(x)).abs().max() > 1e-2
    if options != {"split": "learnt"}:  # there w1 has another shape
        state = changed.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize("norm", ["none", "before", "after", "both"])
@pytest.mark.parametrize("kernel", [None, 1, 2, 3, 4])
def test_norms_and_second_convolution_stand_inside_the_residual_sum(norm: str, kernel: int | None) -> None:
    """x + BN(conv(LHC(BN(x)))), the convolution padded as Keras does, also for even sizes."""
    part = slot(norm=norm, second_conv=kernel is not None, kernel=kernel or 3).double().eval()
    gain, shift, mean, var = (torch.rand(4, C, dtype=torch.float64) + 0.5).unbind()
    for layer in (part.norm1, part.norm2):
        if layer is not None:
            layer.load_state_dict(
                {
                    "weight": gain,
                    "bias": shift,
                    "running_mean": mean,
                    "running_var": var,
                    "num_batches_tracked": torch.tensor(0),
                }
            )

    def bn(z: torch.Tensor) -> torch.Tensor:
        z = (z - mean[:, None, None]) / (var[:, None, None] + 2e-5).sqrt()
        return z * gain[:, None, None] + shift[:, None, None]

    x = images()
    with torch.no_grad():
        y = part.lhc(bn(x) if norm in ("before", "both") else x)
        if kernel is not None:
            before, after = (kernel - 1) // 2, kernel // 2
            y = F.conv2d(F.pad(y, (before, after, before, after)), part.conv2.weight, part.conv2.bias)
        y = bn(y) if norm in ("after", "both") else y
        torch.testing.assert_close(part(x), x + y, rtol=1e-10, atol=1e-10)


def test_second_convolution_starts_glorot_and_norms_follow_the_host() -> None:
    part = slot(norm="both", second_conv=True)
    limit = (6 / (2 * 9 * C)) ** 0.5
    assert 0.9 * limit < part.conv2.weight.abs().max().item() <= limit
    assert not part.conv2.bias.any()
    assert torch.equal(slot(second_conv=True).conv2.weight, part.conv2.weight)  # one stream, one order
    assert (part.norm1.eps, part.norm1.momentum) == (2e-5, 0.25)
    network = LHCNet(
        [{"heads": 1, "d": 2, "norm": "after"}] * 5,
        input_size=32,
        depths=(1, 1, 1, 1),
        widths=(4, 4, 4, 4),
        head=(),
        bn_momentum=0.2,
    )
    assert {s.norm2.momentum for s in network.attention} == {0.2}


def test_a_norm_before_takes_the_scale_out_of_the_scores() -> None:
    """What section 5 wants of it: inputs ten times as large no longer drive the scores, and training stays stable."""
    part, x = slot(norm="before").double().train(), images(8)
    with torch.no_grad():
        torch.testing.assert_close(part.branch(10 * x), part.branch(x), rtol=1e-3, atol=1e-3)


MODULE = {"heads": 1, "d": 3}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"heads": 7, "d": 3, "split": "grid"}, "LHC1: heads=7 do not make a grid of equal rectangles on H*W = 12*12"),
        ({"heads": 7, "d": 3, "split": "vertical"}, "LHC1: heads=7 does not divide H*W = 12*12"),
        ({"heads": 7, "d": 3, "split": "diagonal"}, "variants.x.lhc1.split: Input should be 'horizontal'"),
        ({"heads": 1, "d": 3, "norm": "around"}, "variants.x.lhc1.norm: Input should be 'none'"),
        ({"heads": 1, "d": 3, "second_conv": 1}, "variants.x.lhc1.second_conv"),
        ({"attention": "lhc"}, "variants.x.lhc1.attention: Input should be 'se', 'cbam' or 'eca', not 'lhc'"),
        ({"attention": "se", "heads": 1}, "variants.x.lhc1.heads: unknown key"),
        ({"heads": 1}, "variants.x.lhc1.d: required key is missing"),
    ],
)
def test_impossible_rows_name_slot_or_key(row: dict[str, object], says: str) -> None:
    with pytest.raises(LhcnetError) as error:
        profile("demo", {"variants": {"x": [row] + [MODULE] * 4}})
    assert says in str(error.value)


def test_learnt_partitions_need_no_divisor() -> None:
    made = profile(
        "demo", {"variants": {"x": [{"heads": 7, "d": 3, "split": "learnt"}] + [MODULE] * 4}, "standalone.variant": "x"}
    )
    assert made.variants["x"][0].heads == 7


def test_unknown_split_is_refused_by_the_module_too() -> None:
    with pytest.raises(ValueError, match="split='diagonal' must be one of horizontal, vertical, grid, learnt"):
        module("diagonal")
    with pytest.raises(ValueError, match=r"heads=7 do not make a grid of equal rectangles on H\*W = 4\*6"):
        module("grid", heads=7)
