"""Head partitions: how the feature map is cut into heads, SplitHeads (4)-(6), and put together again (17).

The paper cuts horizontal runs of pixels. Its section 5 leaves other partitions open, among them "learning the optimal
areas through spatial attention". Letters in shapes as in `lhc.py`; L is the number of pixels that a head sees.
"""

import math

import torch
from torch import Tensor, nn

from lhcnet.geometry import PartitionName, grid_shape

INITIAL_SHARE = 0.9  # of each pixel, for the head whose run it lies in, when training of a learnt partition begins


class HeadPartition(nn.Module):
    """Base class: cuts a feature map into heads and joins the heads' outputs.

    Args:
        heads: n, number of heads.
        height, width: H, W of the feature map in pixels.

    Attributes:
        length: L, number of pixels that a head sees.
    """

    length: int

    def __init__(self, heads: int, height: int, width: int) -> None:
        super().__init__()
        self.heads, self.height, self.width = heads, height, width

    def cut(self, z: Tensor) -> Tensor:
        """Cut the maps (B, C, H, W) into heads (B, heads, C, L)."""
        raise NotImplementedError

    def join(self, A: Tensor) -> Tensor:
        """Join the heads' outputs (B, heads, C, L) to maps (B, C, H, W)."""
        raise NotImplementedError


class HorizontalPartition(HeadPartition):
    """The paper's partition: equal runs of the row-major pixels. A run may end inside a row. L = H*W/heads."""

    def __init__(self, heads: int, height: int, width: int) -> None:
        super().__init__(heads, height, width)
        self.length = height * width // heads

    def cut(self, z: Tensor) -> Tensor:
        """Cut (B, C, H, W) into (B, heads, C, L); a view where the memory format allows."""
        pixels = self._group(z.permute(0, 2, 3, 1))
        slices = pixels.reshape(z.shape[0], self.heads, -1, z.shape[1])  # (B, heads, L, C)
        return slices.transpose(2, 3)

    def join(self, A: Tensor) -> Tensor:
        """Inverse of `cut`: (B, heads, C, L) to (B, C, H, W)."""
        return self._ungroup(A.transpose(2, 3)).permute(0, 3, 1, 2)

    def _group(self, pixels: Tensor) -> Tensor:
        """Reorder (B, H, W, C) so that flattening lists the pixels head by head."""
        return pixels

    def _ungroup(self, slices: Tensor) -> Tensor:
        """Inverse of `_group`: (B, heads, L, C) to (B, H, W, C)."""
        return slices.reshape(slices.shape[0], self.height, self.width, -1)


class VerticalPartition(HorizontalPartition):
    """Equal runs of the column-major pixels. L = H*W/heads."""

    def _group(self, pixels: Tensor) -> Tensor:
        return pixels.transpose(1, 2)  # (B, W, H, C)

    def _ungroup(self, slices: Tensor) -> Tensor:
        return slices.reshape(slices.shape[0], self.width, self.height, -1).transpose(1, 2)


class GridPartition(HorizontalPartition):
    """Grid of r*c = heads equal rectangles, as square as possible. L = H*W/heads.

    Raises:
        ValueError: no grid of equal rectangles fits the map.
    """

    def __init__(self, heads: int, height: int, width: int) -> None:
        super().__init__(heads, height, width)
        shape = grid_shape(heads, height, width)
        if shape is None:
            raise ValueError(f"no grid of {heads} equal rectangles on {height}x{width} pixels")
        self.rows, self.columns = r, c = shape
        self.rectangle = (height // r, width // c)

    def _group(self, pixels: Tensor) -> Tensor:
        h, w = self.rectangle
        rectangles = pixels.reshape(pixels.shape[0], self.rows, h, self.columns, w, -1)
        return rectangles.transpose(2, 3)  # (B, r, c, h, w, C)

    def _ungroup(self, slices: Tensor) -> Tensor:
        h, w = self.rectangle
        rectangles = slices.reshape(slices.shape[0], self.rows, self.columns, h, w, -1)
        return rectangles.transpose(2, 3).reshape(slices.shape[0], self.height, self.width, -1)


class LearntPartition(HeadPartition):
    """Partition learnt through spatial attention: every head sees the whole map through its own mask. L = H*W.

    The masks are a softmax over the heads at each pixel, so they add up to 1 everywhere, and the heads' outputs are
    summed. One-hot masks give a hard partition; the paper's is one of those. Initially a head has 0.9 of each pixel of
    its horizontal run. The runs are nearly equal: heads need not divide H*W.
    """

    def __init__(self, heads: int, height: int, width: int) -> None:
        super().__init__(heads, height, width)
        self.length = height * width
        self.logits = nn.Parameter(torch.empty(heads, height * width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the masks back to the (nearly equal) horizontal runs."""
        heads, pixels = self.logits.shape
        run = torch.arange(pixels, device=self.logits.device) * heads // pixels  # (H*W,): the run of each pixel
        start = math.log(INITIAL_SHARE / (1 - INITIAL_SHARE) * max(heads - 1, 1))
        with torch.no_grad():
            self.logits.zero_().scatter_(0, run[None], start)

    def masks(self) -> Tensor:
        """Masks M, (heads, H*W); each column sums to 1."""
        return self.logits.softmax(dim=0)

    def cut(self, z: Tensor) -> Tensor:
        """Weigh the maps (B, C, H, W) with each head's mask: (B, heads, C, H*W)."""
        return z.flatten(2)[:, None] * self.masks()[:, None].to(z.dtype)

    def join(self, A: Tensor) -> Tensor:
        """Sum the heads' outputs (B, heads, C, H*W) to maps (B, C, H, W)."""
        return A.sum(dim=1).view(A.shape[0], -1, self.height, self.width)


PARTITIONS: dict[PartitionName, type[HeadPartition]] = {
    "horizontal": HorizontalPartition,
    "vertical": VerticalPartition,
    "grid": GridPartition,
    "learnt": LearntPartition,
}
