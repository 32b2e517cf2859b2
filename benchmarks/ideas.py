"""What each idea for speed gave: two ways of computing the same, taking turns.

python benchmarks/ideas.py                                  # float32 on the CPU, about five minutes
python benchmarks/ideas.py --device cuda --precision bfloat16
python benchmarks/ideas.py --compile                        # torch.compile alone, with its warm-up
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from measure import machine, medians, seconds
from network import SIZE, STAGE, bare_training, network, noise
from torch import Tensor

from lhcnet.config import Compute
from lhcnet.inference.predict import predict
from lhcnet.inference.tta import plain_views
from lhcnet.runtime import Device, open_device

B = STAGE.batch_size
MAPS = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels and side after stages 1-4
ATTENTION = ((64, 8, 392, 196), (128, 7, 112, 56), (256, 7, 28, 14), (512, 1, 49, 25))  # C, heads, L, d of Table 2


@dataclass(frozen=True)
class Idea:
    """One line of the table: how long without and with it, in milliseconds."""

    name: str
    before: float
    after: float

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return self.name, f"{self.before:.1f} ms", f"{self.after:.1f} ms", f"{self.before / self.after:.2f} x"


def idea(name: str, before: Callable[[], object], after: Callable[[], object]) -> Idea:
    t = medians({"before": before, "after": after}, runs=7)
    return Idea(name, 1e3 * t["before"], 1e3 * t["after"])


def waiting(device: Device, do: Callable[[], object]) -> Callable[[], object]:
    """A GPU computes on after the call: wait for it, so that the time is its own."""

    def run() -> None:
        do()
        if device.torch.type == "cuda":
            torch.cuda.synchronize()

    return run


def forward_backward(device: Device, compute: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], object]:
    def run() -> None:
        for x in inputs:
            x.grad = None
        with device.autocast():
            y = compute(*inputs)
        y.backward(torch.ones_like(y))

    return waiting(device, run)


def maps(device: Device, channels: int, side: int, memory_format: torch.memory_format) -> Tensor:
    x = torch.randn(B, channels, side, side, device=device.torch).contiguous(memory_format=memory_format)
    return x.requires_grad_()


def pools(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) + F.max_pool2d(x, 3, 1, 1)


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(2, 3)).softmax(3) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def normalised_stem(device: Device, *, apart: bool) -> Callable[[], object]:
    """The first convolution with the shift of bn_data in its input, or convolved apart."""
    model = network(lhc=False).train()
    device.move(model)
    x = 255 * torch.rand(B, 1, SIZE, SIZE, device=device.torch).expand(-1, 3, -1, -1)
    x = x.contiguous(memory_format=torch.channels_last)

    def run() -> None:
        with device.autocast():
            y = model._stem(x) if apart else model.stem_conv(model.bn_data(x))
        y.backward(torch.ones_like(y))

    return waiting(device, run)


def convolution(device: Device, memory_format: torch.memory_format) -> Callable[[], object]:
    """One 3x3 convolution of each stage, forward and backward."""
    pairs = []
    for channels, side in MAPS:
        w = torch.randn(channels, channels, 3, 3, device=device.torch).contiguous(memory_format=memory_format)
        pairs.append((maps(device, channels, side, memory_format), w.requires_grad_()))
    runs = [forward_backward(device, lambda x, w: F.conv2d(x, w, padding=1), x, w) for x, w in pairs]
    return lambda: [run() for run in runs]


def optimizer(device: Device, *, fused: bool) -> Callable[[], object]:
    model = network(lhc=True).to(device.torch)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    return waiting(device, torch.optim.Adam(model.parameters(), fused=fused).step)


def inference(device: Device, batch_size: int) -> Callable[[], object]:
    model, images = network(lhc=True), noise(128).images
    device.move(model)
    return lambda: predict(model, images, plain_views(), input_size=SIZE, device=device, batch_size=batch_size)


def ideas(device: Device) -> list[Idea]:
    nchw, last = torch.contiguous_format, torch.channels_last
    attention = []
    for C, heads, L, d in ATTENTION:
        q, k = (torch.randn(B, heads, C, d, device=device.torch, requires_grad=True) for _ in range(2))
        v = torch.randn(B, heads, L, C, device=device.torch).transpose(2, 3).requires_grad_()
        attention.append((q, k, v))

    def all_of(compute: Callable[..., Tensor]) -> Callable[[], object]:
        runs = [forward_backward(device, compute, *inputs) for inputs in attention]
        return lambda: [run() for run in runs]

    half, big = maps(device, 64, SIZE // 2, last), (3, 2, 1)
    return [
        idea(
            "channels_last: the module's pools at 56x56 (kept)",
            forward_backward(device, pools, maps(device, 64, 56, nchw)),
            forward_backward(device, pools, maps(device, 64, 56, last)),
        ),
        idea(
            "channels_last: one 3x3 convolution of each stage (kept)", *(convolution(device, f) for f in (nchw, last))
        ),
        idea(
            "the stem's max-pool before its ReLU (kept)",
            forward_backward(device, lambda x: F.max_pool2d(F.relu(x), *big), half),
            forward_backward(device, lambda x: F.relu(F.max_pool2d(x, *big)), half),
        ),
        idea("the stem's shift convolved apart (kept)", *(normalised_stem(device, apart=a) for a in (False, True))),
        idea("attention: products and softmax instead of SDPA (kept)", all_of(sdpa), all_of(explicit)),
        idea("fused Adam (kept)", *(optimizer(device, fused=fused) for fused in (False, True))),
        idea("evaluation in batches of 32, not 128 (kept)", *(inference(device, b) for b in (128, 32))),
    ]


def compiled(device: Device) -> tuple[float, Idea]:
    """Seconds of torch.compile's warm-up, and what it then gives a training step of ResNet34v2 on ready tensors."""
    step = bare_training(device, steps=1, compiled=True)
    warm_up = seconds(step)
    return warm_up, idea("torch.compile of the ResNet34v2 step (left out)", bare_training(device, steps=1), step)


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile alone.")] = False,
) -> None:
    where = open_device(Compute.model_validate({"device": device, "precision": precision}))
    print(machine("torch"))
    if compile:
        warm_up, found = compiled(where)
        print(f"{' | '.join(found.cells)}, after a warm-up of {warm_up:.0f} s")
        return
    print("| idea | without | with | gave |\n| --- | --- | --- | --- |")
    for found in ideas(where):
        print(f"| {' | '.join(found.cells)} |")


if __name__ == "__main__":
    typer.run(main)
