"""Tables 7 and A2: our results and, on FER2013's own splits, those of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lhcnet.protocol.paper import PAPER_TABLE_7, PAPER_TABLE_A2, table_7_row
from lhcnet.protocol.results import Results, one_each
from lhcnet.protocol.score import Score
from lhcnet.protocol.statistics import wilson
from lhcnet.report.formatting import Table, frame, score_columns

COLUMNS_7 = ("top_40", "top_40_without_best", "top_25", "top_25_without_best", "best")
COLUMNS_A2 = (
    *("network", "source", "tta", "accuracy", "ci95_low", "ci95_high", "accuracy_distinct", "params", "attention"),
    *("compared_with", "difference", "paper_in_ci"),
)
OURS, DISTINCT, PAPER = "here", "here, excluding duplicates", "paper"


def table_7(results: Results, *, official: bool) -> Table:
    """Means of the best models of each network, and of the paper's if the data are `official`."""
    rows: list[dict[str, object]] = []
    for name, paper in PAPER_TABLE_7.items():
        models = [results.evaluation.model(record.id) for record in one_each(results.sets[name])]
        if models:
            n = models[0].test.n
            ours = table_7_row([model.test.accuracy for model in models])
            row: dict[str, object] = {"network": name, "source": OURS, "models": len(models)} | _cells(ours)
            if official:
                pairs = zip(COLUMNS_7, ours, paper, strict=True)
                inside = [_inside(theirs / 100, value, n) for _, value, theirs in pairs if value is not None]
                row["paper_in_ci"] = f"{sum(inside)} of {len(inside)}"
            rows.append(row)
            if results.duplicates:
                distinct = table_7_row([model.test_distinct.accuracy for model in models])
                rows.append({"network": name, "source": DISTINCT, "models": len(models)} | _cells(distinct))
        if official:
            rows.append({"network": name, "source": PAPER} | _cells([value / 100 for value in paper]))
    note = (
        "Mean test accuracy in per cent of the best 40 % and 25 % of the models with different weights of set A, of "
        "the LHC-Nets of B ∪ C, and of the LHC-NetCs, without TTA. As in the paper, models are ranked by their test "
        "accuracy: the table compares sets, and the column best is no estimate of the accuracy of one model."
    )
    return Table("Table 7", note + (_INSIDE if official else ""), frame(rows).dropna(axis="columns", how="all"))


_INSIDE = (
    " The last column counts the figures of the paper that lie in the 95 % confidence interval of ours; a paired test "
    "would need the paper's predictions."
)


def table_a2(results: Results, *, official: bool) -> Table:
    """The best models, and the rows of the paper if the data are `official`."""
    rows: list[dict[str, object]] = []
    theirs = {(row.model, row.tta): row.accuracy / 100 for row in PAPER_TABLE_A2} if official else {}
    for name, id_ in results.best.items():
        model = results.evaluation.model(id_)
        params, attention = results.evaluation.sizes.get(name, (None, None))
        for tta, own, distinct in (
            (False, model.test, model.test_distinct),
            (True, model.test_tta, model.test_distinct_tta),
        ):
            if own is None or distinct is None:
                continue
            row = {"network": name, "source": OURS, "tta": tta} | score_columns(own, "accuracy")
            row |= {"accuracy_distinct": distinct.accuracy} if results.duplicates else {}
            row |= {"params": params, "attention": attention}
            rows.append(row | _against(own, f"{name}, paper", theirs.get((name, tta))))
    chosen = results.evaluation.chosen_model()
    for other in PAPER_TABLE_A2 if official else ():
        score = chosen.test_tta if other.tta else chosen.test
        row = {"network": other.model, "source": PAPER, "tta": other.tta, "accuracy": other.accuracy / 100}
        row |= {"params": other.params, "attention": other.share}
        rows.append(row | _against(score, "chosen model, here", other.accuracy / 100))
    data = frame(sorted(rows, key=_order))
    data = data[[name for name in COLUMNS_A2 if name in data]].dropna(axis="columns", how="all")
    note = "Test accuracy of the best models on validation of set A, of B ∪ C and of the LHC-NetCs."
    return Table("Table A2", note + (_ROWS if official else ""), data)


_ROWS = (
    " The paper's own rows are the best of several runs on the test images, the other rows are quoted by it (* from a "
    "repository). A row from here is compared with the paper's row of the same network, a row of the paper with the "
    "chosen model; the difference is ours minus the paper's."
)


def _order(row: Mapping[str, object]) -> tuple[float, bool]:
    return float(str(row["accuracy"])), row["source"] == OURS


def _against(ours: Score | None, whose: str, theirs: float | None) -> dict[str, object]:
    if ours is None or theirs is None:
        return {}
    inside = _inside(theirs, ours.accuracy, ours.n)
    return {"compared_with": whose, "difference": ours.accuracy - theirs, "paper_in_ci": inside}


def _inside(theirs: float, ours: float, n: int) -> bool:
    """Whether an accuracy of the paper lies in the 95 % interval of ours on n images."""
    low, high = wilson(round(ours * n), n)
    return low <= theirs <= high


def _cells(values: Sequence[float | None]) -> dict[str, object]:
    return dict(zip(COLUMNS_7, values, strict=True))
