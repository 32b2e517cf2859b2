"""The training loop of one stage (Tables 3-6): early stopping on validation accuracy, best weights restored.

The initial weights count as epoch 0, so validation accuracy after a stage is at least that before it. The reference
implementation's stand-alone mode differs: it keeps the first epoch's weights even if they are worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from lhcnet.config import Stage
from lhcnet.data.transforms import upscale
from lhcnet.errors import LhcnetError
from lhcnet.inference.predict import loss_and_accuracy
from lhcnet.models.lhc import LHC
from lhcnet.runtime import Device
from lhcnet.saved import Epoch
from lhcnet.training.augmentation import EpochAugmentation, derive_seed
from lhcnet.training.average import moving_average
from lhcnet.training.checkpoint import Checkpoint, Progress
from lhcnet.training.forecast import Forecast
from lhcnet.training.loss import batch_loss, class_weights, dominant
from lhcnet.training.mixing import draw_mixes
from lhcnet.training.optimizer import make_optimizer
from lhcnet.training.schedule import learning_rate
from lhcnet.training.state import EpochTotals, TrainingState

CHECK_EVERY = 50  # batches between two checks for divergence
MAX_GRADIENT_NORM = 1e5  # Euclidean norm of all gradients of a batch; one step of 0.01 would change weights by 1,000


@dataclass(frozen=True)
class DataSplit:
    """Images (N, 48, 48) uint8 and labels (N,) uint8 of one split.

    `targets` (N, classes) float32 are distributions that are trained on instead of the labels; None for none.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    targets: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class FitResult:
    """Result of a stage; the network has the weights of `best_epoch`."""

    history: list[Epoch]
    best_epoch: int
    status: Literal["trained", "diverged"]
    reason: str


def fit(
    network: nn.Module,
    train: DataSplit,
    validation: DataSplit,
    stage: Stage,
    *,
    stage_number: int = 0,
    seed: int,
    input_size: int,
    device: Device,
    title: str = "train",
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    checkpoint: Checkpoint | None = None,
    forecast: Forecast | None = None,
) -> FitResult:
    """Train a network for one stage, in place.

    Equal seeds give the same bytes on the same machine with the same number of threads, also if the training was
    interrupted and resumed from its checkpoint: every epoch has random generators of its own, seeded with (seed, stage
    number, epoch), one for each kind of draw. The learning rate depends only on the number of the batch.

    With a moving average, validation and the kept weights are the average's. With `sizes`, an epoch is validated at its
    own size, and only the start (validated at `input_size`) and epochs of the last size can be kept: accuracies at
    other sizes are of another task, and BatchNorm's statistics belong to the size that the network was trained at.

    Args:
        network: maps images (B, 3, S, S) with values 0..255 to logits (B, classes).
        train, validation: the two splits.
        stage: settings of the stage.
        stage_number: number of the stage in the pipeline; with the seed it determines the random numbers.
        seed: seed of shuffling, augmentation and dropout.
        input_size: S, side of the network's input in pixels.
        device: where to train, and in which precision.
        title: label of the progress bar.
        on_epoch: called with each row of the history, first with epoch 0; after a resume with all earlier rows again.
        checkpoint: where the training state is saved and read from; None for no checkpoints.
        forecast: of the time, shown in the progress bar; it is told where the training begins.

    Returns:
        The history and the best epoch. A training that diverges (loss not finite, or exploding gradients) stops at
        once with status `diverged` and the best weights so far.

    Raises:
        Preempted: the process received SIGTERM; the checkpoint is written.
        LhcnetError: the network cannot be trained at the sizes of the stage.
    """
    require_sizes(network, stage, input_size)
    device.move(network)
    average = moving_average(network, stage.ema) if stage.ema else None
    optimizer = make_optimizer(network, stage)
    state = TrainingState(network, optimizer, EpochTotals.zero(device.torch), average=average)
    images = torch.from_numpy(np.array(train.images)).to(device.torch)  # the whole split: 66 MB of FER2013
    labels = torch.from_numpy(train.labels.astype(np.int64)).to(device.torch)
    targets = None if train.targets is None else torch.from_numpy(train.targets).to(device.torch)

    def between_batches() -> None:
        if checkpoint and state.epoch and checkpoint.due():
            checkpoint.write(state.tensors(), state.progress())
        elif checkpoint:
            checkpoint.exit_if_terminated()

    def validate(size: int) -> tuple[float, float]:
        return loss_and_accuracy(
            state.evaluated,
            validation.images,
            validation.labels,
            input_size=size,
            device=device,
            batch_size=stage.batch_size,
            between_batches=between_batches,
        )

    with checkpoint.held() if checkpoint else nullcontext():
        possible = partial(progress_problem, stage=stage, images=len(images))
        steps = len(batch_slices(len(images), stage.batch_size))
        if checkpoint and (found := checkpoint.load(state.like(), possible)):
            state.restore(*found)
            if forecast:
                forecast.begin(state.epoch - 1 + state.totals.batches / steps)
            for row in state.history:
                on_epoch(row)
        else:
            val_loss, val_accuracy = validate(input_size)
            state.history.append(Epoch(epoch=0, val_loss=finite(val_loss), val_accuracy=val_accuracy))
            on_epoch(state.history[0])
            state.best, state.epoch = _copy_weights(network), 1
            if forecast:
                forecast.begin(0)

        status: Literal["trained", "diverged"] = "trained"
        reason = ""
        while state.epoch <= stage.epochs:
            epoch = state.epoch
            size = stage.size(epoch, input_size)
            try:
                train_epoch(
                    network,
                    state.optimizer,
                    images,
                    labels,
                    stage=stage,
                    seed=f"{seed}/{stage_number}/{epoch}",
                    input_size=size,
                    device=device,
                    totals=state.totals,
                    epoch=epoch,
                    average=average,
                    targets=targets,
                    title=f"{title} {epoch}/{stage.epochs}",
                    between_batches=between_batches,
                    forecast=forecast,
                )
            except FloatingPointError as error:
                status, reason = "diverged", f"{error} in epoch {epoch}"
                break
            val_loss, val_accuracy = validate(size)
            row = Epoch(
                epoch=epoch,
                train_loss=state.totals.loss.item() / len(images),
                train_accuracy=state.totals.hits.item() / len(images),
                grad_norm=state.totals.norm.item(),
                learning_rate=_logged_rate(stage, epoch * steps - 1, stage.epochs * steps),
                val_loss=finite(val_loss),
                val_accuracy=val_accuracy,
            )
            state.history.append(row)
            on_epoch(row)
            if not math.isfinite(val_loss):
                status, reason = "diverged", f"validation loss is not finite after epoch {epoch}"
                break
            if epoch >= stage.first_kept and val_accuracy > state.history[state.best_epoch].val_accuracy:
                state.best_epoch, state.best = epoch, _copy_weights(state.evaluated)
            elif stage.patience is not None and epoch - state.best_epoch >= stage.patience:
                break
            state.epoch, state.totals = epoch + 1, EpochTotals.zero(device.torch)

    network.load_state_dict(state.best)
    return FitResult(state.history, state.best_epoch, status, reason)


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    stage: Stage,
    seed: str,
    input_size: int,
    device: Device,
    totals: EpochTotals,
    title: str = "train",
    between_batches: Callable[[], None] = lambda: None,
    epoch: int = 1,
    average: AveragedModel | None = None,
    targets: Tensor | None = None,
    forecast: Forecast | None = None,
) -> None:
    """Train for one epoch, or for the rest of it after `totals.batches` batches.

    All random numbers but dropout's are drawn before the first batch, and no batch waits for the device.

    Args:
        network, optimizer: updated in place.
        images: (N, 48, 48) uint8 on the device.
        labels: (N,) int64 on the device.
        stage: batch size, augmentation, loss and learning rate.
        seed: determines shuffling, augmentation, mixing and dropout of the epoch.
        input_size: S, side of the network's input in pixels.
        device: where the images are, and the precision of the forward pass.
        totals: loss, hits and gradient norm are added to it. A mixed image is a hit if the network names the label with
            the larger share.
        title: label of the progress bar.
        between_batches: called after each batch.
        epoch: number of the epoch, from 1; the learning rate and mixing depend on it.
        average: moving average of the network, updated after each batch; None for none.
        targets: (N, classes) float32 on the device, trained on instead of the labels; None for none.
        forecast: of the time that all epochs still take, shown in the progress bar; None for none.

    Raises:
        FloatingPointError: the loss is not finite, or the gradients explode.
    """
    network.train()
    _freeze_statistics(network)
    if totals.batches == 0:  # later, the checkpoint has restored the generator that dropout draws from
        torch.manual_seed(derive_seed(f"{seed}/dropout"))
    generator = torch.Generator().manual_seed(derive_seed(f"{seed}/data"))  # on the CPU, whatever the device
    order = torch.randperm(len(images), generator=generator).to(device.torch)
    augmentation = EpochAugmentation.draw(
        len(images), stage, size=input_size, seed=seed, generator=generator, device=device.torch
    )
    to_check = torch.zeros(2, dtype=torch.float64, pin_memory=device.torch.type == "cuda")
    parameters = [p for p in network.parameters() if p.requires_grad]

    slices = batch_slices(len(images), stage.batch_size)
    mixes = draw_mixes(stage, epoch, len(slices), input_size, derive_seed(f"{seed}/mix"))
    weights = class_weights(labels, stage)
    bar = tqdm(slices, desc=title, unit="batch", leave=False, disable=None, initial=totals.batches)
    for step, batch in enumerate(slices[totals.batches :], totals.batches):
        rows = order[batch]
        grey = upscale(images[rows], input_size, truncate=True)
        grey = augmentation.apply(grey, batch)
        target, mix = labels[rows], mixes[step] if mixes else None
        if mix:
            grey = mix.images(grey)
        if stage.schedule != "constant":
            rate = learning_rate(stage, (epoch - 1) * len(slices) + step, stage.epochs * len(slices))
            for group in optimizer.param_groups:
                group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)  # before the forward pass, when memory use peaks
        with device.autocast():
            logits: Tensor = network(grey.expand(-1, 3, -1, -1))
        soft = None if targets is None else targets[rows]
        loss = batch_loss(logits.float(), target, stage, weights, mix, soft)
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        optimizer.step()
        if average is not None:
            average.update_parameters(network)
        totals.loss += loss.detach().double() * len(rows)
        totals.hits += (logits.detach().argmax(1) == dominant(target, mix)).sum()
        totals.norm = torch.maximum(totals.norm, norm)  # propagates NaN
        totals.batches = step + 1
        if step % CHECK_EVERY == 0:
            _raise_if_diverged(*to_check.tolist())
            # copied now and checked CHECK_EVERY batches later, when the copy from a GPU has arrived
            to_check.copy_(torch.stack([totals.loss, totals.norm.double()]), non_blocking=True)
        if forecast and not bar.disable:
            bar.set_postfix_str(forecast.in_words(epoch - 1 + (step + 1) / len(slices)), refresh=False)
        bar.update()
        between_batches()
    bar.close()
    _raise_if_diverged(totals.loss.item(), totals.norm.item())


def _raise_if_diverged(loss: float, norm: float) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError("training loss is not finite")
    if not norm < MAX_GRADIENT_NORM:
        raise FloatingPointError(f"gradient norm is not below {MAX_GRADIENT_NORM:g}")


def _freeze_statistics(network: nn.Module) -> None:
    """Put each BatchNorm with frozen parameters into evaluation mode: as in Keras, its statistics are frozen too."""
    for module in network.modules():
        own = list(module.parameters()) if isinstance(module, nn.BatchNorm2d) else []
        if own and not any(p.requires_grad for p in own):
            module.eval()


def batch_slices(n: int, batch_size: int) -> list[slice]:
    """Slices of n images into batches, the last one partial; a single last image joins the batch before it.

    (BatchNorm needs two images.)
    """
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], n], strict=True)]


def require_sizes(network: nn.Module, stage: Stage, input_size: int) -> None:
    """Raise LhcnetError if the network cannot be trained at the sizes of the stage."""
    if not stage.sizes:
        return
    if any(isinstance(module, LHC) for module in network.modules()):
        raise LhcnetError("sizes: an LHC module fits maps of one size; expected no sizes for a network that has one")
    if (last := stage.sizes[-1][1]) != input_size:
        raise LhcnetError(f"sizes: the last size is {last}; expected the network's input size, {input_size}")


def _logged_rate(stage: Stage, step: int, steps: int) -> float | None:
    """Learning rate for the history; None where it is constant."""
    return None if stage.schedule == "constant" else learning_rate(stage, step, steps)


def _copy_weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def progress_problem(tensors: Mapping[str, Tensor], progress: Progress, *, stage: Stage, images: int) -> str:
    """Why a checkpoint cannot be the state of a training that is unfinished, or an empty string."""
    batches, history = len(batch_slices(images, stage.batch_size)), progress.history
    accuracies = [row.val_accuracy for row in history]
    epochs = [row.epoch for row in history]
    if epochs != list(range(len(history))) or progress.epoch != len(history) or not 1 <= len(history) <= stage.epochs:
        return f"its history has {len(history)} epochs, but it stopped in epoch {progress.epoch} of {stage.epochs}"
    if not 0 <= progress.batches <= batches:
        return f"it stopped after {progress.batches} batches of an epoch of {batches}"
    kept = [accuracy if i >= stage.first_kept or i == 0 else -1.0 for i, accuracy in enumerate(accuracies)]
    if progress.best_epoch != kept.index(max(kept)):
        return f"its best epoch is {progress.best_epoch}, which its history contradicts"
    patience = stage.patience
    if patience is not None and len(history) > 1 and len(history) - 1 - progress.best_epoch >= patience:
        return "its training had ended"
    try:
        torch.Generator().set_state(tensors["random/cpu"])
    except RuntimeError:
        return "the state of its random generator is none"
    return ""


def finite(value: float) -> float | None:
    """The value, or None (null in JSON) if it is not finite."""
    return value if math.isfinite(value) else None
