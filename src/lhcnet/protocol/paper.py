"""Results that the paper gives: Tables 7 and A2, heads needed and correlation of heads (section 3.2.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COLUMNS = ("top 40%", "top 40% w/o best", "top 25%", "top 25% w/o best", "best")

HEADS_NEEDED, HEADS, MODULES_NEEDED = 16, 31, 2  # 16 of 31 heads are needed: the first two modules
CORRELATION, CORRELATION_TRANSFORMER = 0.63, 0.93  # of heads: in LHC-Net; "up to", in a Transformer encoder

# Table 7 of the paper, in per cent
PAPER_TABLE_7: Mapping[str, tuple[float, ...]] = {
    "ResNet34v2": (72.69, 72.65, 72.75, 72.69, 72.81),
    "LHC-Net": (72.89, 72.77, 73.02, 72.83, 73.39),
    "LHC-NetC": (73.04, 72.79, 73.21, 72.89, 73.53),
}


@dataclass(frozen=True)
class PaperRow:
    """One row of Table A2: per cent, millions, per cent; None where the paper has a dash."""

    model: str
    accuracy: float
    tta: bool
    params: float | None = None
    share: float | None = None


PAPER_TABLE_A2 = (
    PaperRow("BoW Repr. [37]", 67.48, False),
    PaperRow("Human [37]", 70.00, False),
    PaperRow("CNN [39]", 70.02, False),
    PaperRow("VGG19 [38]", 70.80, True, 143.7),
    PaperRow("EffNet [38] *", 70.80, True, 9.18),
    PaperRow("SVM [37]", 71.16, False),
    PaperRow("Inception [40]", 71.60, True, 23.85),
    PaperRow("Incep.v1 [38] *", 71.97, True, 5),
    PaperRow("ResNet34 [40]", 72.40, True, 27.6),
    PaperRow("ResNet34 [38]", 72.42, True, 27.6),
    PaperRow("VGG [40]", 72.70, True, 143.7),
    PaperRow("SE-Net50 [41]", 72.70, True, 27, 5.18),
    PaperRow("Incep.v3 [38] *", 72.72, True, 23.85),
    PaperRow("ResNet34v2", 72.81, False, 27.6),
    PaperRow("BAMRN50 [38] *", 73.14, True, 24.07, 1.62),
    PaperRow("Dense121 [38]", 73.16, True, 8.06),
    PaperRow("ResNet50 [41]", 73.20, True, 25.6),
    PaperRow("ResNet152 [38]", 73.22, True, 60.38),
    PaperRow("VGG [42]", 73.28, True, 143.7),
    PaperRow("CBAMRN50 [38]", 73.39, True, 28.09, 9),
    PaperRow("LHC-Net", 73.39, False, 32.4, 14.8),
    PaperRow("LHC-NetC", 73.53, False, 32.4, 14.8),
    PaperRow("ResNet34v2", 73.92, True, 27.6),
    PaperRow("RM-Net [38]", 74.14, True, 142.9, 80.7),
    PaperRow("LHC-NetC", 74.28, True, 32.4, 14.8),
    PaperRow("LHC-Net", 74.42, True, 32.4, 14.8),
)


def table_7_row(accuracies: Sequence[float]) -> tuple[float | None, ...]:
    """The five columns of Table 7 for one set of models.

    The top p % of n models are the round(p n) best ones, at least one. Without the best, one model has no mean: None.

    Args:
        accuracies: of the models, in any order and unit.

    Returns:
        `COLUMNS`, in the same unit.
    """
    if not accuracies:
        return (None,) * len(COLUMNS)
    ranked = sorted(accuracies, reverse=True)
    row: list[float | None] = []
    for share in (0.40, 0.25):
        top = ranked[: max(1, round(share * len(ranked)))]
        row += [sum(top) / len(top), sum(top[1:]) / len(top[1:]) if len(top) > 1 else None]
    return (*row, ranked[0])
