"""Where the heads of the LHC modules work: the size of each head's output at each place of its stripe.

LHC attends between channels, not between places: W (15) says which channels a head mixes, for all places of its stripe
alike, so it has no place in the picture of its own. What has one is the head's output A_h = W_h V_h (16), the attended
channels at the pixels of the stripe. A map shows its size there,

    sqrt(mean over c of A_h[c, p]^2) / sqrt(mean over c, p of x[c, p]^2),

relative to the module's input x, so that maps of several modules can be added. With the w of an LHC-NetC it is
multiplied by 1 + tanh(w), as the output is. Options that follow the heads (`second_conv`, `norm: after`) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lhcnet.analysis.switching import inputs_of, lhc_slots
from lhcnet.data.fer2013 import SIDE, Bytes
from lhcnet.errors import LhcnetError
from lhcnet.inference.predict import batches
from lhcnet.models.residual import ResidualLHC
from lhcnet.models.slots import SlotNetwork
from lhcnet.prediction.network import NetworkModel


def has_lhc(network: SlotNetwork) -> bool:
    """Whether each slot has an LHC module."""
    return all(isinstance(slot, ResidualLHC) for slot in network.attention)


@torch.inference_mode()
def head_maps(model: NetworkModel, crop: Bytes) -> dict[str, NDArray[np.float32]]:
    """Size of each head's output at each place.

    Args:
        model: a network with LHC modules.
        crop: the face, (48, 48).

    Returns:
        By slot: (heads, H, W). Zero outside of the head's stripe; with a learnt partition no head has a stripe, and its
        mask weighs the places.

    Raises:
        LhcnetError: the network has no LHC modules.
    """
    network = model.network.eval()
    if not has_lhc(network):
        raise LhcnetError(f"{model.name}: attention: has no LHC modules; expected cam or occlusion for this network")
    ((_, pixels),) = batches(crop[None], network.input_size, False, model.device, 1)
    with model.device.autocast():
        inputs, _ = inputs_of(network.attention, network, pixels.expand(-1, 3, -1, -1))
        slots = zip(network.slots, lhc_slots(network), inputs, strict=True)
        return {name: _sizes(slot, x).float().cpu().numpy() for name, slot, x in slots}


def summed(maps: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Sum over heads and modules, (48, 48)."""
    total: NDArray[np.float32] = np.sum([on_picture(heads.sum(axis=0)) for heads in maps.values()], axis=0)
    return total


def on_picture(one: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map (H, W) on the 48x48 pixels of the picture: each pixel has the value of the place that covers its centre."""
    rows, columns = (((np.arange(SIDE) + 0.5) * side / SIDE).astype(int) for side in one.shape)
    return one[np.ix_(rows, columns)]


def _sizes(slot: ResidualLHC, x: Tensor) -> Tensor:
    """(heads, H, W) of one image's features x (1, C, H, W)."""
    lhc = slot.lhc
    A = lhc.intermediates(x if slot.norm1 is None else slot.norm1(x)).A.float()  # (1, heads, C, L)
    alone = torch.eye(lhc.heads, device=A.device)[:, :, None, None] * A  # (heads, heads, C, L): one head, others zero
    size = lhc.partition.join(alone).square().mean(dim=1).sqrt()  # (heads, H, W)
    factor = 1.0 if slot.w is None else 1 + slot.w.tanh()
    return size * factor / x.float().square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
