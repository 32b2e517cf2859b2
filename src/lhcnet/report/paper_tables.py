"""Tables 7 and A2: what was found here beside the paper's figures, and whether they differ by more than noise."""

from __future__ import annotations

from collections.abc import Sequence

from lhcnet.protocol.comparisons import OTHER, best_models, sets
from lhcnet.protocol.paper import COLUMNS, PAPER_TABLE_7, PAPER_TABLE_A2, table_7_row
from lhcnet.protocol.results import EvaluationReport
from lhcnet.protocol.score import Score
from lhcnet.protocol.selection import SelectionReport
from lhcnet.protocol.statistics import wilson
from lhcnet.report.formatting import Table, bounds, points
from lhcnet.saved import Architecture


def sizes(architecture: Architecture) -> dict[str, tuple[float, float | None]]:
    """Of the networks with these settings, with and without LHC, counted as in the paper's Table A2.

    Name -> (parameters in millions, share of the attention modules in them in per cent).
    """
    import torch

    from lhcnet.config import module_arguments
    from lhcnet.models.lhcnet import count_parameters, insert_modules
    from lhcnet.models.resnetv2 import ResNetV2

    with torch.device("meta"):
        network = ResNetV2(**architecture.model_dump(exclude={"modules", "control"}))
    plain = count_parameters(network) / 1e6
    found: dict[str, tuple[float, float | None]] = {"ResNet34v2": (plain, None)}
    if architecture.modules is not None:
        with_attention = count_parameters(insert_modules(network, module_arguments(architecture.modules), 0)) / 1e6
        names = ("LHC-Net", "LHC-NetC") if architecture.has_lhc else (OTHER,)
        found |= dict.fromkeys(names, (with_attention, 100 * (1 - plain / with_attention)))
    return found


def table_7(selection: SelectionReport, evaluation: EvaluationReport, *, official: bool) -> Table:
    of_set = sets(selection, evaluation)
    rows = []
    for name, paper in PAPER_TABLE_7.items():
        if models := of_set[name]:
            n = models[0].test.n
            ours = table_7_row([100 * model.test.accuracy for model in models])
            twinless = table_7_row([100 * model.test_distinct.accuracy for model in models])
            beyond = [
                column
                for column, value, other in zip(COLUMNS, ours, paper, strict=True)
                if value is not None and not _inside(other, value, n)
            ]
            against = f"beyond noise: {', '.join(beyond)}" if beyond else "within noise"
            verdict = {"against the paper's": against if official else "not judged"}
            rows.append({"model": name, "source": f"here (n={len(models)})"} | _cells(ours) | verdict)
            rows.append({"model": name, "source": "here, no twin"} | _cells(twinless) | dict.fromkeys(verdict, "-"))
        rows.append({"model": name, "source": "paper"} | _cells(paper) | {"against the paper's": "-"})
    note = (
        "Test accuracy in per cent, no TTA, of the best 40 % and 25 % of the kept models of A, of the LHC-Nets of B u "
        "C, and of the LHC-NetCs (n is how many there are). The table ranks by the test score itself, as the paper's "
        "does: it compares sets, and its 'best' is no estimate of any one model. Within noise: the paper's figure lies "
        "inside the 95 % interval of ours."
    )
    return "Table 7", note, rows


def table_a2(selection: SelectionReport, evaluation: EvaluationReport, *, official: bool) -> Table:
    rows: list[tuple[float, bool, dict[str, str]]] = []
    paper = {(row.model, row.tta): row.accuracy for row in PAPER_TABLE_A2}
    for name, id_ in best_models(selection, evaluation).items():
        model = evaluation.model(id_)
        for tta, own, twinless in (
            (False, model.test, model.test_distinct),
            (True, model.test_tta, model.test_distinct_tta),
        ):
            if own is None:
                continue
            same = paper.get((name, tta))
            row = _a2_row(name, "here", tta, 100 * own.accuracy, *evaluation.sizes.get(name, (None, None)))
            row |= {"ci95": bounds(own.ci95), "no twin": points(twinless)}
            row |= _against(own, f"{name}, paper {same:.2f}" if same else "", same, official)
            rows.append((100 * own.accuracy, True, row))
    chosen = evaluation.chosen_model()
    for other in PAPER_TABLE_A2:
        row = _a2_row(other.model, "paper", other.tta, other.accuracy, other.params, other.share)
        own = chosen.test_tta if other.tta else chosen.test
        row |= _against(own, f"chosen, here {points(own)}", other.accuracy, official)
        rows.append((other.accuracy, False, row))
    note = (
        "Test accuracy in per cent. Here stand the best on validation of A, of B u C and of the LHC-NetCs; the paper's "
        "own rows are the best of several runs on the test images (Table 7, 'best'), the others as it quotes them (* "
        "from a repository). A row from here is compared with the paper's row of the same name, every row of the paper "
        "with the chosen model under the same views: the difference is ours minus the paper's. Within noise: the "
        "paper's figure lies inside the 95 % interval of ours; a paired test would need the predictions behind it."
    )
    return "Table A2", note, [row for _, _, row in sorted(rows, key=lambda item: item[:2])]


def _a2_row(
    model: str, source: str, tta: bool, accuracy: float, params: float | None, share: float | None
) -> dict[str, str]:
    return {
        "model": model,
        "source": source,
        "tta": "yes" if tta else "no",
        "accuracy": f"{accuracy:.2f}",
        "ci95": "-",
        "no twin": "-",
        "params (M)": "-" if params is None else f"{params:.4g}",
        "attention (%)": "-" if share is None else f"{share:.3g}",
    }


def _against(own: Score | None, whose: str, other: float | None, official: bool) -> dict[str, str]:
    columns = ("compared with", "difference", "which is")
    if own is None or other is None:
        return dict.fromkeys(columns, "-")
    if not official:
        return dict(zip(columns, ("-", "-", "not judged"), strict=True))
    noise = "within noise" if _inside(other, 100 * own.accuracy, own.n) else "beyond noise"
    return dict(zip(columns, (whose, f"{100 * own.accuracy - other:+.2f}", noise), strict=True))


def _inside(other: float, ours: float, n: int) -> bool:
    """Whether `other` lies inside the 95 % interval of `ours`, both in per cent, on n images."""
    low, high = wilson(round(ours / 100 * n), n)
    return 100 * low <= other <= 100 * high


def _cells(values: Sequence[float | None]) -> dict[str, str]:
    return {c: "-" if v is None else f"{v:.2f}" for c, v in zip(COLUMNS, values, strict=True)}
