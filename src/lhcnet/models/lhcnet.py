"""LHC-Net: a ResNet34v2 with an LHC module in each of its five places (Figure 1, Table 2).

``build`` makes the plain ResNet34v2, LHC-Net and LHC-NetC from numbers alone; ``insert_modules`` turns a
trained ResNet34v2 into an LHC-Net and ``add_control`` a trained LHC-Net into an LHC-NetC. All are one class
of network, with other things in its attention slots.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lhcnet.config import map_sides
from lhcnet.models.lhc import LHC
from lhcnet.models.resnetv2 import PLACES, ResNetV2

CONTROL_START = (
    0.0,
    0.0,
    0.0,
    -1.0,
    -0.5,
)  # w of LHC-NetC before training; from the reference, not the paper

ModuleSettings = Mapping[str, int | float]
"""One row of Table 2: ``heads`` and ``d``, optionally ``pool`` (3), ``g`` (1.0) and ``kernel`` (3)."""


class ResidualLHC(nn.Module):
    """x + LHC(x), or x + (1 + tanh(w)) * LHC(x) with one trainable number w (LHC-NetC)."""

    def __init__(self, lhc: LHC, w: float | None = None) -> None:
        super().__init__()
        self.lhc = lhc
        self.w = None if w is None else nn.Parameter(lhc.w1.new_tensor(w))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lhc(x)
        if self.w is not None:
            y = y * (1 + self.w.tanh()).to(y.dtype)
        return x + y


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
) -> ResNetV2:
    """A network with fresh weights: ResNet34v2, LHC-Net (``modules``) or LHC-NetC (``modules``, ``control``).

    Args:
        input_size, depths, widths, head, dropout, classes, bn_momentum: as in :class:`ResNetV2`.
        modules: the five rows of Table 2, or None for the plain network.
        control: add the weights w of LHC-NetC.
        seed: equal seeds give equal bytes. The backbone and each module draw from streams of their own, so
            one seed gives one backbone, with and without modules. None draws from torch's global generator.

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
    network.to_empty(device="cpu")
    network.reset_parameters(_generator(seed, "backbone"))
    if modules is not None:
        insert_modules(network, modules, seed)
    return add_control(network) if control else network


def insert_modules(network: ResNetV2, modules: Sequence[ModuleSettings], seed: int | None) -> ResNetV2:
    """Put five fresh LHC modules into a plain network, in place; its own weights are not touched.

    A fresh module is not an identity (its value convolution starts Glorot-uniform), so the network's outputs
    change with the insertion, as in the paper.

    Args:
        network: a trained ResNet34v2; also returned.
        modules: the five rows of Table 2.
        seed: as in :func:`build`.

    Raises:
        ValueError: not five rows, a setting that cannot be, or a network that has modules already. The
            network is then as it was.
    """
    if not all(isinstance(slot, nn.Identity) for slot in network.attention):
        raise ValueError("the network has attention modules already; insert into the plain ResNet")
    if len(modules) != len(PLACES):
        raise ValueError(f"LHC-Net needs {len(PLACES)} modules (LHC1..LHC5), not {len(modules)}")
    shapes = slot_shapes(network.input_size, network.widths)
    like = network.logits.weight
    slots = []
    for place, shape, row in zip(PLACES, shapes, modules, strict=True):
        lhc = _module(place, shape, row).to_empty(device="cpu")
        lhc.reset_parameters(_generator(seed, place))
        slots.append(ResidualLHC(lhc).to(device=like.device, dtype=like.dtype).train(network.training))
    network.attention = nn.ModuleList(slots)
    return network


def add_control(network: ResNetV2) -> ResNetV2:
    """Turn an LHC-Net into an LHC-NetC, in place: the five w start at ``CONTROL_START``.

    Raises:
        ValueError: the network has no LHC modules, or has its w already.
    """
    slots = [slot for slot in network.attention if isinstance(slot, ResidualLHC)]
    if len(slots) != len(PLACES):
        raise ValueError(f"control weights need {len(PLACES)} LHC modules, the network has {len(slots)}")
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
    if len(found) != len(PLACES):
        raise ValueError(f"expected an LHC-NetC with {len(PLACES)} control weights, the network has {len(found)}")
    return found[0], found[1], found[2], found[3], found[4]


def slot_shapes(input_size: int, widths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(C, H, W) at the five places for square images: (64, 56, 56), ..., (512, 7, 7) at 224 (Figure 1)."""
    channels = (widths[0], *widths)
    return [(c, side, side) for c, side in zip(channels, map_sides(input_size), strict=True)]


def count_parameters(network: nn.Module) -> int:
    """Parameters counted as Keras does, BatchNorm's moving means and variances among them."""
    statistics = (buffer for buffer in network.buffers() if buffer.is_floating_point())
    return sum(tensor.numel() for tensor in (*network.parameters(), *statistics))


def _module(place: str, shape: tuple[int, int, int], row: ModuleSettings) -> LHC:
    """The LHC of one row of Table 2, on the meta device; errors carry the place."""
    unknown = sorted(set(row) - {"heads", "d", "pool", "g", "kernel"})
    missing = sorted({"heads", "d"} - set(row))
    if unknown or missing:
        raise ValueError(f"{place}: unknown settings {unknown}, missing settings {missing}")
    for name, value in row.items():
        if name != "g" and value != int(value):
            raise ValueError(f"{place}: {name}={value} must be a whole number")
    try:
        with torch.device("meta"):
            return LHC(
                *shape,
                heads=int(row["heads"]),
                d=int(row["d"]),
                pool=int(row.get("pool", 3)),
                g=float(row.get("g", 1.0)),
                kernel=int(row.get("kernel", 3)),
            )
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _generator(seed: int | None, stream: str) -> torch.Generator | None:
    """A generator of its own for each part, so that no part's weights depend on another's size."""
    if seed is None:
        return None
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
