"""LHC: Local multi-Head Channel self-attention.

Paper: Pecoraro, Basile, Bono, "Local Multi-Head Channel Self-Attention for Facial Expression Recognition",
Information 2022, 13, 419. Numbers in brackets are its equations. Tokens are channels: every channel attends to
every channel, separately in each of `heads` slices of the feature map (see `head_partition.py`).

Letters in shapes: B images, C channels, H x W pixels, L pixels of a head (H*W/heads; H*W for a learnt partition), d
embedding dimension.
"""

import math
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lhcnet.estimate import LARGEST
from lhcnet.geometry import PartitionName, partition_problem
from lhcnet.models.head_partition import PARTITIONS, LearntPartition
from lhcnet.models.initialisation import Conv2d, Linear
from lhcnet.models.memory_format import memory_format

VALUE_POOL = 3  # (3): the value tensor is averaged over 3x3 pixels, whatever the pool size of query and key
SAVED_MASKS = "areas.logits"  # key of a learnt partition's masks in saved models


@dataclass(frozen=True)
class LHCIntermediates:
    """Intermediate tensors between x and LHC(x), named as in the paper, for analysis and tests."""

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
    """d ** (g + T), the divisor of the scores in (14), (B, heads, C, 1)."""
    norm_scores: Tensor
    """(14) N, (B, heads, C, C)."""
    attention: Tensor
    """(15) W, (B, heads, C, C); each row sums to 1."""
    A: Tensor
    """(16) output of each head, (B, heads, C, L)."""


class LHC(nn.Module):
    """The LHC module, equations (1)-(17), without the residual sum around it.

    Args:
        channels, height, width: C, H, W of the input; the sizes of the weights depend on them.
        heads: n, number of heads.
        d: embedding dimension of queries and keys in each head.
        pool: p, pool size in pixels of (1) and (2), stride 1.
        g: constant part of the scaling exponent in (14), at least 0.
        kernel: s, kernel size in pixels of the value convolution (3).
        split: how the map is cut into heads. `horizontal` is the paper's: equal runs of the row-major pixels, so
            heads must divide H*W, and a run may end inside a row. `vertical` cuts equal runs of the column-major
            pixels, `grid` equal rectangles, `learnt` gives each head a trained mask over the whole map.
        generator: initialises the weights; None draws from torch's global generator.

    Raises:
        ValueError: a value is out of range, or the heads do not fit the map.

    Example:
        >>> import torch
        >>> from lhcnet import LHC
        >>> lhc = LHC(channels=64, height=56, width=56, heads=8, d=196)  # LHC1 of Table 2
        >>> x = torch.rand(2, 64, 56, 56)
        >>> y = x + lhc(x)
        >>> y.shape
        torch.Size([2, 64, 56, 56])
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
        split: PartitionName = "horizontal",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "height": height, "width": width}
        for name, value in (sizes | {"heads": heads, "d": d, "pool": pool, "kernel": kernel}).items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name}={value!r} must be a whole number, at least 1")
            if not 1 <= value < LARGEST:
                raise ValueError(
                    f"{name}={value} must be at least 1{'' if value < 1 else f' and less than {LARGEST:,}'}"
                )
        if not isinstance(g, int | float) or isinstance(g, bool) or not 0 <= g < math.inf:
            raise ValueError(f"g={g!r} must be a finite number, at least 0")
        if split not in PARTITIONS:
            raise ValueError(f"split={split!r} must be one of {', '.join(PARTITIONS)}")
        if problem := partition_problem(split, heads, height, width):
            raise ValueError(problem)

        self.channels, self.height, self.width = channels, height, width
        self.heads, self.d, self.pool, self.g, self.kernel = heads, d, pool, g, kernel
        self.split = split

        self.partition = PARTITIONS[split](heads, height, width)
        self.w1 = nn.Parameter(torch.empty(heads, self.partition.length, d))  # shared by queries and keys
        self.b1 = nn.Parameter(torch.empty(heads, d))
        self.w2 = Linear(channels, channels)  # shared by all heads
        self.conv = Conv2d(channels, channels, kernel, padding=kernel // 2)
        if isinstance(self.partition, LearntPartition):
            self.register_state_dict_post_hook(_to_saved_key)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(_from_saved_key)  # type: ignore[no-untyped-call]
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialise: Glorot-uniform weights (each head of `w1` is a dense layer of its own), zero biases.

        The fan-in of `w1` is H*W/heads for a learnt partition too, because its masks initially select about as many
        pixels.
        """
        limit = math.sqrt(6 / (self.height * self.width / self.heads + self.d))
        nn.init.uniform_(self.w1, -limit, limit, generator=generator)
        nn.init.xavier_uniform_(self.w2.weight, generator=generator)
        nn.init.xavier_uniform_(self.conv.weight, generator=generator)
        for bias in (self.b1, self.w2.bias, self.conv.bias):
            if bias is not None:
                nn.init.zeros_(bias)
        if isinstance(self.partition, LearntPartition):
            self.partition.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """LHC(x), equation (17): (B, C, H, W) in, (B, C, H, W) out, same dtype.

        Two rearrangements make it cheaper without changing the result. The mean over the keys of q.k is q.(mean of
        k), so the dynamic scaling (12) needs no score matrix. Dividing a row of scores by d^(g+T) is the same as
        dividing its query. Under autocast the values stay in bfloat16; scores and softmax are float32.

        Raises:
            ValueError: x is not (B, C, H, W) with the C, H, W of the constructor.
        """
        q, k, v = self._query_key_value(x)
        with torch.autocast(x.device.type, enabled=False):  # scores reach the hundreds, too coarse in bfloat16
            k_mean = k.mean(dim=2, keepdim=True)  # (B, heads, 1, d)
            S_mean = (q * k_mean).sum(dim=3)  # (B, heads, C), (12)
            exponent = self.g + self._dynamic_scaling(S_mean)  # (B, heads, C, 1)
            attention = ((q * self.d**-exponent) @ k.transpose(2, 3)).softmax(dim=3)  # (B, heads, C, C), (14), (15)
            A = attention.to(v.dtype) @ v  # (B, heads, C, L), (16)
        return self.partition.join(A).to(x.dtype)  # (17)

    def intermediates(self, x: Tensor) -> LHCIntermediates:
        """Compute every tensor of equations (6)-(16) as written in the paper; slower than `forward`."""
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

        slices = [self.partition.cut(z).transpose(0, 1) for z in (Q, K)]  # (heads, B, C, L), (4), (5)
        QK = torch.stack(slices, dim=1)  # (heads, 2, B, C, L)
        QK = torch.baddbmm(self.b1[:, None], QK.flatten(1, 3), self.w1)  # (heads, 2*B*C, d), (9), (10)
        wide = torch.promote_types(x.dtype, torch.float32)
        QK = QK.to(wide).view(self.heads, 2, -1, self.channels, self.d)  # (heads, 2, B, C, d)
        q, k = QK.permute(1, 2, 0, 3, 4)  # each (B, heads, C, d)
        return q, k, self.partition.cut(V)  # (6)

    def _dynamic_scaling(self, S_mean: Tensor) -> Tensor:
        """(13): mean scores (B, heads, C) to T (B, heads, C, 1)."""
        w2, b2 = (p.to(S_mean.dtype) for p in (self.w2.weight, self.w2.bias))  # a bfloat16 module scales in float32
        return F.linear(S_mean, w2, b2).sigmoid()[..., None]


def crop_to_same(z: Tensor, size: int) -> Tensor:
    """Keras' 'same' padding for a window of `size` pixels, from a result padded by size // 2 on all sides.

    Keras pads (size-1)//2 before and size//2 after. For even sizes the symmetric padding gives one row and one column
    too many; they are the first.
    """
    return z if size % 2 else z[..., 1:, 1:]


def _avg_pool(z: Tensor, size: int) -> Tensor:
    """'same' average pooling, stride 1; the mean excludes the padding."""
    return crop_to_same(F.avg_pool2d(z, size, 1, size // 2, count_include_pad=False), size)


def _max_pool(z: Tensor, size: int) -> Tensor:
    """'same' max pooling, stride 1; padded with -inf."""
    return crop_to_same(F.max_pool2d(z, size, 1, size // 2), size)


def _to_saved_key(_lhc: nn.Module, state: MutableMapping[str, Any], prefix: str, _metadata: object) -> None:
    """Rename the masks of a learnt partition in a state dict: saved models keep their keys."""
    state[f"{prefix}{SAVED_MASKS}"] = state.pop(f"{prefix}partition.logits")


def _from_saved_key(_lhc: nn.Module, state: MutableMapping[str, Any], prefix: str, *_: object) -> None:
    """Inverse of `_to_saved_key`, before a state dict is loaded."""
    if (key := f"{prefix}{SAVED_MASKS}") in state:
        state[f"{prefix}partition.logits"] = state.pop(key)
