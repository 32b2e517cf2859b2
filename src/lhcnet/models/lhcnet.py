"""LHC-Net: a ResNet34v2 with an LHC module in each of its five places (Figure 1, Table 2).

``build`` makes the plain ResNet34v2, LHC-Net and LHC-NetC from numbers alone; ``insert_modules`` turns a
trained ResNet34v2 into an LHC-Net and ``add_control`` a trained LHC-Net into an LHC-NetC. All are one class
of network, with other things in its attention slots.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lhcnet.config import BaselineSettings, LHCSettings, parse
from lhcnet.errors import LhcnetError
from lhcnet.geometry import map_sides
from lhcnet.models.baseline_attention import baseline_attention
from lhcnet.models.lhc import LHC, crop_to_same
from lhcnet.models.resnetv2 import BN_EPS, SLOTS, ResNetV2

CONTROL_START = (
    0.0,
    0.0,
    0.0,
    -1.0,
    -0.5,
)  # w of LHC-NetC before training; from the reference, not the paper

ModuleSettings = Mapping[str, int | float | str | bool]
"""One row of Table 2, the keys of :class:`lhcnet.config.LHCSettings`, or of :class:`lhcnet.config.BaselineSettings`."""


class ResidualLHC(nn.Module):
    """x + LHC(x), or x + (1 + tanh(w)) * LHC(x) with one trainable number w (LHC-NetC).

    Args:
        lhc: the module.
        w: start of w, or None for the plain sum.
        norm, second_conv: what section 5 leaves open. With all of it x + norm(conv(LHC(norm(x)))), so that the sum
            keeps x itself; the second convolution has LHC's kernel size.
        bn_momentum: of the norms, as in :class:`ResNetV2`.
    """

    def __init__(
        self,
        lhc: LHC,
        w: float | None = None,
        *,
        norm: Literal["none", "before", "after", "both"] = "none",
        second_conv: bool = False,
        bn_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        C, s = lhc.channels, lhc.kernel
        before, after = norm in ("before", "both"), norm in ("after", "both")
        self.norm1 = nn.BatchNorm2d(C, eps=BN_EPS, momentum=bn_momentum) if before else None
        self.lhc = lhc
        self.conv2 = nn.Conv2d(C, C, s, padding=s // 2) if second_conv else None
        self.norm2 = nn.BatchNorm2d(C, eps=BN_EPS, momentum=bn_momentum) if after else None
        self.w = None if w is None else nn.Parameter(lhc.w1.new_tensor(w))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """LHC's start first, so that it is the same with and without the rest; Glorot and zero biases; w stays."""
        self.lhc.reset_parameters(generator)
        for norm in (self.norm1, self.norm2):
            if norm is not None:
                norm.reset_parameters()
        if self.conv2 is not None:
            nn.init.xavier_uniform_(self.conv2.weight, generator=generator)
            if self.conv2.bias is not None:
                nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.w is not None:
            y = y * (1 + self.w.tanh()).to(y.dtype)
        return x + y

    def branch(self, x: Tensor) -> Tensor:
        """What is added to x, before w weighs it: (B, C, H, W) in and out."""
        y: Tensor = self.lhc(x if self.norm1 is None else self.norm1(x))
        if self.conv2 is not None:
            y = crop_to_same(self.conv2(y), self.lhc.kernel)
        return y if self.norm2 is None else self.norm2(y)


def build(
    *,
    input_size: int,
    depths: Sequence[int] = (3, 4, 6, 3),
    widths: Sequence[int] = (64, 128, 256, 512),
    head: Sequence[int] = (4096, 1024),
    dropout: float = 0.4,
    classes: int = 7,
    bn_momentum: float = 0.01,
    modules: Sequence[ModuleSettings] | None = None,
    control: bool = False,
    seed: int | None = None,
    device: str = "cpu",
) -> ResNetV2:
    """A network with fresh weights: ResNet34v2, LHC-Net (``modules``) or LHC-NetC (``modules``, ``control``).

    Args:
        input_size, depths, widths, head, dropout, classes, bn_momentum: as in :class:`ResNetV2`.
        modules: the five rows of Table 2, or None for the plain network.
        control: add the weights w of LHC-NetC.
        seed: equal seeds give equal bytes. The backbone and each module draw from streams of their own, so
            one seed gives one backbone, with and without modules. None draws from torch's global generator.
        device: `cpu`, or `meta` for the shapes alone, without memory and without a seed.

    Raises:
        ValueError: not five rows, a setting that cannot be (the place is named), or control without modules.
    """
    with torch.device("meta"):  # allocate once, draw once, and leave the global generator alone
        network = ResNetV2(
            input_size=input_size,
            depths=depths,
            widths=widths,
            head=head,
            dropout=dropout,
            classes=classes,
            bn_momentum=bn_momentum,
        )
    _allocate(network, device)
    network.reset_parameters(named_generator(seed, "backbone"))
    if modules is not None:
        insert_modules(network, modules, seed)
    return add_control(network) if control else network


def insert_modules(network: ResNetV2, modules: Sequence[ModuleSettings], seed: int | None) -> ResNetV2:
    """Put five fresh attention modules into a plain network, in place; its own weights are not touched.

    A fresh module is not an identity (its value convolution starts Glorot-uniform), so the network's outputs
    change with the insertion, as in the paper.

    Args:
        network: a trained ResNet34v2; also returned.
        modules: the five rows of Table 2; the row ``{"attention": "se"}`` (or cbam, eca) puts another module there.
        seed: as in :func:`build`.

    Raises:
        ValueError: not five rows, a setting that cannot be, or a network that has modules already. The
            network is then as it was.
        LhcnetError: another module than LHC is asked for and timm is not installed.
    """
    if not all(isinstance(slot, nn.Identity) for slot in network.attention):
        raise ValueError("the network has attention modules already; insert into the plain ResNet")
    if len(modules) != len(SLOTS):
        raise ValueError(f"LHC-Net needs {len(SLOTS)} modules (LHC1..LHC5), not {len(modules)}")
    shapes = slot_shapes(network.input_size, network.widths)
    like = network.logits.weight
    where = "meta" if like.is_meta else "cpu"  # a seed gives the same start whatever device the module then goes to
    slots = []
    for place, shape, row in zip(SLOTS, shapes, modules, strict=True):
        momentum = network.bn.momentum or 0.0
        slot = fresh_module(
            row, shape, place, bn_momentum=momentum, generator=named_generator(seed, place), device=where
        )
        slots.append(slot.to(device=like.device, dtype=like.dtype).train(network.training))
    network.attention = nn.ModuleList(slots)
    return network


def add_control(network: ResNetV2) -> ResNetV2:
    """Turn an LHC-Net into an LHC-NetC, in place: the five w start at ``CONTROL_START``.

    Raises:
        ValueError: the network has no LHC modules, or has its w already.
    """
    slots = [slot for slot in network.attention if isinstance(slot, ResidualLHC)]
    if len(slots) != len(SLOTS):
        raise ValueError(f"control weights need {len(SLOTS)} LHC modules, the network has {len(slots)}")
    if any(slot.w is not None for slot in slots):
        raise ValueError("the network has its control weights already")
    for slot, w in zip(slots, CONTROL_START, strict=True):
        slot.w = nn.Parameter(slot.lhc.w1.new_tensor(w))
    return network


def freeze_all_but_control(network: ResNetV2) -> ResNetV2:
    """Leave only the five w of an LHC-NetC to be trained, in place."""
    network.requires_grad_(False)
    for slot in network.attention:
        if isinstance(slot, ResidualLHC) and slot.w is not None:
            slot.w.requires_grad_(True)
    return network


def control_weights(network: ResNetV2) -> tuple[float, float, float, float, float]:
    """The five w of an LHC-NetC. Raises ValueError when the network is none."""
    found = [slot.w.item() for slot in network.attention if isinstance(slot, ResidualLHC) and slot.w is not None]
    if len(found) != len(SLOTS):
        raise ValueError(f"expected an LHC-NetC with {len(SLOTS)} control weights, the network has {len(found)}")
    return found[0], found[1], found[2], found[3], found[4]


def slot_shapes(input_size: int, widths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(C, H, W) at the five places for square images: (64, 56, 56), ..., (512, 7, 7) at 224 (Figure 1)."""
    channels = (widths[0], *widths)
    return [(c, side, side) for c, side in zip(channels, map_sides(input_size), strict=True)]


def count_parameters(network: nn.Module) -> int:
    """Parameters counted as Keras does, BatchNorm's moving means and variances among them."""
    statistics = (buffer for buffer in network.buffers() if buffer.is_floating_point())
    return sum(tensor.numel() for tensor in (*network.parameters(), *statistics))


def attention_share(network: ResNetV2) -> float:
    """The part of all parameters, counted as :func:`count_parameters` does, in the five places (Table A2: 14.8 %)."""
    return count_parameters(network.attention) / count_parameters(network)


def fresh_module(
    row: ModuleSettings,
    shape: tuple[int, int, int],
    place: str,
    *,
    bn_momentum: float,
    generator: torch.Generator | None,
    device: str = "cpu",
) -> nn.Module:
    """The attention module of one row for maps of shape (C, H, W), with its start; on `device`, float32.

    Raises:
        ValueError: a setting that cannot be; the message begins with the place.
    """
    try:
        settings = parse(BaselineSettings if "attention" in row else LHCSettings, dict(row), place)
    except LhcnetError as error:
        raise ValueError(str(error)) from None
    if isinstance(settings, BaselineSettings):
        with torch.device(device):
            return baseline_attention(settings.attention, shape[0], generator)
    options = settings.model_dump(include={"norm", "second_conv"})
    try:
        with torch.device("meta"):  # drawn once, and from its own generator
            lhc = LHC(*shape, **settings.model_dump(exclude=set(options)))
            slot = ResidualLHC(lhc, **options, bn_momentum=bn_momentum)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    _allocate(slot, device)
    slot.reset_parameters(generator)
    return slot


def _allocate(module: nn.Module, device: str) -> None:
    """Memory for what was made on `meta`. `to_empty` does the same, but loads sympy and more for it: half a second."""
    module._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))  # type: ignore[no-untyped-call]


def named_generator(seed: int | None, name: str) -> torch.Generator | None:
    """A generator of its own for each part, so that no part's weights depend on another's size."""
    if seed is None:
        return None
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
