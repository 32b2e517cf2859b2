"""Appendix B against exact fractions, and against what the paper reads off them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from lhcnet.analysis.appendix_b import G1, G2, L1, L2, D, H, N, W, combinations
from lhcnet.report.analysis_plots import figure_a1
from lhcnet.report.analysis_tables import appendix_b_table


def exact(A: int, B: int, n: int = N, d: int = D) -> tuple[Fraction, Fraction]:
    """(L1, G1): parameters over dimensions times constraints, two vectors and one constraint or three and two."""
    L = Fraction(H * W, n)
    alone, both, whole = L * d / (2 * (L + d)), L * d / (3 * (L + d) * 2), Fraction(H * W * d, 3 * (H * W + d) * 2)
    return (A * alone + B * both) / (A + B), whole


def test_measures_are_the_fractions_of_the_paper() -> None:
    assert pytest.approx(float(exact(1, 1)[1])) == G1(H, W, D)
    assert G2() == pytest.approx(1 / 6)
    for A, B, C in combinations():
        assert L1(H, W, D, N, A, B, C) == pytest.approx(float(exact(A, B)[0]))
        assert L2(N, A, B, C) == pytest.approx((A / 2 + B / 6) / (A + B))


def test_without_empty_slices_the_global_head_wins_twice() -> None:
    wins = {(A, B) for A, B, C in combinations() if C == 0 and L1(H, W, D, N, A, B, C) < G1(H, W, D)}
    assert wins == {(0, 8), (1, 7)}


def test_the_bound_is_seven_27ths_which_the_paper_rounds() -> None:
    assert round(7 / 27, 2) == 0.26
    for A, B, C in combinations():
        l1, g1 = exact(A, B)
        assert (l1 > g1) == (27 * A > 7 * B) == (L1(H, W, D, N, A, B, C) > G1(H, W, D))
    empty = {(A, B) for A, B, C in combinations() if C > 0 and 27 * A < 7 * B}
    assert empty == {(0, B) for B in range(1, 8)} | {(1, 4), (1, 5), (1, 6)}  # more than the paper's two


def test_by_relationships_local_heads_never_lose() -> None:
    for A, B, C in combinations():
        assert L2(N, A, B, C) == pytest.approx(G2()) if A == 0 else L2(N, A, B, C) > G2() + 1e-9


def test_one_head_is_the_global_one() -> None:
    assert L1(7, 9, 5, 1, 0, 1, 0) == pytest.approx(G1(7, 9, 5))
    assert L2(1, 0, 1, 0) == pytest.approx(G2())


def test_other_sizes() -> None:
    # 4x6 pixels in 3 slices of 8, d = 2: 16/(2*10) = 0.8 where one can be active, 16/(6*10) where both can
    assert L1(4, 6, 2, 3, 2, 1, 0) == pytest.approx((2 * 0.8 + 16 / 60) / 3)
    assert G1(4, 6, 2) == pytest.approx(48 / (6 * 26))


@pytest.mark.parametrize("slices", [(4, 3, 0), (-1, 9, 0), (0, 0, 8)])
def test_numbers_of_slices_that_cannot_be(slices: tuple[int, int, int]) -> None:
    for measure in (lambda: L1(H, W, D, N, *slices), lambda: L2(N, *slices)):
        with pytest.raises(ValueError, match=r"sum to n=8|A = B = 0"):
            measure()


def test_table_and_figure_show_every_combination() -> None:
    rows = appendix_b_table().data
    assert len(rows) == len(rows[["A", "B"]].drop_duplicates()) == 44  # all A + B <= 8 but A = B = 0
    assert set(rows[(rows["C"] == 0) & (rows["by_L1"] == "global")]["A"]) == {0, 1}
    line, grid = figure_a1().axes
    curve, level = line.get_lines()
    assert curve.get_ydata()[3] == pytest.approx(L1(H, W, D, N, 3, 5, 0))
    assert level.get_ydata()[0] == pytest.approx(G1(H, W, D))
    assert len(grid.texts) == 44
