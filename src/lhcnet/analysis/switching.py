"""Switching modules and heads off, and setting them back to their initial weights (section 3.2.4).

Off: a module's slot passes its input on; a head's output A_h (16) is zero. Reset ("de-trained" in the paper): a module
is as it was inserted. A single head has only w1[h] and b1[h] to itself; the scaling layer, the value convolution and
learnt areas are shared, so they are set back when the module loses all of its heads. The w of an LHC-NetC weighs the
residual sum and is no part of the module: it stays.

The weights of a network are never changed: an ablation replaces the list of its slots within a `with` block.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from lhcnet.analysis.ablation import Ablation
from lhcnet.config import module_arguments
from lhcnet.inference.predict import batches
from lhcnet.models.head_partition import HeadPartition
from lhcnet.models.lhcnet import insert_modules
from lhcnet.models.residual import ResidualLHC
from lhcnet.models.slots import SlotNetwork
from lhcnet.runtime import Device
from lhcnet.saved import SavedModel


def lhc_slots(network: SlotNetwork) -> list[ResidualLHC]:
    """The LHC modules with their residual sums. Raises ValueError if a slot holds anything else."""
    slots = [slot for slot in network.attention if isinstance(slot, ResidualLHC)]
    if len(slots) != len(network.slots):
        held = sorted({type(slot).__name__ for slot in network.attention})
        raise ValueError(f"expected a network with {len(network.slots)} LHC modules, its slots hold {', '.join(held)}")
    return slots


def initial_network(saved: SavedModel) -> SlotNetwork:
    """The trained host with its LHC modules as they were inserted: drawn again from the seed of its provenance.

    Raises:
        ValueError: there are no LHC modules.
    """
    p, modules = saved.info.provenance, saved.info.architecture.modules
    if modules is None:
        raise ValueError(f"{saved.id} has no LHC modules that could be set back")
    network = saved.network()
    lhc_slots(network)
    network.attention = nn.ModuleList(nn.Identity() for _ in network.slots)
    return insert_modules(network, module_arguments(modules), p.seed)


@contextmanager
def ablated(network: SlotNetwork, ablation: Ablation, initial: SlotNetwork | None = None) -> Iterator[SlotNetwork]:
    """The ablated network within a `with` block; afterwards it has its own slots again, also after an exception.

    Args:
        network: an LHC-Net or LHC-NetC.
        ablation: what it loses.
        initial: the network with the initial weights, on the same device; needed for the kind `reset`.

    Raises:
        ValueError: a slot without LHC module, a head that does not exist, or no `initial` for a `reset`.
    """
    own = network.attention
    network.attention = nn.ModuleList(_slots(network, ablation, initial))
    try:
        yield network
    finally:
        network.attention = own


def _slots(network: SlotNetwork, ablation: Ablation, initial: SlotNetwork | None) -> Iterator[nn.Module]:
    slots = lhc_slots(network)
    if ablation.kind == "reset" and initial is None:
        raise ValueError("a reset needs the network with the initial weights")
    starts = lhc_slots(initial) if initial else slots
    for name, slot, start, lost in zip(network.slots, slots, starts, ablation.lost, strict=True):
        if not lost <= set(range(slot.lhc.heads)):
            raise ValueError(f"{name} has the heads 0..{slot.lhc.heads - 1}, not {sorted(lost)}")
        if not lost:
            yield slot
        elif ablation.kind == "off":
            yield _without(slot, lost)
        else:
            yield _set_back(slot, start, lost)


class _Silenced(nn.Module):
    """Head partition of a module whose lost heads have the output zero."""

    def __init__(self, partition: HeadPartition, lost: frozenset[int]) -> None:
        super().__init__()
        self.partition, self.lost = partition, list(lost)

    def cut(self, z: Tensor) -> Tensor:
        return self.partition.cut(z)

    def join(self, A: Tensor) -> Tensor:
        return self.partition.join(A.index_fill(1, torch.tensor(self.lost, device=A.device), 0))


def _without(slot: ResidualLHC, lost: frozenset[int]) -> nn.Module:
    if len(lost) == slot.lhc.heads:
        return nn.Identity()
    other = copy.deepcopy(slot)
    other.lhc.partition = _Silenced(other.lhc.partition, lost)  # type: ignore[assignment]
    return other


@torch.no_grad()
def _set_back(slot: ResidualLHC, start: ResidualLHC, lost: frozenset[int]) -> nn.Module:
    if len(lost) == slot.lhc.heads:
        other = copy.deepcopy(start)
        other.w = slot.w
        return other
    other, rows = copy.deepcopy(slot), list(lost)
    other.lhc.w1[rows] = start.lhc.w1[rows]
    other.lhc.b1[rows] = start.lhc.b1[rows]
    return other


def inputs_of(modules: Iterable[nn.Module], network: SlotNetwork, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The input (B, C, H, W) of each module, and the logits (B, classes), for images (B, 3, S, S)."""
    inputs: list[Tensor] = []
    hooks = [module.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for module in modules]
    try:
        logits: Tensor = network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs, logits


@torch.inference_mode()
def probabilities(
    network: SlotNetwork,
    ablations: Sequence[Ablation],
    initial: SlotNetwork | None,
    images: NDArray[np.uint8],
    *,
    input_size: int,
    device: Device,
    batch_size: int = 32,
) -> NDArray[np.float32]:
    """(1 + ablations, N, classes) class probabilities of the full network and of each ablated one.

    Where the backbone allows it, the layers before the first slot that changes are computed once for all ablations.
    """
    network.eval()
    out = np.empty((1 + len(ablations), len(images), network.classes), np.float32)
    with tqdm(total=len(images), desc="modules and heads", unit="image", disable=None) as progress:
        for rows, grey in batches(images, input_size, False, device, batch_size):
            with device.autocast():
                x = grey.expand(-1, 3, -1, -1)
                inputs, logits = inputs_of(network.attention, network, x)
                out[0, rows] = logits.float().softmax(1).cpu()
                for i, ablation in enumerate(ablations, 1):
                    with ablated(network, ablation, initial):
                        logits = network.logits_from(ablation.first, inputs[ablation.first], x)
                        out[i, rows] = logits.float().softmax(1).cpu()
            progress.update(len(grey))
    return out
