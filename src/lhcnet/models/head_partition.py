"""The area of the map that each head looks at: SplitHeads, (4)-(6), and its inverse, (17).

The paper cuts horizontal runs and leaves other ways open (section 5, "learning the optimal areas through spatial
attention" among them). Letters in shapes as in ``lhc.py``: L is the number of pixels a head sees.
"""

import math

import torch
from torch import Tensor, nn

from lhcnet.geometry import Split, grid

OWN_SHARE = 0.9  # of each pixel that a head of learnt areas has in its own run at the start


class Horizontal(nn.Module):
    """Equal runs of the row-major pixels, the paper's; a run may end inside a row. L = H*W/heads."""

    def __init__(self, heads: int, height: int, width: int) -> None:
        super().__init__()
        self.heads, self.height, self.width = heads, height, width
        self.length = height * width // heads

    def cut(self, z: Tensor) -> Tensor:
        """(B, C, H, W) to (B, heads, C, L), a view where the memory format allows."""
        pixels = self._ordered(z.permute(0, 2, 3, 1))
        slices = pixels.reshape(z.shape[0], self.heads, -1, z.shape[1])  # (B, heads, L, C)
        return slices.transpose(2, 3)

    def join(self, A: Tensor) -> Tensor:
        """The inverse of ``cut``: (B, heads, C, L) to (B, C, H, W)."""
        return self._restored(A.transpose(2, 3)).permute(0, 3, 1, 2)

    def _ordered(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) to any shape whose flattening lists the pixels head by head."""
        return pixels

    def _restored(self, slices: Tensor) -> Tensor:
        """(B, heads, L, C) to (B, H, W, C)."""
        return slices.reshape(slices.shape[0], self.height, self.width, -1)


class Vertical(Horizontal):
    """Equal runs of the column-major pixels. L = H*W/heads."""

    def _ordered(self, pixels: Tensor) -> Tensor:
        return pixels.transpose(1, 2)  # (B, W, H, C)

    def _restored(self, slices: Tensor) -> Tensor:
        return slices.reshape(slices.shape[0], self.width, self.height, -1).transpose(1, 2)


class Grid(Horizontal):
    """r x c equal rectangles, r*c = heads, the most square that fit. L = H*W/heads."""

    def __init__(self, heads: int, height: int, width: int) -> None:
        super().__init__(heads, height, width)
        shape = grid(heads, height, width)
        if shape is None:
            raise ValueError(f"no grid of {heads} equal rectangles on {height}x{width} pixels")
        self.rows, self.columns = r, c = shape
        self.cell = (height // r, width // c)

    def _ordered(self, pixels: Tensor) -> Tensor:
        h, w = self.cell
        cells = pixels.reshape(pixels.shape[0], self.rows, h, self.columns, w, -1)
        return cells.transpose(2, 3)  # (B, r, c, h, w, C)

    def _restored(self, slices: Tensor) -> Tensor:
        h, w = self.cell
        cells = slices.reshape(slices.shape[0], self.rows, self.columns, h, w, -1)
        return cells.transpose(2, 3).reshape(slices.shape[0], self.height, self.width, -1)


class Learnt(nn.Module):
    """Areas learnt through spatial attention: every head sees the whole map through a mask of its own. L = H*W.

    The masks are a softmax over the heads at each pixel, so they add up to 1 everywhere: the heads share the map, and
    the sum of their outputs stands where the paper puts runs side by side. One-hot masks are hard areas, the paper's
    runs among them. At the start a head has 0.9 of each pixel of its (nearly equal) horizontal run.
    """

    def __init__(self, heads: int, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        self.length = height * width
        self.logits = nn.Parameter(torch.empty(heads, height * width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        heads, pixels = self.logits.shape
        own = torch.arange(pixels, device=self.logits.device) * heads // pixels  # (H*W,): the run of each pixel
        start = math.log(OWN_SHARE / (1 - OWN_SHARE) * max(heads - 1, 1))
        with torch.no_grad():
            self.logits.zero_().scatter_(0, own[None], start)

    def masks(self) -> Tensor:
        """M, (heads, H*W): each column sums to 1."""
        return self.logits.softmax(dim=0)

    def cut(self, z: Tensor) -> Tensor:
        """(B, C, H, W) to (B, heads, C, H*W), weighed by the masks."""
        return z.flatten(2)[:, None] * self.masks()[:, None].to(z.dtype)

    def join(self, A: Tensor) -> Tensor:
        """(B, heads, C, H*W) to (B, C, H, W): the sum over the heads."""
        return A.sum(dim=1).view(A.shape[0], -1, self.height, self.width)


PARTITIONS: dict[Split, type[Horizontal | Learnt]] = {
    "horizontal": Horizontal,
    "vertical": Vertical,
    "grid": Grid,
    "learnt": Learnt,
}
