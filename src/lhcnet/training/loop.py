"""The training loop of one stage, top to bottom (Tables 3-6).

Early stopping on validation accuracy, best weights restored. The start counts as epoch 0, so a stage never
ends worse on validation than it began (the reference's stand-alone mode overwrites its checkpoint with the
first epoch even if worse; on purpose not copied).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from lhcnet.config import Augmentation, Stage
from lhcnet.data.transforms import affine, draw_affine, mirror, upscale
from lhcnet.inference.predict import loss_and_accuracy
from lhcnet.runtime import Device
from lhcnet.saved import Epoch
from lhcnet.training.checkpoint import Checkpoint, Progress

LOOK_EVERY = 50  # batches between looks at the loss
EXPLODED = 1e5  # Euclidean norm of all gradients of a batch: one step of 0.01 would move the weights by 1,000


@dataclass(frozen=True)
class DataSplit:
    """Images (N, 48, 48) uint8 and labels (N,) uint8 of one split."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class FitResult:
    """What a stage ended with: the network holds the weights of `best_epoch`."""

    history: list[Epoch]
    best_epoch: int
    status: Literal["trained", "diverged"]
    reason: str


@dataclass
class EpochTotals:
    """What the batches of an epoch leave besides the weights; on the device, so that no batch waits for it."""

    loss: Tensor  # float64, over images
    hits: Tensor  # int64
    norm: Tensor  # float32, the largest gradient norm
    batches: int = 0

    @classmethod
    def zero(cls, device: torch.device) -> EpochTotals:
        loss, hits, norm = (
            torch.zeros((), dtype=t, device=device) for t in (torch.float64, torch.int64, torch.float32)
        )
        return cls(loss, hits, norm)


@dataclass
class TrainingState:
    """All that a training holds between two batches: a checkpoint is this, and nothing is missing from it."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    totals: EpochTotals
    epoch: int = 0
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        found = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        found |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for i, p in enumerate(self._parameters()):
            found |= {f"optimizer/{i}/{name}": tensor for name, tensor in self.optimizer.state[p].items()}
        found |= {"totals/loss": self.totals.loss, "totals/hits": self.totals.hits, "totals/norm": self.totals.norm}
        found["random/cpu"] = torch.get_rng_state()
        if self.totals.loss.is_cuda:
            found["random/cuda"] = torch.cuda.get_rng_state(self.totals.loss.device)
        return found

    def progress(self) -> Progress:
        history = tuple(self.history)
        return Progress(epoch=self.epoch, batches=self.totals.batches, best_epoch=self.best_epoch, history=history)

    def restore(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = tensor
        device = self.totals.loss.device
        self.network.load_state_dict(parts["network"])
        self.best = {name: tensor.to(device) for name, tensor in parts["best"].items()}
        for i, p in enumerate(self._parameters()):
            for name in [name for name in parts.get("optimizer", {}) if name.startswith(f"{i}/")]:
                value = parts["optimizer"][name]
                # moments lie in memory as their weights do: fused optimizers go through both in step
                like = torch.empty_like(p.detach()) if value.shape == p.shape else torch.empty_like(value)
                self.optimizer.state[p][name.partition("/")[2]] = like.copy_(value)
        self.totals = EpochTotals(
            **{name: tensor.to(device) for name, tensor in parts["totals"].items()}, batches=progress.batches
        )
        self.epoch, self.best_epoch, self.history = progress.epoch, progress.best_epoch, list(progress.history)
        torch.set_rng_state(parts["random"]["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(parts["random"]["cuda"], device)

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def fit(
    network: nn.Module,
    train: DataSplit,
    validation: DataSplit,
    stage: Stage,
    *,
    number: int = 0,
    seed: int,
    input_size: int,
    device: Device,
    title: str = "train",
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    checkpoint: Checkpoint | None = None,
) -> FitResult:
    """Train `network` in place.

    A run that diverges (a loss that is not finite, exploding gradients) ends at once with status `diverged` and the
    best weights so far. The same seed gives the same bytes on the same machine and number of threads, also if it was
    interrupted and went on from its `checkpoint`: every epoch draws from generators of its own, made of (seed, stage
    `number`, epoch).

    Raises:
        Preempted: SIGTERM came; the checkpoint is written.
    """
    device.move(network)
    state = TrainingState(network, make_optimizer(network, stage), EpochTotals.zero(device.torch))
    images = torch.from_numpy(np.array(train.images)).to(device.torch)  # the whole split: 66 MB of FER2013
    labels = torch.from_numpy(train.labels.astype(np.int64)).to(device.torch)

    def between_batches() -> None:
        if checkpoint and state.epoch and checkpoint.due():
            checkpoint.write(state.tensors(), state.progress())
        elif checkpoint:
            checkpoint.leave_if_asked()

    def validate() -> tuple[float, float]:
        return loss_and_accuracy(
            network,
            validation.images,
            validation.labels,
            input_size=input_size,
            device=device,
            batch_size=stage.batch_size,
            between_batches=between_batches,
        )

    with checkpoint.listening() if checkpoint else nullcontext():
        if checkpoint and (found := checkpoint.load()):
            state.restore(*found)
            for row in state.history:
                on_epoch(row)
        else:
            val_loss, val_accuracy = validate()
            state.history.append(Epoch(epoch=0, val_loss=finite(val_loss), val_accuracy=val_accuracy))
            on_epoch(state.history[0])
            state.best, state.epoch = _copy(network), 1

        status: Literal["trained", "diverged"] = "trained"
        reason = ""
        while state.epoch <= stage.epochs:
            epoch = state.epoch
            try:
                train_epoch(
                    network,
                    state.optimizer,
                    images,
                    labels,
                    stage,
                    f"{seed}/{number}/{epoch}",
                    input_size,
                    device,
                    f"{title} {epoch}",
                    state.totals,
                    between_batches,
                )
            except FloatingPointError as error:
                status, reason = "diverged", f"{error} of epoch {epoch}"
                break
            val_loss, val_accuracy = validate()
            row = Epoch(
                epoch=epoch,
                train_loss=state.totals.loss.item() / len(images),
                train_accuracy=state.totals.hits.item() / len(images),
                grad_norm=state.totals.norm.item(),
                val_loss=finite(val_loss),
                val_accuracy=val_accuracy,
            )
            state.history.append(row)
            on_epoch(row)
            if not math.isfinite(val_loss):
                status, reason = "diverged", f"validation loss is not finite after epoch {epoch}"
                break
            if val_accuracy > state.history[state.best_epoch].val_accuracy:
                state.best_epoch, state.best = epoch, _copy(network)
            elif epoch - state.best_epoch >= stage.patience:
                break
            state.epoch, state.totals = epoch + 1, EpochTotals.zero(device.torch)

    network.load_state_dict(state.best)
    return FitResult(state.history, state.best_epoch, status, reason)


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
    totals: EpochTotals,
    between_batches: Callable[[], None] = lambda: None,
) -> None:
    """One shuffled pass, or what is left of it after `totals.batches`; `totals` takes in loss, hits and gradient norm.

    All that is random is drawn before the first batch, and no batch waits for the device.

    Raises:
        FloatingPointError: the loss is not finite, or the gradients explode.
    """
    network.train()
    _freeze_statistics(network)
    if totals.batches == 0:  # later, the generator of dropout stands where the last batch left it
        torch.manual_seed(_derive(f"{seed}/dropout"))
    generator = torch.Generator().manual_seed(_derive(f"{seed}/data"))  # on the CPU for every device
    order = torch.randperm(len(images), generator=generator).to(device.torch)
    drawn = _draw(len(images), stage.augmentation, input_size, generator).to(device.torch)
    seen = torch.zeros(2, dtype=torch.float64, pin_memory=device.torch.type == "cuda")
    parameters = [p for p in network.parameters() if p.requires_grad]

    slices = batch_slices(len(images), stage.batch_size)
    bar = tqdm(slices, desc=title, unit="batch", leave=False, disable=None, initial=totals.batches)
    for step, batch in enumerate(slices[totals.batches :], totals.batches):
        rows = order[batch]
        grey = upscale(images[rows], input_size, truncate=True)
        grey = _augment(grey, drawn[batch], stage.augmentation)
        target = labels[rows]
        optimizer.zero_grad(set_to_none=True)  # before the forward pass, where memory is needed most
        with device.autocast():
            logits: Tensor = network(grey.expand(-1, 3, -1, -1))
        loss = F.cross_entropy(logits.float(), target)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        optimizer.step()
        totals.loss += loss.detach().double() * len(rows)
        totals.hits += (logits.detach().argmax(1) == target).sum()
        totals.norm = torch.maximum(totals.norm, norm)  # keeps what is not a number
        totals.batches = step + 1
        if step % LOOK_EVERY == 0:
            _refuse_divergence(*seen.tolist())
            # looked at LOOK_EVERY batches later: a GPU has it ready by then
            seen.copy_(torch.stack([totals.loss, totals.norm.double()]), non_blocking=True)
        bar.update()
        between_batches()
    bar.close()
    _refuse_divergence(totals.loss.item(), totals.norm.item())


def _refuse_divergence(loss: float, norm: float) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError("training loss is not finite")
    if not norm < EXPLODED:
        raise FloatingPointError(f"gradient norm is not below {EXPLODED:g}")


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
