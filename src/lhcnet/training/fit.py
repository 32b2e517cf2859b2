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

from lhcnet.config import Augmentation, Stage
from lhcnet.data.images import affine, draw_affine, mirror, upscale
from lhcnet.device import Device
from lhcnet.evaluation.predict import loss_and_accuracy
from lhcnet.models.saved import Epoch

LOOK_EVERY = 50  # batches between looks at the loss


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
    device.place(network)
    optimizer = make_optimizer(network, stage)
    images = torch.from_numpy(np.array(train.images)).to(device.torch)  # the whole split: 66 MB of FER2013
    labels = torch.from_numpy(train.labels.astype(np.int64)).to(device.torch)

    def validate() -> tuple[float, float]:
        images, labels = validation.images, validation.labels
        return loss_and_accuracy(
            network, images, labels, input_size=input_size, device=device, batch_size=stage.batch_size
        )

    val_loss, val_accuracy = validate()
    history = [Epoch(epoch=0, val_loss=finite(val_loss), val_accuracy=val_accuracy)]
    on_epoch(history[0])
    best_epoch, best = 0, _copy(network)
    status: Literal["trained", "diverged"] = "trained"
    reason = ""

    for epoch in range(1, stage.epochs + 1):
        try:
            train_loss, train_accuracy = train_epoch(
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


def train_epoch(
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
    """Mean loss and accuracy over one shuffled pass. Raises FloatingPointError when the loss is not finite.

    All that is random is drawn before the first batch, and no batch waits for the device.
    """
    network.train()
    _freeze_statistics(network)
    torch.manual_seed(_derive(f"{seed}/dropout"))
    generator = torch.Generator().manual_seed(_derive(f"{seed}/data"))  # on the CPU for every device
    order = torch.randperm(len(images), generator=generator).to(device.torch)
    drawn = _draw(len(images), stage.augmentation, input_size, generator).to(device.torch)
    loss_sum = torch.zeros((), dtype=torch.float64, device=device.torch)
    hits = torch.zeros((), dtype=torch.int64, device=device.torch)
    seen = torch.zeros((), dtype=torch.float64, pin_memory=device.torch.type == "cuda")

    slices = batch_slices(len(images), stage.batch_size)
    for step, batch in enumerate(tqdm(slices, desc=title, unit="batch", leave=False, disable=None)):
        rows = order[batch]
        grey = upscale(images[rows], input_size, truncate=True)
        grey = _augment(grey, drawn[batch], stage.augmentation)
        target = labels[rows]
        optimizer.zero_grad(set_to_none=True)  # before the forward pass, where memory is needed most
        with device.autocast():
            logits: Tensor = network(grey.expand(-1, 3, -1, -1))
        loss = F.cross_entropy(logits.float(), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss_sum += loss.detach().double() * len(rows)
        hits += (logits.detach().argmax(1) == target).sum()
        if step % LOOK_EVERY == 0:
            if not math.isfinite(seen.item()):
                raise FloatingPointError("training loss is not finite")
            seen.copy_(loss_sum, non_blocking=True)  # looked at LOOK_EVERY batches later: a GPU has it ready by then

    if not math.isfinite(loss_sum.item()):
        raise FloatingPointError("training loss is not finite")
    return loss_sum.item() / len(images), hits.item() / len(images)


def _freeze_statistics(network: nn.Module) -> None:
    """A BatchNorm whose parameters are frozen uses its moving statistics and leaves them alone, as Keras does."""
    for module in network.modules():
        own = list(module.parameters()) if isinstance(module, nn.BatchNorm2d) else []
        if own and not any(p.requires_grad for p in own):
            module.eval()


def _draw(n: int, a: Augmentation, input_size: int, generator: torch.Generator) -> Tensor:
    """(n, 6), how each image of the epoch is augmented."""
    return draw_affine(
        n, rotation=a.rotation, shift=a.shift, zoom=a.zoom, flip=a.flip, size=input_size, generator=generator
    )


def _augment(grey: Tensor, drawn: Tensor, a: Augmentation) -> Tensor:
    """Nothing is resampled that the settings leave alone. (Asking the numbers would wait for the device.)"""
    if a.rotation or a.shift or a.zoom:
        return affine(grey, drawn)
    return mirror(grey, drawn[:, 5]) if a.flip else grey


def batch_slices(n: int, batch_size: int) -> list[slice]:
    """Batches in order, the last one partial; a last single image joins its neighbour (BatchNorm needs two)."""
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], n], strict=True)]


def make_optimizer(network: nn.Module, stage: Stage) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    if stage.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=stage.learning_rate, eps=1e-7, fused=True)  # Keras' epsilon
    return torch.optim.SGD(parameters, lr=stage.learning_rate)


def _derive(name: str) -> int:
    """A generator seed; hashed, so that neighbouring seeds, stages, epochs and uses share nothing."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def finite(value: float) -> float | None:
    """Losses that are not finite are written as null."""
    return value if math.isfinite(value) else None
