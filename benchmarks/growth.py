"""How cost grows: with images, input size, heads and seeds.

python benchmarks/growth.py                                 # on the CPU, about four minutes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from ideas import forward_backward
from measure import machine, medians
from network import STAGE, noise

from lhcnet.config import Compute
from lhcnet.models.lhc import LHC
from lhcnet.models.lhcnet import LHCNet
from lhcnet.runtime import Device, open_device
from lhcnet.training.loop import train_epoch
from lhcnet.training.optimizer import make_optimizer
from lhcnet.training.state import EpochTotals

SIZES = (48, 96, 144, 192, 224)
IMAGES = (1000, 4000, 12000, 36000)
HEADS = (1, 2, 4, 8, 16, 32)
MODULES = [{"heads": heads, "d": d} for heads, d in ((8, 196), (8, 196), (4, 56), (1, 14), (1, 25))]  # fit every size

Growth = tuple[str, list[tuple[int, float, float]]]
"""Of what; and for each amount the seconds, and the microseconds per unit of work."""


def epoch(device: Device, *, size: int, images: int, small: bool = False) -> Callable[[], object]:
    """An epoch of LHC-Net."""
    few: dict[str, Any] = {"depths": (1, 1, 1, 1), "widths": (8, 8, 8, 8), "head": (16,)} if small else {}
    stage = STAGE.model_copy(update={"batch_size": 256}) if small else STAGE
    modules = [{"heads": 1, "d": 3}] * 5 if small else MODULES
    model = LHCNet(input_size=size, modules=modules, seed=1, **few)
    device.move(model)
    optimizer, split = make_optimizer(model, stage), noise(images)
    pixels = torch.from_numpy(split.images).to(device.torch)
    labels = torch.from_numpy(split.labels).long().to(device.torch)
    settings: dict[str, Any] = {"stage": stage, "seed": "growth", "input_size": size, "device": device, "title": ""}
    return lambda: train_epoch(model, optimizer, pixels, labels, totals=EpochTotals.zero(device.torch), **settings)


def module(device: Device, heads: int) -> Callable[[], object]:
    """LHC1 of Table 2 with other heads, forward and backward, 16 images."""
    lhc = LHC(64, 56, 56, heads=heads, d=196).to(device.torch)
    x = torch.randn(16, 64, 56, 56, device=device.torch).contiguous(memory_format=torch.channels_last)
    return forward_backward(device, lhc, x.requires_grad_())


def grown(what: str, candidates: dict[int, Callable[[], object]], units: Callable[[int], float]) -> Growth:
    t = medians({str(amount): do for amount, do in candidates.items()})
    return what, [(n, t[str(n)], 1e6 * t[str(n)] / units(n)) for n in candidates]


def growth(device: Device) -> list[Growth]:
    return [
        grown(
            "side of the images (LHC-Net, one step of 16), per pixel",
            {size: epoch(device, size=size, images=16) for size in SIZES},
            lambda size: 16 * size**2,
        ),
        grown(
            "training images (one block a stage, 8 channels, 32x32, one epoch), per image",
            {n: epoch(device, size=32, images=n, small=True) for n in IMAGES},
            lambda n: n,
        ),
        grown("heads (LHC1, 16 images)", {n: module(device, n) for n in HEADS}, lambda n: 16),
    ]


def main(device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu") -> None:
    where = open_device(Compute.model_validate({"device": device}))
    print(machine("torch"))
    for what, lines in growth(where):
        print(f"\n| {what} | seconds | microseconds per unit |\n| --- | --- | --- |")
        for amount, seconds, each in lines:
            print(f"| {amount} | {seconds:.3f} | {each:.3g} |")


if __name__ == "__main__":
    typer.run(main)
