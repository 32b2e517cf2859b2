"""The LHC module a second time, slowly, straight from the paper's equations; and random modules to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from lhcnet.models.lhc import LHC


def naive(
    lhc: LHC,
    x: NDArray[np.float64],
    areas: Sequence[NDArray[np.int64]] | None = None,
    masks: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Equations (1)-(17) in float64, head by head and window by window; x is one image (C, H, W).

    `areas` lists the row-major pixels of each head, by default equal runs; `masks` (heads, L) weighs them.
    """
    C, H, W = x.shape
    w1, b1, w2, b2, kernel, bias = (
        p.detach().double().numpy()
        for p in (lhc.w1, lhc.b1, lhc.w2.weight.T, lhc.w2.bias, lhc.conv.weight, lhc.conv.bias)
    )

    def pooled(z: NDArray[np.float64], p: int, reduce: Callable[..., NDArray[np.float64]]) -> NDArray[np.float64]:
        out = np.empty_like(z)
        for i in range(H):
            for j in range(W):
                rows = slice(max(i - (p - 1) // 2, 0), i + p // 2 + 1)
                columns = slice(max(j - (p - 1) // 2, 0), j + p // 2 + 1)
                out[:, i, j] = reduce(z[:, rows, columns], axis=(1, 2))
        return out

    s = lhc.kernel
    padded = np.pad(x, ((0, 0), ((s - 1) // 2, s // 2), ((s - 1) // 2, s // 2)))
    convolved = np.empty_like(x)
    for i in range(H):
        for j in range(W):
            convolved[:, i, j] = np.einsum("oihw,ihw->o", kernel, padded[:, i : i + s, j : j + s]) + bias

    Q, K = pooled(x, lhc.pool, np.mean), pooled(x, lhc.pool, np.max)  # (1), (2)
    V = pooled(convolved, 3, np.mean)  # (3)
    Q, K, V = (z.reshape(C, H * W) for z in (Q, K, V))
    if areas is None:
        areas = np.split(np.arange(H * W), lhc.heads)
    y = np.zeros((C, H * W))
    for h, area in enumerate(areas):
        share = 1 if masks is None else masks[h]
        qh, kh, vh = (z[:, area] * share for z in (Q, K, V))  # (4)-(6)
        q = qh @ w1[h] + b1[h]  # (9)
        k = kh @ w1[h] + b1[h]  # (10)
        S = q @ k.T  # (11)
        T = 1 / (1 + np.exp(-(S.mean(axis=1) @ w2 + b2)))  # (12), (13)
        N = S / lhc.d ** (lhc.g + T[:, None])  # (14)
        weights = np.exp(N - N.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)  # (15)
        y[:, area] += weights @ vh  # (16)
    return y.reshape(C, H, W)  # (17)


@st.composite
def modules(draw: st.DrawFn) -> LHC:
    C, H, W = (draw(st.integers(1, 6)) for _ in range(3))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    lhc = LHC(
        C,
        H,
        W,
        heads=draw(st.sampled_from([n for n in range(1, H * W + 1) if H * W % n == 0])),
        d=draw(st.integers(1, 7)),
        pool=draw(st.integers(1, 7)),
        g=draw(st.floats(0, 2)),
        kernel=draw(st.integers(1, 6)),
    ).double()
    for bias in (lhc.b1, lhc.w2.bias, lhc.conv.bias):
        torch.nn.init.normal_(bias)
    return lhc
