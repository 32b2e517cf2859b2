"""Where the arithmetic runs: device, precision and threads of `compute`, made real once a process."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from lhcnet.config import Compute
from lhcnet.errors import LhcnetError
from lhcnet.models.layout import layout


@dataclass(frozen=True)
class Device:
    """A torch device and the precision of its forward passes. Weights, losses and reductions stay float32."""

    torch: torch.device
    precision: str

    def place(self, network: nn.Module) -> None:
        """Move a network to the device, in place. The weights of its convolutions lie as its maps do."""
        convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
        network.to(self.torch).to(memory_format=layout(*(module.out_channels for module in convolutions)))

    def autocast(self) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.torch.type, dtype=torch.bfloat16)


def open_device(compute: Compute) -> Device:
    """Apply `compute` to this process. Raises `LhcnetError` where a GPU is asked for and none is seen."""
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise LhcnetError(
            "compute.device: cuda was asked for, but torch sees no CUDA GPU here; expected a GPU, or `device: cpu`"
        )
    if compute.device == "cuda":  # float32 means float32, and the same choice of algorithm every time
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    if compute.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
    if compute.threads:
        torch.set_num_threads(compute.threads)
    return Device(torch.device(compute.device), compute.precision)
