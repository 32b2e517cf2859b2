"""Time and memory of a training, measured on this machine with a few of its own batches before it begins."""

from __future__ import annotations

import resource
import sys
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lhcnet.config import Stage
from lhcnet.runtime import Device
from lhcnet.training.average import moving_average
from lhcnet.training.loop import DataSplit, batch_slices, require_sizes, train_epoch
from lhcnet.training.optimizer import make_optimizer
from lhcnet.training.state import EpochTotals

_BATCHES, _FEWEST, _LONGEST = 3, 2, 10.0  # seconds
_SHARE, _SETTLED = 0.01, 5.0  # small batches: measured for this share of the training, and for so many seconds at most


@dataclass(frozen=True)
class Trial:
    """What a few batches of a training needed.

    Args:
        seconds: estimated seconds of an epoch with its validation, by the side of its images.
        memory: most bytes that this process has had in main memory; on a GPU, that its tensors have had there.
    """

    seconds: dict[int, float]
    memory: int


def try_batches(
    network: nn.Module, train: DataSplit, stage: Stage, *, validation: int, input_size: int, device: Device
) -> Trial:
    """Train a copy of the network on a few batches, at each size of its images.

    The copy is trained as `fit` trains: in training mode, on real images, with augmentation, optimiser and moving
    average. In evaluation mode, blank images took up to six times as long: numbers below the smallest normal one fill
    their maps, and processors are slow with those. Nothing of the network changes, nor do the random numbers.

    The first batches also allocate memory and choose kernels, and the process that records in MLflow starts beside
    them, so the fastest one counts: of those of five seconds or a hundredth of the training, whichever is shorter,
    but of three at least, or of two if they take ten seconds.

    Args:
        network: the network to train.
        train: the training split.
        stage: settings of the training.
        validation: number of validation images; without gradients they take a third of the time.
        input_size: S, side of the network's input in pixels.
        device: where to train, and in which precision.

    Raises:
        LhcnetError: the network cannot be trained at the sizes of the stage.
    """
    require_sizes(network, stage, input_size)
    images = len(train.labels)
    batch = batch_slices(images, stage.batch_size)[0].stop
    rows = np.linspace(0, images - 1, batch, dtype=np.int64)  # of all classes: splits are sorted by class
    pixels = torch.from_numpy(np.array(train.images[rows])).to(device.torch)
    labels = torch.from_numpy(train.labels[rows].astype(np.int64)).to(device.torch)
    targets = None if train.targets is None else torch.from_numpy(train.targets[rows]).to(device.torch)
    seconds: dict[int, float] = {}
    with torch.random.fork_rng(devices=[device.torch] if device.torch.type == "cuda" else []):
        copy = deepcopy(network)
        device.move(copy)
        average = moving_average(copy, stage.ema) if stage.ema else None
        optimizer = make_optimizer(copy, stage)

        def batch_seconds(size: int) -> float:
            start = time.perf_counter()
            with suppress(FloatingPointError):  # a training that diverges says so itself
                train_epoch(
                    copy,
                    optimizer,
                    pixels,
                    labels,
                    stage=stage,
                    seed="trial",
                    input_size=size,
                    device=device,
                    totals=EpochTotals.zero(device.torch),
                    title=f"measuring, {size} px",
                    average=average,
                    targets=targets,
                )
            return time.perf_counter() - start

        for size in dict.fromkeys(size for _, size in stage.sizes or ((1, input_size),)):
            begun, taken, spent, enough = time.perf_counter(), list[float](), 0.0, 0.0
            epochs = sum(number for number, one in stage.sizes if one == size) or stage.epochs
            while len(taken) < _FEWEST or spent < (_LONGEST if len(taken) < _BATCHES else enough):
                taken.append(batch_seconds(size))
                seconds[size] = min(taken) / batch * (images + validation / 3)
                spent, enough = time.perf_counter() - begun, min(_SETTLED, _SHARE * epochs * seconds[size])
    return Trial(seconds, _peak_memory(device))


def _peak_memory(device: Device) -> int:
    if device.torch.type == "cuda":
        return torch.cuda.max_memory_allocated(device.torch)
    with suppress(OSError, StopIteration):  # only Linux has this file
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on Linux, that of the parent process if it had more
    return peak if sys.platform == "darwin" else peak << 10
