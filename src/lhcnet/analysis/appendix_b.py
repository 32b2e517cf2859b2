"""Appendix B: parameters per dimension (G1, L1) and per relationship (G2, L2) of one global and n local heads.

What is to be learnt is that two old feature maps make up a new one. In A of the n slices one of the two can be active,
in B both, in C = n - A - B none. The higher measure has more free parameters for what it has to model.

The printed formulas hold, with these slips of the text:

- (A3) writes the second denominator 3(HW/n + d)2, the inequality after (A6) writes 2(HW/n + d)3: the same number.
- 0.26 is 7/27 rounded. "Every other possible combination" is favourable to local heads only where C = 0. L1 does not
  depend on C, so with C > 0 the global head also wins with A = 0 and any B, and with A = 1 and B = 4, 5 or 6.
- With A = B = 0 there is nothing to learn and L1 and L2 are 0/0.
- n stands for the number of feature maps at first, and for the number of heads from (A3) on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

H, W, D, N = 56, 56, 196, 8  # LHC1 and LHC2: d = HW/(2n)


def G1(H: int, W: int, d: int) -> float:  # noqa: N802
    """(A1): parameters of a global head for every dimension and constraint."""
    return H * W * d / (3 * (H * W + d) * 2)


def G2() -> float:  # noqa: N802
    """(A2): parameters of a global head for every relationship and constraint, 1/6 whatever the sizes."""
    return 1 / (3 * 2)


def L1(H: int, W: int, d: int, n: int, A: int, B: int, C: int) -> float:  # noqa: N802
    """(A3): the mean of G1's measure over the slices in which there is something to learn.

    Raises:
        ValueError: A + B + C is not n, or A = B = 0.
    """
    _check(n, A, B, C)
    L = H * W / n
    return (A * L * d / (2 * (L + d)) + B * L * d / (3 * (L + d) * 2)) / (A + B)


def L2(n: int, A: int, B: int, C: int) -> float:  # noqa: N802
    """(A4): the mean of G2's measure over the same slices. At least G2, and equal to it only for A = 0 (A5), (A6)."""
    _check(n, A, B, C)
    return (A / 2 + B / 6) / (A + B)


def _check(n: int, A: int, B: int, C: int) -> None:
    if min(A, B, C) < 0 or n != A + B + C:
        raise ValueError(f"A={A}, B={B}, C={C}: expected three numbers of slices that sum to n={n}")
    if A + B == 0:
        raise ValueError("A = B = 0: no slice has anything to learn, so there is no measure")


def combinations(n: int = N) -> Iterator[tuple[int, int, int]]:
    """All (A, B, C) with something to learn, those without empty slices (C = 0) first."""
    for C in range(n):
        for A in range(n - C + 1):
            yield A, n - C - A, C


def table(H: int = H, W: int = W, d: int = D, n: int = N) -> list[dict[str, str]]:
    """One row a combination: both measures and the side they favour."""
    g1, g2 = G1(H, W, d), G2()
    rows = []
    for A, B, C in combinations(n):
        l1, l2 = L1(H, W, d, n, A, B, C), L2(n, A, B, C)
        rows.append(
            {
                "A": str(A),
                "B": str(B),
                "C": str(C),
                "L1": f"{l1:.2f}",
                "G1": f"{g1:.2f}",
                "by L1": "local" if l1 > g1 else "global",
                "L2": f"{l2:.4f}",
                "G2": f"{g2:.4f}",
                "by L2": "local" if A > 0 else "equal",
            }
        )
    return rows


def figure_a1(H: int = H, W: int = W, d: int = D, n: int = N) -> Figure:
    """Figure A1: L1 and G1 as functions of A and B; left where C = 0, as the paper reads it, right everywhere."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    line, grid = figure.subplots(1, 2)
    g1 = G1(H, W, d)

    A = list(range(n + 1))
    line.plot(A, [L1(H, W, d, n, a, n - a, 0) for a in A], "o-", label=f"L1, {n} local heads")
    line.axhline(g1, color="C1", label=f"G1 = {g1:.1f}, one global head")
    line.set_xticks(A, [f"{a}\n{n - a}" for a in A])
    line.set_xlabel(f"A (upper) and B (lower), C = 0, n = {n}")
    line.set_ylabel("parameters per dimension and constraint")
    line.set_title(f"H = {H}, W = {W}, d = {d}")
    line.legend()

    ratio = np.full((n + 1, n + 1), np.nan)  # rows A, columns B
    for a, b, c in combinations(n):
        ratio[a, b] = L1(H, W, d, n, a, b, c) / g1
    span = float(np.nanmax(np.abs(np.log2(ratio))))
    grid.imshow(np.log2(ratio), cmap="RdBu", vmin=-span, vmax=span, origin="lower")
    for a, b, _ in combinations(n):
        dark = abs(np.log2(ratio[a, b])) > 0.6 * span
        grid.text(
            b,
            a,
            f"{round(ratio[a, b], 9):.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "black",
        )
    grid.set_xlabel("B: slices with two possible activations")
    grid.set_ylabel("A: slices with one")
    grid.set_title("L1 / G1: blue favours local heads, red the global one")
    return figure
