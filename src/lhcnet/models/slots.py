"""What every network of the pipeline is: a backbone with slots for attention modules, one after each named point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

SLOTS = ("LHC1", "LHC2", "LHC3", "LHC4", "LHC5")  # Figure 1: after the stem, then after each stage


class SlotNetwork(nn.Module, ABC):
    """A network that maps images (B, 3, S, S) with values 0..255 to logits (B, classes), with slots for attention.

    Attributes:
        input_size: side S of the images in pixels; the modules in the slots take this one.
        classes: number of logits.
        bn_momentum: of its BatchNorms, also of those that a module adds.
        attention: the modules in the slots, each from a tensor to one of the same shape; identities without attention.
    """

    input_size: int
    classes: int
    bn_momentum: float
    attention: nn.ModuleList

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, LHC1 to at most LHC5."""
        return SLOTS[: len(self.attention)]

    @property
    @abstractmethod
    def slot_shapes(self) -> Sequence[tuple[int, int, int]]:
        """(C, H, W) of the feature maps at the slots."""

    @abstractmethod
    def logits_from(self, slot: int, x: Tensor, images: Tensor) -> Tensor:
        """Logits (B, classes) of a network whose modules before `attention[slot]` have not changed.

        Args:
            slot: number of the first slot that has changed.
            x: its input (B, C, H, W), as computed from `images` before the change.
            images: (B, 3, S, S), values 0..255.
        """
