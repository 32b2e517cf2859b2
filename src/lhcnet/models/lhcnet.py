"""LHC-Net: a ResNet34v2 with an LHC module in each of its five slots (Figure 1, Table 2).

`LHCNet` makes LHC-Net and LHC-NetC with new weights; `insert_modules` turns a trained ResNet34v2 into an
LHC-Net and `add_control` a trained LHC-Net into an LHC-NetC. The three networks differ only in the modules in
their attention slots.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from lhcnet.models.initialisation import named_generator
from lhcnet.models.residual import ModuleSettings, ResidualLHC, attention_module
from lhcnet.models.resnetv2 import RESNET34_DEPTHS, RESNET34_WIDTHS, ResNetV2
from lhcnet.models.slots import SlotNetwork

Net = TypeVar("Net", bound=SlotNetwork)
TABLE_2: tuple[ModuleSettings, ...] = (
    {"heads": 8, "d": 196},
    {"heads": 8, "d": 196},
    {"heads": 7, "d": 56},
    {"heads": 7, "d": 14},
    {"heads": 1, "d": 25},
)
CONTROL_START = (0.0, 0.0, 0.0, -1.0, -0.5)  # initial w of LHC-NetC; from the reference implementation, not the paper


class LHCNet(ResNetV2):
    """LHC-Net, a ResNet34v2 with five LHC modules, or LHC-NetC with its five control weights.

    Args:
        modules: settings of the five modules, LHC1 to LHC5: the keyword arguments of `lhcnet.LHC` without the
            sizes, and `norm` and `second_conv` of `lhcnet.models.residual.ResidualLHC`. The default is
            Table 2 of the paper. `{"attention": "se"}` (or `cbam`, `eca`) puts a baseline into a slot.
        control: whether the LHC modules have the weights w of LHC-NetC.
        input_size, depths, widths, head, dropout, classes, bn_momentum: as in
            `lhcnet.models.resnetv2.ResNetV2`.
        seed: equal seeds give equal initial weights, to the byte. The backbone and each module have a random generator
            of their own, so one seed gives the same backbone with any modules. None draws from torch's global
            generator.

    Raises:
        ValueError: not five modules, or a setting that is unknown, missing or out of range; the message names the slot.
        LhcnetError: a baseline is asked for and timm is not installed.

    Example:
        >>> import torch
        >>> from lhcnet import LHCNet
        >>> network = LHCNet(seed=0).eval()  # the paper's sizes: 224 x 224 images, 7 classes
        >>> images = 255 * torch.rand(1, 3, 224, 224)
        >>> network(images).shape
        torch.Size([1, 7])
    """

    def __init__(
        self,
        modules: Sequence[ModuleSettings] = TABLE_2,
        *,
        control: bool = False,
        input_size: int = 224,
        depths: Sequence[int] = RESNET34_DEPTHS,
        widths: Sequence[int] = RESNET34_WIDTHS,
        head: Sequence[int] = (4096, 1024),
        dropout: float = 0.4,
        classes: int = 7,
        bn_momentum: float = 0.01,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            input_size=input_size,
            depths=depths,
            widths=widths,
            head=head,
            dropout=dropout,
            classes=classes,
            bn_momentum=bn_momentum,
            seed=seed,
        )
        insert_modules(self, modules, seed)
        if control:
            add_control(self)


def insert_modules(network: Net, modules: Sequence[ModuleSettings], seed: int | None) -> Net:
    """Put a new attention module into each slot of a plain network, in place; its own weights stay as they are.

    A new LHC module is not an identity (its value convolution is initialised Glorot-uniform), so the network's outputs
    change with the insertion, as in the paper.

    Args:
        network: a trained network; also returned.
        modules: settings of the modules, one for each slot, as in `LHCNet`.
        seed: seed of the modules' weights, as in `LHCNet`.

    Raises:
        ValueError: not a module for each slot, a setting that is unknown, missing or out of range, or a network that
            has modules already. The network stays as it was.
        LhcnetError: a baseline is asked for and timm is not installed.
    """
    if not all(isinstance(slot, nn.Identity) for slot in network.attention):
        raise ValueError("the network has attention modules already; insert into the plain network")
    slots = network.slots
    if len(modules) != len(slots):
        raise ValueError(f"LHC-Net needs {len(slots)} modules (LHC1..{slots[-1]}), not {len(modules)}")
    like = next(network.parameters())
    inserted = []
    with torch.device("meta" if like.is_meta else "cpu"):  # drawn on the CPU: the same weights for every device
        for slot, shape, settings in zip(slots, network.slot_shapes, modules, strict=True):
            module = attention_module(
                settings,
                shape,
                slot,
                bn_momentum=network.bn_momentum,
                generator=named_generator(seed, slot),
            )
            inserted.append(module.to(device=like.device, dtype=like.dtype).train(network.training))
    network.attention = nn.ModuleList(inserted)
    return network


def add_control(network: Net) -> Net:
    """Turn an LHC-Net into an LHC-NetC, in place: add the control weights w with the values `CONTROL_START`.

    A network with fewer than five slots takes the last of the values: they belong to the modules next to the head.

    Raises:
        ValueError: a slot holds no LHC module, or the network has control weights already.
    """
    modules = [module for module in network.attention if isinstance(module, ResidualLHC)]
    if len(modules) != len(network.slots):
        raise ValueError(f"control weights need {len(network.slots)} LHC modules, the network has {len(modules)}")
    if any(module.w is not None for module in modules):
        raise ValueError("the network has its control weights already")
    for module, w in zip(modules, CONTROL_START[-len(modules) :], strict=True):
        module.w = nn.Parameter(module.lhc.w1.new_tensor(w))
    return network


def freeze_all_but_control(network: Net) -> Net:
    """Make the control weights of an LHC-NetC its only trainable parameters, in place."""
    network.requires_grad_(False)
    for module in network.attention:
        if isinstance(module, ResidualLHC) and module.w is not None:
            module.w.requires_grad_(True)
    return network


def control_weights(network: SlotNetwork) -> tuple[float, ...]:
    """Values of the control weights w of an LHC-NetC.

    Raises:
        ValueError: the network is not an LHC-NetC.
    """
    found = [m.w.item() for m in network.attention if isinstance(m, ResidualLHC) and m.w is not None]
    if len(found) != len(network.slots):
        raise ValueError(
            f"expected an LHC-NetC with {len(network.slots)} control weights, the network has {len(found)}"
        )
    return tuple(found)


def count_parameters(network: nn.Module) -> int:
    """Number of parameters as Keras counts them: BatchNorm's moving means and variances are included."""
    statistics = (buffer for buffer in network.buffers() if buffer.is_floating_point())
    return sum(tensor.numel() for tensor in (*network.parameters(), *statistics))


def attention_share(network: SlotNetwork) -> float:
    """Fraction of all parameters that are in the slots, as `count_parameters` counts (Table A2: 14.8 %)."""
    return count_parameters(network.attention) / count_parameters(network)
