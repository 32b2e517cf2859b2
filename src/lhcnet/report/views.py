"""Tables of test-time augmentation: plain and TTA side by side, and the choice of views on validation."""

from __future__ import annotations

from lhcnet.protocol.comparisons import Statistics
from lhcnet.protocol.results import Results
from lhcnet.protocol.statistics import Paired
from lhcnet.protocol.view_choice import PLAIN, ViewScore
from lhcnet.report.formatting import Table, frame, score_columns
from lhcnet.report.wording import QUESTIONS


def tta_table(results: Results, statistics: Statistics) -> Table:
    """Every model that was predicted with TTA: its accuracies without and with it, and McNemar's test on test."""
    rows: list[dict[str, object]] = []
    for one in statistics.comparisons:
        model = results.evaluation.model(one.first) if one.question == "tta" else None
        if model is None or model.validation_tta is None or model.test_tta is None or not isinstance(one.test, Paired):
            continue
        low, high = model.test_tta.ci95
        row: dict[str, object] = {
            "model": model.id,
            "views": model.test_tta.views,
            "val": model.validation.accuracy,
            "val_tta": model.validation_tta.accuracy,
            **score_columns(model.test, "test"),
            "test_tta": model.test_tta.accuracy,
            "ci95_tta_low": low,
            "ci95_tta_high": high,
            "difference": one.test.difference,
            "tta_alone": one.test.b,
            "plain_alone": one.test.c,
            "p": one.test.p,
            "significant": one.test.significant,
        }
        if one.distinct is not None:
            row |= {"difference_distinct": one.distinct.difference, "p_distinct": one.distinct.p}
            row["significant_distinct"] = one.distinct.significant
        rows.append(row)
    how = "chosen on validation for each model" if results.evaluation.settings.views == "helpful" else "the paper's"
    note = f"McNemar's exact test of the same model on the same test images; the views are {how}."
    return Table(QUESTIONS["tta"], note, frame(rows))


def views_table(results: Results) -> Table:
    """Which families of views were tried on validation, for the best models, and which were kept."""
    rows: list[dict[str, object]] = []
    for id_ in results.best.values():
        if choice := results.evaluation.model(id_).view_choice:
            kept = " + ".join(choice.families) or PLAIN
            for score in (*choice.tried, choice.paper):
                rows.append({"model": id_, **_gain(score, choice.tried[0]), "kept": score.name == kept})
    note = (
        "Mean over the image and all views of these families, on validation. A family is added if it lowers the NLL "
        "(after temperature scaling, as a mean is less confident in any case) and if the accuracy is not below plain; "
        "in each round the best one. `paper` is the mean over the paper's 60 views, for comparison."
    )
    return Table("Choice of the views", note, frame(rows))


def single_views_table(results: Results) -> Table:
    """Each of the paper's views alone on validation, for the chosen model."""
    model = results.evaluation.chosen_model()
    rows: list[dict[str, object]] = []
    if choice := model.view_choice:
        rows = [_gain(score, choice.tried[0]) for score in choice.single]
        for row in rows:
            del row["views"]
    note = f"{model.id} on validation: each of the paper's 60 views by itself, NLL after temperature scaling."
    return Table("Each view alone", note, frame(rows))


def _gain(score: ViewScore, plain: ViewScore) -> dict[str, object]:
    return {
        "view": score.name,
        "views": score.views,
        "val_accuracy": score.accuracy,
        "gain": score.accuracy - plain.accuracy,
        "nll": score.nll,
        "nll_gain": score.nll - plain.nll,
    }
