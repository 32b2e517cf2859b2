"""LHC: Local multi-Head Channel self-attention.

Paper: Pecoraro, Basile, Bono, "Local Multi-Head Channel Self-Attention for Facial Expression Recognition",
Information 2022, 13, 419. Numbers in brackets are its equations. Tokens are channels: every channel looks at
every other channel, once in each of ``heads`` horizontal slices of the image (other ways to cut: ``areas.py``).

Letters in shapes: B images, C channels, H x W pixels, L pixels of a head (H*W/heads, but H*W for learnt areas), d
embedding dimension.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lhcnet.geometry import Split, partition_problem
from lhcnet.models.head_partition import PARTITIONS, Learnt
from lhcnet.models.memory_format import memory_format

VALUE_POOL = 3  # (3): the value tensor is smoothed over 3x3 pixels whatever the pool size of query and key


@dataclass(frozen=True)
class LHCIntermediates:
    """Everything between x and LHC(x), named as in the paper, for analysis and tests."""

    q: Tensor
    """(9) embedded queries, (B, heads, C, d)."""
    k: Tensor
    """(10) embedded keys, (B, heads, C, d)."""
    v: Tensor
    """(6) values, not embedded, (B, heads, C, L)."""
    scores: Tensor
    """(11) S, (B, heads, C, C): queries by keys."""
    T: Tensor
    """(13) dynamic scaling of each query channel, in (0, 1), (B, heads, C, 1)."""
    exponent: Tensor
    """g + T, (B, heads, C, 1)."""
    divisor: Tensor
    """d ** (g + T), what the scores are divided by in (14), (B, heads, C, 1)."""
    norm_scores: Tensor
    """(14) N, (B, heads, C, C)."""
    attention: Tensor
    """(15) W, (B, heads, C, C); each row sums to 1."""
    A: Tensor
    """(16) output of each head, (B, heads, C, L)."""


class LHC(nn.Module):
    """The LHC module, equations (1)-(17), without the residual connection around it.

    Args:
        channels, height, width: C, H, W of the tensors it will see; the embeddings are tied to them.
        heads: n, the number of slices.
        d: embedding dimension of queries and keys in each head.
        pool: p, pool size of (1) and (2), stride 1.
        g: constant part of the scaling exponent in (14), at least 0.
        kernel: s, kernel size of the value convolution (3).
        split: how the map is cut into heads. ``horizontal`` is the paper's: equal runs of the row-major pixels, so
            heads must divide H*W and a slice may end inside a row. ``vertical`` runs down the columns, ``grid`` cuts
            equal rectangles, ``learnt`` shares the map out by masks that are trained.

    Raises:
        ValueError: a value out of range, or heads that do not fit the map.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        *,
        heads: int,
        d: int,
        pool: int = 3,
        g: float = 1.0,
        kernel: int = 3,
        split: Split = "horizontal",
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "height": height, "width": width}
        for name, value in (sizes | {"heads": heads, "d": d, "pool": pool, "kernel": kernel}).items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not 0 <= g < math.inf:
            raise ValueError(f"g={g} must be a finite number, at least 0")
        if split not in PARTITIONS:
            raise ValueError(f"split={split!r} must be one of {', '.join(PARTITIONS)}")
        if problem := partition_problem(split, heads, height, width):
            raise ValueError(problem)

        self.channels, self.height, self.width = channels, height, width
        self.heads, self.d, self.pool, self.g, self.kernel = heads, d, pool, g, kernel
        self.split = split

        self.areas = PARTITIONS[split](heads, height, width)
        self.w1 = nn.Parameter(torch.empty(heads, self.areas.length, d))  # shared by queries and keys
        self.b1 = nn.Parameter(torch.empty(heads, d))
        self.w2 = nn.Linear(channels, channels)  # shared by all heads
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Glorot-uniform weights (each head of ``w1`` is a dense layer of its own), zero biases.

        A head of learnt areas starts with little more than H*W/heads pixels, so it counts as having as many inputs.
        """
        limit = math.sqrt(6 / (self.height * self.width / self.heads + self.d))
        nn.init.uniform_(self.w1, -limit, limit, generator=generator)
        nn.init.xavier_uniform_(self.w2.weight, generator=generator)
        nn.init.xavier_uniform_(self.conv.weight, generator=generator)
        for bias in (self.b1, self.w2.bias, self.conv.bias):
            if bias is not None:
                nn.init.zeros_(bias)
        if isinstance(self.areas, Learnt):
            self.areas.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """LHC(x), equation (17): (B, C, H, W) in, (B, C, H, W) out, same dtype.

        Two shortcuts change the cost, not the numbers. The mean over the keys of q.k is q.(mean of k), so
        the dynamic scaling (12) needs no score matrix. Dividing a row of scores by d^(g+T) is the same as
        dividing its query. Under autocast the values stay in bfloat16; scores and softmax are float32.

        Raises:
            ValueError: x is not (B, C, H, W) with the sizes the module was built for.
        """
        q, k, v = self._query_key_value(x)
        with torch.autocast(x.device.type, enabled=False):  # scores reach the hundreds: not for bfloat16
            k_mean = k.mean(dim=2, keepdim=True)  # (B, heads, 1, d)
            S_mean = (q * k_mean).sum(dim=3)  # (B, heads, C), (12)
            exponent = self.g + self._dynamic_scaling(S_mean)  # (B, heads, C, 1)
            attention = ((q * self.d**-exponent) @ k.transpose(2, 3)).softmax(dim=3)  # (B, heads, C, C), (14), (15)
            A = attention.to(v.dtype) @ v  # (B, heads, C, L), (16)
        return self.areas.join(A).to(x.dtype)  # (17)

    def intermediates(self, x: Tensor) -> LHCIntermediates:
        """Every tensor of equations (6)-(16), computed as written there; slower than ``forward``."""
        q, k, v = self._query_key_value(x)
        with torch.autocast(x.device.type, enabled=False):
            scores = q @ k.transpose(2, 3)  # (B, heads, C, C), (11)
            T = self._dynamic_scaling(scores.mean(dim=3))  # (12), (13)
            exponent = self.g + T
            divisor = self.d**exponent
            norm_scores = scores / divisor  # (14)
            attention = norm_scores.softmax(dim=3)  # (15)
            A = attention @ v.to(attention.dtype)  # (B, heads, C, L), (16)
        return LHCIntermediates(q, k, v, scores, T, exponent, divisor, norm_scores, attention, A)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}x{self.height}x{self.width}, heads={self.heads}, d={self.d}, "
            f"pool={self.pool}, g={self.g}, kernel={self.kernel}, split={self.split}"
        )

    def _query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1)-(10): q and k (B, heads, C, d) in float32 or wider, v (B, heads, C, L)."""
        if x.dim() != 4 or x.shape[1:] != (self.channels, self.height, self.width):
            expected = f"(B, {self.channels}, {self.height}, {self.width})"
            raise ValueError(f"LHC was built for {expected}, not for {tuple(x.shape)}")
        x = x.contiguous(memory_format=memory_format(self.channels))
        Q = _avg_pool(x, self.pool)  # (B, C, H, W), (1)
        K = _max_pool(x, self.pool)  # (B, C, H, W), (2)
        V = _avg_pool(crop_to_same(self.conv(x), self.kernel), VALUE_POOL)  # (B, C, H, W), (3)

        slices = [self.areas.cut(z).transpose(0, 1) for z in (Q, K)]  # (heads, B, C, L), (4), (5)
        QK = torch.stack(slices, dim=1)  # (heads, 2, B, C, L)
        QK = torch.baddbmm(self.b1[:, None], QK.flatten(1, 3), self.w1)  # (heads, 2*B*C, d), (9), (10)
        wide = torch.promote_types(x.dtype, torch.float32)
        QK = QK.to(wide).view(self.heads, 2, -1, self.channels, self.d)  # (heads, 2, B, C, d)
        q, k = QK.permute(1, 2, 0, 3, 4)  # each (B, heads, C, d)
        return q, k, self.areas.cut(V)  # (6)

    def _dynamic_scaling(self, S_mean: Tensor) -> Tensor:
        """(13): mean scores (B, heads, C) to T (B, heads, C, 1)."""
        w2, b2 = (p.to(S_mean.dtype) for p in (self.w2.weight, self.w2.bias))  # a bfloat16 module scales in float32
        return F.linear(S_mean, w2, b2).sigmoid()[..., None]


# 'same' padding as Keras does it: (size-1)//2 before and size//2 after. Padding size//2 on both sides gives
# one row and one column too many when size is even, and they are the first.


def crop_to_same(z: Tensor, size: int) -> Tensor:
    return z if size % 2 else z[..., 1:, 1:]


def _avg_pool(z: Tensor, size: int) -> Tensor:
    """'same' average pooling, stride 1; the padding is left out of the mean."""
    return crop_to_same(F.avg_pool2d(z, size, 1, size // 2, count_include_pad=False), size)


def _max_pool(z: Tensor, size: int) -> Tensor:
    """'same' max pooling, stride 1; padded with -inf."""
    return crop_to_same(F.max_pool2d(z, size, 1, size // 2), size)
