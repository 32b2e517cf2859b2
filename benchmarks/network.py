"""How fast the network trains and predicts: the rows of docs/performance.md that need no data set.

python benchmarks/network.py                                # float32 on the CPU, all cores
python benchmarks/network.py --precision bfloat16
python benchmarks/network.py --device cuda --precision bfloat16
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from measure import Row, machine, medians
from torch.utils.flop_counter import FlopCounterMode

from lhcnet.config import Augmentation, Compute, Stage
from lhcnet.inference.predict import predict
from lhcnet.inference.tta import plain_views, tta_views
from lhcnet.models.lhcnet import LHCNet
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.runtime import Device, open_device
from lhcnet.training.loop import DataSplit, fit, train_epoch
from lhcnet.training.optimizer import make_optimizer
from lhcnet.training.state import EpochTotals

SIZE = 224
STAGE = Stage(batch_size=16, epochs=2, augmentation=Augmentation(rotation=10.0, shift=0.1, zoom=0.1, flip=True))
EVALUATION_BATCH = 32
TTA_IMAGES = 2


def network(*, lhc: bool, input_size: int = SIZE) -> ResNetV2:
    """ResNet34v2, or LHC-Net with Table 2's modules."""
    return LHCNet(input_size=input_size, seed=1) if lhc else ResNetV2(input_size=input_size, seed=1)


def noise(n: int) -> DataSplit:
    """n images of 48x48 random grey values with random labels: speed does not depend on what they show."""
    rng = np.random.default_rng(0)
    return DataSplit(rng.integers(0, 256, (n, 48, 48), np.uint8), rng.integers(0, 7, n, np.uint8))


def training(device: Device, *, lhc: bool, steps: int, stage: Stage = STAGE) -> Callable[[], object]:
    """`steps` training steps as `fit` makes them: from stored images to the optimiser, augmentation included."""
    model = network(lhc=lhc)
    device.move(model)
    optimizer, split = make_optimizer(model, stage), noise(steps * stage.batch_size)
    images = torch.from_numpy(split.images).to(device.torch)
    labels = torch.from_numpy(split.labels.astype(np.int64)).to(device.torch)
    settings: dict[str, Any] = {"stage": stage, "seed": "speed", "input_size": SIZE, "device": device, "title": ""}
    return lambda: train_epoch(model, optimizer, images, labels, totals=EpochTotals.zero(device.torch), **settings)


def bare_training(device: Device, *, steps: int, compiled: bool = False) -> Callable[[], object]:
    """The same steps of ResNet34v2 on tensors that are ready: no data path."""
    stage, plain = STAGE, network(lhc=False).train()
    device.move(plain)
    optimizer = make_optimizer(plain, stage)
    model = torch.compile(plain) if compiled else plain
    pixels = 255 * torch.rand(stage.batch_size, 1, SIZE, SIZE, device=device.torch)
    x = pixels.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    y = torch.randint(7, (stage.batch_size,), device=device.torch)

    def run() -> float:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with device.autocast():
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y)
            loss.backward()
            optimizer.step()
        return loss.item()  # waits for the device

    return run


def matrix_product(device: Device, n: int = 2048) -> Callable[[], object]:
    """One product of two n x n matrices in the precision of the run: 2 n^3 operations."""
    dtype = torch.float32 if device.precision == "float32" else torch.bfloat16
    a, b = torch.randn(2, n, n, device=device.torch).to(dtype)
    return lambda: (a @ b)[0, 0].item()


def step_operations(*, lhc: bool) -> float:
    """Floating-point operations of convolutions and matrix products, forward and backward, an image."""
    model, images = network(lhc=lhc).train(), torch.rand(2, 3, SIZE, SIZE)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return float(counter.get_total_flops() / len(images))


def training_rows(device: Device) -> list[Row]:
    steps = 1 if device.torch.type == "cpu" else 50
    t = medians({
        "lhc": training(device, lhc=True, steps=steps),
        "plain": training(device, lhc=False, steps=steps),
        "bare": bare_training(device, steps=steps),
        "matrix": matrix_product(device),
    })  # fmt: skip
    images = steps * STAGE.batch_size
    speed = images * step_operations(lhc=False) / t["plain"] / 1e9  # GFLOP/s
    matrix = 2 * 2048**3 / t["matrix"] / 1e9
    arithmetic = step_operations(lhc=True) / step_operations(lhc=False)
    ratio = f"{t['lhc'] / t['plain']:.2f} (arithmetic {arithmetic:.2f})"
    share = f"{100 * speed / matrix:.0f} % ({speed:.0f} of {matrix:.0f} GFLOP/s)"
    return [
        Row("LHC-Net training, B=16", "reference 3.1 img/s", ">= 11 img/s", f"{images / t['lhc']:.2f} img/s"),
        Row("ResNet34v2 training, B=16", "reference 6.1 img/s", "-", f"{images / t['plain']:.2f} img/s"),
        Row("LHC-Net step / ResNet34v2 step", "reference 1.94", "<= 1.35", ratio),
        Row("ResNet34v2 step / bare, tensors ready", "-", "<= 1.05", f"{t['plain'] / t['bare']:.3f}"),
        Row(
            f"ResNet34v2 step, share of a {device.precision} product of 2048 x 2048 matrices",
            "80 % for a bare backbone in bfloat16",
            ">= 75 % of bfloat16",
            share,
        ),
    ]


def inference_rows(device: Device) -> list[Row]:
    models = {name: network(lhc=name == "lhc") for name in ("lhc", "plain")}
    for model in models.values():
        device.move(model)
    many, few = noise(EVALUATION_BATCH).images, noise(TTA_IMAGES).images

    def predicting(name: str) -> Callable[[], object]:
        return lambda: predict(models[name], many, plain_views(), input_size=SIZE, device=device)

    def plain() -> None:
        for _ in range(60):
            predict(models["lhc"], few, plain_views(), input_size=SIZE, device=device)

    def tta() -> None:
        predict(models["lhc"], few, tta_views(), input_size=SIZE, device=device)

    t = medians({"lhc": predicting("lhc"), "plain": predicting("plain"), "tta": tta, "60 plain": plain})
    return [
        Row("LHC-Net inference, B=32", "reference 16 img/s", ">= 36 img/s", f"{len(many) / t['lhc']:.1f} img/s"),
        Row("ResNet34v2 inference, B=32", "51 img/s in bfloat16", "-", f"{len(many) / t['plain']:.1f} img/s"),
        Row("TTA, 60 views / a plain pass", "60", "<= 61", f"{60 * t['tta'] / t['60 plain']:.1f}"),
    ]


def memory_row(device: Device) -> Row:
    """Peak of a fresh process that trains through `fit`: Python, torch, the best weights and validation included."""
    command = [sys.executable, __file__, "--peak", "--device", device.torch.type, "--precision", device.precision]
    peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    return Row(
        f"Peak memory of LHC-Net training, B=16, {device.precision}", "reference 3.1 GB", "<= 2 GB", f"{peak} GB"
    )


def peak_of_training(device: Device) -> float:
    """GB (1e9 bytes)."""
    split = noise(3 * STAGE.batch_size)
    fit(network(lhc=True), split, split, STAGE, seed=1, input_size=SIZE, device=device)
    if device.torch.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status").read_text()  # not getrusage: there a process inherits its parent's peak
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / 1e9


def rows(device: Device) -> list[Row]:
    return [*training_rows(device), *inference_rows(device)]


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    peak: Annotated[bool, typer.Option(help="Train a little and print the peak memory alone.")] = False,
) -> None:
    where = open_device(Compute.model_validate({"device": device, "precision": precision}))
    if peak:
        print(f"{peak_of_training(where):.2f}")
        return
    print(machine("torch"))
    for row in [*rows(where), memory_row(where)]:
        print(f"| {row.what} | {row.elsewhere} | {row.asked} | {row.here} |")


if __name__ == "__main__":
    typer.run(main)
