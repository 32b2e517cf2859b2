"""The complete state of a training between two batches, and its conversion to and from tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lhcnet.saved import Epoch
from lhcnet.training.checkpoint import Progress


@dataclass
class EpochTotals:
    """Running totals of an epoch, kept on the device to avoid a synchronisation per batch."""

    loss: Tensor
    """Sum of the losses of the images, float64."""
    hits: Tensor
    """Number of images classified correctly, int64."""
    norm: Tensor
    """Largest gradient norm of a batch, float32."""
    batches: int = 0
    """Number of batches done."""

    @classmethod
    def zero(cls, device: torch.device) -> EpochTotals:
        """Totals at the beginning of an epoch."""
        loss, hits, norm = (
            torch.zeros((), dtype=t, device=device) for t in (torch.float64, torch.int64, torch.float32)
        )
        return cls(loss, hits, norm)


@dataclass
class TrainingState:
    """Complete training state; a checkpoint serialises exactly this.

    Args:
        network: the network, with its current weights.
        optimizer: the optimiser, with its moments.
        totals: running totals of the current epoch.
        epoch: the current epoch, counted from 1; 0 before the first validation.
        history: the finished epochs.
        best_epoch: the epoch with the best validation accuracy so far.
        best: the weights after that epoch.
        average: moving average of the network; None if there is none.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    totals: EpochTotals
    epoch: int = 0
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    average: AveragedModel | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The network whose weights are validated and kept: the average, if there is one."""
        return self.network if self.average is None else self.average.module

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, and the state of torch's random generators, under unique names."""
        found = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        found |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for i, p in enumerate(self._parameters()):
            moments = self.optimizer.state[p].items()
            found |= {f"optimizer/{i}/{name}": tensor for name, tensor in moments if tensor is not None}
        found |= self._average()
        found |= {"totals/loss": self.totals.loss, "totals/hits": self.totals.hits, "totals/norm": self.totals.norm}
        found["random/cpu"] = torch.get_rng_state()
        if self.totals.loss.is_cuda:
            found["random/cuda"] = torch.cuda.get_rng_state(self.totals.loss.device)
        return found

    def progress(self) -> Progress:
        """The part of the state that is not tensors."""
        history = tuple(self.history)
        return Progress(epoch=self.epoch, batches=self.totals.batches, best_epoch=self.best_epoch, history=history)

    def like(self) -> dict[str, Tensor]:
        """Tensors with the names, shapes and types of `tensors()` after a batch; their values mean nothing."""
        network = self.network.state_dict()
        found = {f"{part}/{name}": tensor for part in ("network", "best") for name, tensor in network.items()}
        if isinstance(self.optimizer, torch.optim.Adam):
            for i, p in enumerate(self._parameters()):
                step = torch.zeros((), dtype=torch.float32)
                found |= {f"optimizer/{i}/{name}": p for name in ("exp_avg", "exp_avg_sq")}
                found[f"optimizer/{i}/step"] = step
        elif self.optimizer.defaults["momentum"]:
            found |= {f"optimizer/{i}/momentum_buffer": p for i, p in enumerate(self._parameters())}
        found |= self._average()
        found |= {"totals/loss": self.totals.loss, "totals/hits": self.totals.hits, "totals/norm": self.totals.norm}
        found["random/cpu"] = torch.get_rng_state()
        if self.totals.loss.is_cuda:
            found["random/cuda"] = torch.cuda.get_rng_state(self.totals.loss.device)
        return found

    def restore(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Set the state back to what `tensors` and `progress` returned."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = tensor
        device = self.totals.loss.device
        self.network.load_state_dict(parts["network"])
        self.best = {name: tensor.to(device) for name, tensor in parts["best"].items()}
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        for i, p in enumerate(self._parameters()):
            for name in [name for name in parts.get("optimizer", {}) if name.startswith(f"{i}/")]:
                value = parts["optimizer"][name]
                # moments need the memory format of their weights: fused optimisers process both in memory order
                like = torch.empty_like(p.detach()) if value.shape == p.shape else torch.empty_like(value)
                self.optimizer.state[p][name.partition("/")[2]] = like.copy_(value)
        self.totals = EpochTotals(
            **{name: tensor.to(device) for name, tensor in parts["totals"].items()}, batches=progress.batches
        )
        self.epoch, self.best_epoch, self.history = progress.epoch, progress.best_epoch, list(progress.history)
        torch.set_rng_state(parts["random"]["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(parts["random"]["cuda"], device)

    def _average(self) -> dict[str, Tensor]:
        if self.average is None:
            return {}
        return {f"average/{name}": tensor for name, tensor in self.average.state_dict().items()}

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]
