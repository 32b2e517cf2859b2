"""Appendix B: parameters per dimension (G1, L1) and per relationship (G2, L2) of one global and n local heads.

A head has to learn that two old feature maps make up a new one. In A of the n slices one of the two can be active, in B
both, in C = n - A - B none. The head with the higher measure has more free parameters for what it has to model.

The printed formulas hold, with these slips of the text:

- (A3) writes the second denominator 3(HW/n + d)2, the inequality after (A6) writes 2(HW/n + d)3: the same number.
- 0.26 is 7/27 rounded. "Every other possible combination" is favourable to local heads only where C = 0. L1 does not
  depend on C, so with C > 0 the global head also wins with A = 0 and any B, and with A = 1 and B = 4, 5 or 6.
- With A = B = 0 there is nothing to learn and L1 and L2 are 0/0.
- n stands for the number of feature maps at first, and for the number of heads from (A3) on.
"""

from __future__ import annotations

from collections.abc import Iterator

H, W, D, N = 56, 56, 196, 8  # LHC1 and LHC2: d = HW/(2n)


def G1(H: int, W: int, d: int) -> float:  # noqa: N802
    """(A1): parameters of a global head for every dimension and constraint."""
    return H * W * d / (3 * (H * W + d) * 2)


def G2() -> float:  # noqa: N802
    """(A2): parameters of a global head for every relationship and constraint, 1/6 whatever the sizes."""
    return 1 / (3 * 2)


def L1(H: int, W: int, d: int, n: int, A: int, B: int, C: int) -> float:  # noqa: N802
    """(A3): the mean of G1's measure over the slices that have something to learn.

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
    """All (A, B, C) with A + B > 0, first those without empty slices (C = 0)."""
    for C in range(n):
        for A in range(n - C + 1):
            yield A, n - C - A, C
