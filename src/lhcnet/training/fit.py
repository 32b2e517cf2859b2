"""The training loop of one stage, top to bottom (Tables 3-6).

Early stopping on validation accuracy, best weights restored. The start counts as epoch 0, so a stage never
ends worse on validation than it began (the reference's stand-alone mode overwrites its checkpoint with the
first epoch even if worse; on purpose not copied).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from lhcnet.config import Stage
from lhcnet.data.images import affine, draw_affine, upscale
from lhcnet.device import Device
from lhcnet.evaluation.predict import loss_and_accuracy
from lhcnet.models.saved import Epoch

LOOK_EVERY = 50  # batches between looks at the loss: a look waits for the device


@dataclass(frozen=True)
class Split:
    """Images (N, 48, 48) uint8 and labels (N,) uint8 of one split."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class Fit:
    """What a stage ended with: the network holds the weights of `best_epoch`."""

    history: list[Epoch]
    best_epoch: int
    status: Literal["trained", "diverged"]
    reason: str


def fit(
    network: nn.Module,
    train: Split,
    validation: Split,
    stage: Stage,
    *,
    number: int = 0,
    seed: int,
    input_size: int,
    device: Device,
    title: str = "train",
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Fit:
    """Train `network` in place.

    A run that diverges (a loss that is not finite) ends at once with status `diverged` and the best weights so far.
    The same seed gives the same bytes on the same machine and number of threads: every epoch draws from generators
    their own, made of (seed, stage `number`, epoch).
    """
    network.to(device.torch)
    optimizer = _optimizer(network, stage)
    images = torch.from_numpy(np.array(train.images)).to(device.torch)
    labels = torch.from_numpy(train.labels.astype(np.int64)).to(device.torch)

    def validate() -> tuple[float, float]:
        return loss_and_accuracy(network, validation.images, validation.labels, input_size=input_size, device=device)

    val_loss, val_accuracy = validate()
    history = [Epoch(epoch=0, val_loss=finite(val_loss), val_accuracy=val_accuracy)]
    on_epoch(history[0])
    best_epoch, best = 0, _copy(network)
    status: Literal["trained", "diverged"] = "trained"
    reason = ""

    for epoch in range(1, stage.epochs + 1):
        try:
            train_loss, train_accuracy = _train_epoch(
                network,
                optimizer,
                images,
                labels,
                stage,
                f"{seed}/{number}/{epoch}",
                input_size,
                device,
                f"{title} {epoch}",
            )
        except FloatingPointError as error:
            status, reason = "diverged", f"{error} of epoch {epoch}"
            break
        val_loss, val_accuracy = validate()
        history.append(
            Epoch(
                epoch=epoch,
                train_loss=train_loss,
                train_accuracy=train_accuracy,
                val_loss=finite(val_loss),
                val_accuracy=val_accuracy,
            )
        )
        on_epoch(history[-1])
        if not math.isfinite(val_loss):
            status, reason = "diverged", f"validation loss is not finite after epoch {epoch}"
            break
        if val_accuracy > history[best_epoch].val_accuracy:
            best_epoch, best = epoch, _copy(network)
        elif epoch - best_epoch >= stage.patience:
            break

    network.load_state_dict(best)
    return Fit(history, best_epoch, status, reason)


def _train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    stage: Stage,
    seed: str,
    input_size: int,
    device: Device,
    title: str,
) -> tuple[float, float]:
    """Mean loss and accuracy over one shuffled pass. Raises FloatingPointError when the loss is not finite."""
    network.train()
    _freeze_statistics(network)
    torch.manual_seed(_derive(f"{seed}/dropout"))
    generator = torch.Generator().manual_seed(_derive(f"{seed}/data"))  # on the CPU for every device
    order = torch.randperm(len(images), generator=generator)
    loss_sum = torch.zeros((), dtype=torch.float64, device=device.torch)
    hits = torch.zeros((), dtype=torch.int64, device=device.torch)

    for step, rows in enumerate(
        tqdm(_split(order, stage.batch_size), desc=title, unit="batch", leave=False, disable=None)
    ):
        rows = rows.to(device.torch)
        grey = upscale(images[rows], input_size, truncate=True)
        grey = _augment(grey, stage, input_size, generator)
        target = labels[rows]
        with device.autocast():
            logits: Tensor = network(grey.expand(-1, 3, -1, -1))
        loss = F.cross_entropy(logits.float(), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss_sum += loss.detach().double() * len(rows)
        hits += (logits.detach().argmax(1) == target).sum()
        if step % LOOK_EVERY == 0 and not math.isfinite(loss_sum.item()):
            raise FloatingPointError(f"training loss is not finite at batch {step + 1}")

    if not math.isfinite(loss_sum.item()):
        raise FloatingPointError("training loss is not finite at the end")
    return loss_sum.item() / len(images), hits.item() / len(images)


def _freeze_statistics(network: nn.Module) -> None:
    """A BatchNorm whose parameters are frozen uses its moving statistics and leaves them alone, as Keras does."""
    for module in network.modules():
        own = list(module.parameters()) if isinstance(module, nn.BatchNorm2d) else []
        if own and not any(p.requires_grad for p in own):
            module.eval()


def _augment(grey: Tensor, stage: Stage, input_size: int, generator: torch.Generator) -> Tensor:
    a = stage.augmentation
    if not (a.rotation or a.shift or a.zoom or a.flip):
        return grey
    drawn = draw_affine(
        len(grey),
        rotation=a.rotation,
        shift=a.shift,
        zoom=a.zoom,
        flip=a.flip,
        size=input_size,
        generator=generator,
    )
    return affine(grey, drawn.to(grey.device))


def _split(order: Tensor, batch_size: int) -> list[Tensor]:
    """Batches in order, the last one partial; a last single image joins its neighbour (BatchNorm needs two)."""
    batches = list(torch.split(order, batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] = torch.cat([batches[-1], last])
    return batches


def _optimizer(network: nn.Module, stage: Stage) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    if stage.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=stage.learning_rate, eps=1e-7)  # Keras' epsilon
    return torch.optim.SGD(parameters, lr=stage.learning_rate)


def _derive(name: str) -> int:
    """A generator seed; hashed, so that neighbouring seeds, stages, epochs and uses share nothing."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def finite(value: float) -> float | None:
    """Losses that are not finite are written as null."""
    return value if math.isfinite(value) else None
