"""Sentences of the report and of the terminal."""

from __future__ import annotations

from lhcnet.protocol.comparisons import Comparison, Question, Statistics
from lhcnet.protocol.results import Results, Summary
from lhcnet.protocol.statistics import ALPHA, Paired, Permuted
from lhcnet.report.formatting import interval, p_value, percent, points

QUESTIONS: dict[Question, str] = {
    "best": "The chosen network against the best of set A",
    "sets": "B ∪ C against A",
    "control": "LHC-NetC against the LHC-Net it was trained from",
    "tta": "With TTA against without",
}
HOW_CHOSEN: dict[Question, str] = {
    "best": "each is the best kept model on validation",
    "sets": "all kept models of both sets; models with equal weights count once",
    "control": "both have the same start; each is its best epoch on validation",
    "tta": "the same model twice",
}


def names(one: Comparison) -> tuple[str, str]:
    """The two that are compared, for a reader."""
    if one.question == "tta":
        return f"{one.first} with TTA", f"{one.second} without TTA"
    views = " with TTA" if one.tta else ""
    return one.first + views, one.second + views


def significance(test: Paired | Permuted) -> str:
    return f"significant: {'yes' if test.significant else 'no'} (alpha = {ALPHA:g})"


def sentence(first: str, second: str, test: Paired | Permuted) -> str:
    """One comparison with its figures; says so if no result could have been significant."""
    p = _p(test.p)
    if isinstance(test, Paired):
        figures = (
            f"{first} {percent(test.accuracy_a)} %, {second} {percent(test.accuracy_b)} % on the same {test.n:,} "
            f"images: difference {points(test.difference)} points; {test.b} images are right by the first alone, "
            f"{test.c} by the second alone; McNemar's exact test {p}"
        )
        few = f"{test.b + test.c} such images are"
    else:
        figures = (
            f"{first} {percent(test.mean_a)} % (mean of {test.n_a} models), {second} {percent(test.mean_b)} % (mean of "
            f"{test.n_b}): difference {points(test.difference)} points; {'exact' if test.exact else 'seeded'} "
            f"permutation test {p}"
        )
        few = f"{test.n_a} and {test.n_b} models are"
    if test.smallest_p >= ALPHA:
        return f"{figures}; {significance(test)}: {few} too few for any difference to be significant."
    return f"{figures}; {significance(test)}."


def comparison(one: Comparison) -> str:
    """A comparison on all test images, and on those without duplicates in train."""
    said = f"{QUESTIONS[one.question]}: {sentence(*names(one), one.test)}"
    if one.distinct is None:
        return said
    n = f" (n = {one.distinct.n:,})" if isinstance(one.distinct, Paired) else ""
    return (
        f"{said} Excluding images duplicated in train{n}: difference {points(one.distinct.difference)} points; "
        f"{_p(one.distinct.p)}; {significance(one.distinct)}."
    )


def _p(p: float) -> str:
    return f"p {p_value(p)}" if p < 0.001 else f"p = {p_value(p)}"


def main_comparisons(statistics: Statistics) -> list[Comparison]:
    """The comparisons that answer the paper's question."""
    return [one for one in statistics.comparisons if one.question in ("best", "sets")]


def chosen(summary: Summary) -> str:
    """The chosen model and its scores."""
    return (
        f"Chosen: {summary.chosen}, with {percent(summary.val_accuracy)} % on validation and "
        f"{percent(summary.test_accuracy)} % on test (95 % CI {interval(summary.test_accuracy_ci95)})."
    )


def note(results: Results, summary: Summary, found: Statistics) -> str:
    """What came out of an execution, in five lines of Markdown."""
    means = [
        f"{name}: {percent(spread.mean)} % on test, "
        + ("one model" if spread.sd is None else f"mean of {spread.n}, standard deviation {percent(spread.sd)} points")
        for name in ("A", "B ∪ C")
        if (spread := found.spread.get(name, {}).get("test_accuracy"))
    ]
    compared = {one.question: sentence(*names(one), one.test) for one in main_comparisons(found) if not one.tta}
    no = iter(found.untested)
    counts = f"{summary.kept} of {summary.kept + summary.rejected} models kept."
    best = not_the_best(summary) or "The chosen model is the best one on validation."
    lines = [chosen(summary), f"{'; '.join(means)}.", *(compared.get(q) or next(no, "") for q in ("best", "sets"))]
    return "\n".join(f"- {line}" for line in (*lines, f"{counts} {best}"))


def not_the_best(summary: Summary) -> str | None:
    """Says that another model than the chosen one is the best on validation, if it is so."""
    if summary.best_on_validation == summary.chosen:
        return None
    return (
        f"The chosen model is not the best one on validation: {summary.best_on_validation} has "
        f"{percent(summary.best_on_validation_accuracy)} %, {summary.chosen} has {percent(summary.val_accuracy)} %. "
        "Only a model of B ∪ C can be chosen."
    )


def missing(results: Results) -> str | None:
    """Names the models that are missing because their training ended early."""
    if not (lost := results.missing_models):
        return None
    planned = len(results.selection.entries) + len(results.evaluation.control) + len(results.evaluation.control_missing)
    reasons = ". ".join(f"{id_}: {reason}" for id_, reason in lost.items())
    return (
        f"{len(lost)} of {planned} models are missing, because their training ended early. All means and tests are of "
        f"the others. {reasons}."
    )


def equal_weights(results: Results) -> str | None:
    """Names the kept models whose weights are those of their start or of another model."""
    scored = {model.id for model in results.evaluation.models}
    same = {id_: other for id_, other in results.same_weights().items() if id_ in scored}
    if not same:
        return None
    at_start = [id_ for id_, other in same.items() if other == "start"]
    said = []
    if at_start:
        said.append(f"Training did not improve {', '.join(at_start)}: epoch 0, the start, was the best on validation.")
    said += [f"{id_} has the same weights as {other}." for id_, other in same.items() if other != "start"]
    return " ".join([*said, "Models with equal weights count once in every mean and test."])
