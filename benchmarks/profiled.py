"""Where the time of one LHC-Net training step goes, by torch.profiler.

python benchmarks/profiled.py                               # --device cuda on a GPU
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from measure import machine
from network import training
from torch.profiler import ProfilerActivity, profile

from lhcnet.config import Compute
from lhcnet.runtime import Device, open_device

GROUPS = {  # the operators' names begin so; the first that fits counts
    "convolution backward": ("aten::convolution_backward", "aten::cudnn_convolution_backward"),
    "convolution forward": ("aten::mkldnn_convolution", "aten::cudnn_convolution", "aten::thnn_conv"),
    "matrix products (attention, head)": ("aten::bmm", "aten::baddbmm", "aten::mm", "aten::addmm"),
    "BatchNorm": ("aten::native_batch_norm", "aten::cudnn_batch_norm"),
    "ReLU": ("aten::clamp_min", "aten::threshold", "aten::relu"),
    "pooling": ("aten::max_pool2d", "aten::avg_pool2d"),
    "softmax": ("aten::_softmax",),
    "copies": ("aten::copy_", "aten::cat", "aten::fill_", "aten::index"),
    "optimiser": ("aten::_foreach", "aten::_fused"),
    "augmentation": ("aten::grid_sampler", "aten::affine_grid"),
}


def shares(device: Device) -> list[tuple[str, float]]:
    """(what, per cent of the step), the largest first."""
    step = training(device, lhc=True, steps=1)
    step()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.torch.type == "cuda")
    with profile(activities=activities) as recorded:
        step()
    taken = dict.fromkeys((*GROUPS, "all else"), 0.0)
    for event in recorded.key_averages():
        found = (name for name, starts in GROUPS.items() if event.key.startswith(starts))
        cuda = device.torch.type == "cuda"
        taken[next(found, "all else")] += event.self_device_time_total if cuda else event.self_cpu_time_total
    total = sum(taken.values())
    return sorted(((name, 100 * value / total) for name, value in taken.items()), key=lambda pair: -pair[1])


def main(device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu") -> None:
    print(machine("torch"))
    print("| part of an LHC-Net training step, B=16 | share |\n| --- | --- |")
    for name, share in shares(open_device(Compute.model_validate({"device": device}))):
        print(f"| {name} | {share:.1f} % |")


if __name__ == "__main__":
    torch.manual_seed(0)
    typer.run(main)
