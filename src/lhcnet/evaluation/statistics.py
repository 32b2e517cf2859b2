"""Table 7: how the top of one set of models compares with the top of another (test accuracy, no TTA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

COLUMNS = ("top 40%", "top 40% w/o best", "top 25%", "top 25% w/o best", "best")

# Table 7 of the paper, in per cent
PAPER_TABLE_7: Mapping[str, tuple[float, ...]] = {
    "ResNet34v2": (72.69, 72.65, 72.75, 72.69, 72.81),
    "LHC-Net": (72.89, 72.77, 73.02, 72.83, 73.39),
    "LHC-NetC": (73.04, 72.79, 73.21, 72.89, 73.53),
}

# The rows of Table A2 that this project's models stand beside: accuracy in per cent, with TTA or not
PAPER_TABLE_A2: Sequence[tuple[str, float, bool]] = (
    ("ResNet34v2", 72.81, False),
    ("LHC-Net", 73.39, False),
    ("LHC-NetC", 73.53, False),
    ("ResNet34v2", 73.92, True),
    ("ResMaskingNet", 74.14, True),
    ("LHC-NetC", 74.28, True),
    ("LHC-Net", 74.42, True),
)


def table_7_row(accuracies: Sequence[float]) -> tuple[float | None, ...]:
    """Accuracies (any order, any unit) of one set -> the five columns of Table 7, in the same unit.

    The top p % of n models are the round(p n) best, at least one. Without the best, one model leaves no mean: None.
    """
    if not accuracies:
        return (None,) * len(COLUMNS)
    ranked = sorted(accuracies, reverse=True)
    row: list[float | None] = []
    for share in (0.40, 0.25):
        top = ranked[: max(1, round(share * len(ranked)))]
        row += [sum(top) / len(top), sum(top[1:]) / len(top[1:]) if len(top) > 1 else None]
    return (*row, ranked[0])
