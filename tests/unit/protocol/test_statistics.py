"""Statistics against values from books, and against counting by hand."""

from __future__ import annotations

from itertools import combinations
from math import comb, isclose, sqrt

import numpy as np
import pytest
from support.drawn_results import change_record, draw_results

from lhcnet.config import Config
from lhcnet.profiles import profile
from lhcnet.protocol.comparisons import statistics
from lhcnet.protocol.confidence import nll
from lhcnet.protocol.paper import PAPER_TABLE_7, PAPER_TABLE_A2
from lhcnet.protocol.results import Results, one_each, summarise
from lhcnet.protocol.sizes import OTHER
from lhcnet.protocol.statistics import Paired, mcnemar, paired_interval, permutation, seed_spread, wilson
from lhcnet.report.wording import sentence


def disagreeing(b: int, c: int, both: int = 50, neither: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Two models of which the first alone is right b times, the second alone c times."""
    first = np.repeat([True, False, True, False], [b, c, both, neither])
    second = np.repeat([False, True, True, False], [b, c, both, neither])
    order = np.random.default_rng(0).permutation(len(first))
    return first[order], second[order]


def test_wilson_against_its_formula_and_a_published_value() -> None:
    # 10 of 10: the lower bound is n / (n + z^2)
    assert wilson(10, 10) == pytest.approx((10 / (10 + 1.959964**2), 1.0), abs=1e-6)
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263 is 0.2553 to 0.3662, 15 of 148 is 0.0624 to 0.1605
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    low, high = wilson(2671, 3589)  # the paper's 74.42 %
    assert (high - low) / 2 == pytest.approx(0.0143, abs=1e-4)


@pytest.mark.parametrize(("b", "c"), [(59, 6), (61, 30), (9, 2), (5, 0), (1, 0), (7, 7)])
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    found = mcnemar(*disagreeing(b, c))
    n = b + c
    tail = sum(comb(n, k) for k in range(max(b, c), n + 1)) / 2**n
    assert (found.b, found.c, found.n) == (b, c, n + 80)
    assert found.p == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert found.difference == pytest.approx(found.accuracy_a - found.accuracy_b)
    assert found.difference == pytest.approx((b - c) / found.n)


def test_mcnemar_against_a_textbook() -> None:
    # Agresti, Categorical Data Analysis: approval ratings, 150 against 86 of 1,600 changed sides; z^2 = 17.36
    found = mcnemar(*disagreeing(150, 86, both=794, neither=570))
    assert found.n == 1600
    assert found.p == pytest.approx(3.7e-5, rel=0.05)
    assert found.significant


def test_mcnemar_is_symmetric_and_knows_equals() -> None:
    first, second = disagreeing(12, 5)
    there, back = mcnemar(first, second), mcnemar(second, first)
    assert (there.p, there.difference) == (back.p, -back.difference)
    same = mcnemar(first, first)
    assert (same.b, same.c, same.p, same.smallest_p) == (0, 0, 1.0, 1.0)
    with pytest.raises(ValueError, match="same images"):
        mcnemar(first, second[:-1])


def test_six_discordant_images_can_reach_the_level_and_five_cannot() -> None:
    assert mcnemar(*disagreeing(6, 0)).smallest_p == mcnemar(*disagreeing(6, 0)).p == 2 / 2**6
    assert mcnemar(*disagreeing(5, 0)).smallest_p == 2 / 2**5 > 0.05
    assert mcnemar(*disagreeing(3, 3)).smallest_p == 2 / 2**6


@pytest.mark.parametrize(
    ("a", "b"),
    [([3, 4], [1, 2]), ([0.5, 0.6, 0.9], [0.1, 0.2, 0.7, 0.3]), ([1, 5], [2, 3, 4]), ([0.7, 0.7], [0.7, 0.7, 0.7])],
)
def test_permutation_counts_every_division(a: list[float], b: list[float]) -> None:
    pool, observed = a + b, np.mean(a) - np.mean(b)
    differences = []
    for chosen in combinations(range(len(pool)), len(a)):
        inside = [pool[i] for i in chosen]
        outside = [pool[i] for i in range(len(pool)) if i not in chosen]
        differences.append(np.mean(inside) - np.mean(outside))
    above = np.mean([d >= observed - 1e-12 for d in differences])
    below = np.mean([d <= observed + 1e-12 for d in differences])
    found = permutation(a, b)
    assert found.exact
    assert found.p == pytest.approx(min(1.0, 2 * min(above, below)))
    assert found.smallest_p == pytest.approx(2 / comb(len(pool), len(a)))
    assert found.difference == pytest.approx(observed)


def test_permutation_of_many_is_drawn_and_seeded() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.75, 0.01, 12).tolist(), rng.normal(0.72, 0.01, 12).tolist()
    found = permutation(a, b)
    assert not found.exact
    assert found == permutation(a, b)
    assert found.p < 0.01
    assert permutation(b, a).p == pytest.approx(found.p, abs=0.01)
    with pytest.raises(ValueError, match="at least two"):
        permutation([0.7], b)


def test_spread() -> None:
    found = seed_spread([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])  # squared deviations sum to 32
    assert (found.n, found.mean, found.min, found.max) == (8, 5.0, 2.0, 9.0)
    assert found.sd == pytest.approx(sqrt(32 / 7))
    assert seed_spread([0.7]).sd is None


def test_a_sentence_holds_the_figures_and_the_significance() -> None:
    found = Paired(n=3589, accuracy_a=0.741, accuracy_b=0.732, b=61, c=30, difference=0.00864, p=0.0016, smallest_p=0.0)
    said = sentence("LHC-Net", "ResNet34v2", found)
    figures = ("LHC-Net 74.10 %", "ResNet34v2 73.20 %", "3,589", "+0.86", "61", "30", "p = 0.002", "significant: yes")
    assert [part for part in figures if part not in said] == []
    assert "p < 0.001" in sentence("a", "b", mcnemar(*disagreeing(59, 6)))
    assert "significant: no (alpha = 0.05)" in sentence("a", "b", mcnemar(*disagreeing(9, 4)))


def test_a_sentence_says_when_no_result_could_have_been_significant() -> None:
    few = sentence("B ∪ C", "A", permutation([0.9, 0.91], [0.1, 0.11]))
    enough = sentence("B ∪ C", "A", permutation([0.9, 0.91, 0.92, 0.93], [0.1, 0.11, 0.12, 0.13]))
    images = sentence("a", "b", mcnemar(*disagreeing(4, 0)))
    assert ["too few" in said for said in (few, enough, images)] == [True, False, True]
    assert "p = 0.029; significant: yes" in enough


def test_the_papers_tables_agree_with_each_other() -> None:
    rows = {(row.model, row.tta): row for row in PAPER_TABLE_A2}
    assert len(rows) == len(PAPER_TABLE_A2) == 26
    assert {name: rows[name, False].accuracy for name in PAPER_TABLE_7} == {k: v[-1] for k, v in PAPER_TABLE_7.items()}
    accuracies = [row.accuracy for row in PAPER_TABLE_A2]
    assert accuracies == sorted(accuracies)
    assert rows["LHC-Net", True].share == 14.8


SMALL = {"seeds.a": [0, 1, 2, 3], "seeds.c": [1, 2, 3]}
COUNTS = [[10] * 7, [30] * 7, [40] * 7]


@pytest.fixture(scope="module")
def config() -> Config:
    return profile("paper", SMALL)


@pytest.fixture(scope="module")
def results(config: Config) -> Results:
    return draw_results(config, counts=COUNTS).results


def test_every_comparison_is_made_on_all_images_and_excluding_duplicates(results: Results) -> None:
    found = statistics(results)
    own = ~results.predictions["train_duplicate/test"]
    labels = results.predictions["labels/test"]
    first = next(one for one in found.comparisons if one.question == "best")
    a, b = results.selection.chosen, results.selection.best["A"]
    right = {id_: results.predictions[f"{id_}/test"].argmax(1) == labels for id_ in (a, b)}
    assert first.test == mcnemar(right[a], right[b])
    assert first.distinct == mcnemar(right[a][own], right[b][own])
    assert 0 < first.distinct.n < first.test.n == 280

    questions = [one.question for one in found.comparisons]
    with_lhc = [results.evaluation.model(model.id) for model in results.selection.kept if model.set != "A"]
    assert questions.count("best") == 2  # without TTA, and with it
    assert questions.count("control") == len(with_lhc)
    assert questions.count("tta") == len(results.evaluation.models)
    sets = next(one for one in found.comparisons if one.question == "sets")
    assert sets.test.kind == "permutation"
    assert sets.distinct is not None
    assert sets.distinct.kind == "permutation"
    assert sets.test.n_a == len(with_lhc)
    assert sets.test.mean_a == pytest.approx(np.mean([m.test.accuracy for m in with_lhc]))
    assert sets.distinct.mean_a == pytest.approx(np.mean([m.test_distinct.accuracy for m in with_lhc]))
    assert found.untested == ()


def test_without_duplicates_nothing_is_computed_twice(config: Config) -> None:
    found = statistics(draw_results(config, counts=COUNTS, duplicates=0.0).results)
    assert found.comparisons
    assert {one.distinct for one in found.comparisons} == {None}
    assert {one.duplicates for one in found.calibration} == {True}


def test_models_with_equal_weights_are_one_model(results: Results) -> None:
    """A/seed-0 and A/seed-1 kept their start, the backbone; A/seed-2 is a copy of A/seed-3."""
    start = results.selection.start.weights
    changed = change_record(results, "A/seed-0", weights=start, best_epoch=0)
    changed = change_record(changed, "A/seed-1", weights=start, best_epoch=0)
    changed = change_record(changed, "A/seed-3", weights="weights of A/seed-2")
    assert changed.same_weights() == {"A/seed-0": "start", "A/seed-1": "start", "A/seed-3": "A/seed-2"}
    assert [model.id for model in one_each(changed.sets["ResNet34v2"])] == ["A/seed-0", "A/seed-2"]

    before, after = statistics(results), statistics(changed)
    one, other = (found.spread["A"]["test_accuracy"] for found in (before, after))
    accuracies = [changed.evaluation.model(id_).test.accuracy for id_ in ("A/seed-0", "A/seed-2")]
    assert (one.n, one.models, other.n, other.models) == (4, 4, 2, 4)
    assert other.mean == pytest.approx(np.mean(accuracies))
    assert after.spread["B"] == before.spread["B"]
    sets = next(one.test for one in after.comparisons if one.question == "sets")
    assert sets.kind == "permutation"
    assert sets.n_b == 2
    copied = changed
    for id_ in ("A/seed-2", "A/seed-3"):
        copied = change_record(copied, id_, weights=start, best_epoch=0)
    assert any("there are 7 and 1" in text for text in statistics(copied).untested)


def test_an_lhc_net_that_kept_its_own_insertion_counts_for_itself(results: Results) -> None:
    """Two LHC-Nets whose best epoch is 0 are two insertions with other weights."""
    changed = results
    for id_ in (model.id for model in results.selection.kept if model.set == "C"):
        changed = change_record(changed, id_, best_epoch=0)
    assert set(changed.same_weights().values()) == {"start"}
    assert len(one_each(changed.sets["LHC-Net"])) == len(results.sets["LHC-Net"])


def test_the_summary_names_the_best_on_validation(results: Results) -> None:
    best = max(results.evaluation.models, key=lambda model: model.validation.accuracy)
    summary = summarise(results)
    assert summary.best_on_validation_accuracy == best.validation.accuracy >= summary.val_accuracy
    chosen = results.evaluation.chosen_model()
    worse = [
        model if model.id == chosen.id else model.model_copy(update={"validation": chosen.validation})
        for model in results.evaluation.models
    ]
    tied = Results(
        results.selection, results.evaluation.model_copy(update={"models": tuple(worse)}), results.predictions
    )
    assert summarise(tied).best_on_validation == chosen.id


def test_the_summary_has_the_means_of_the_sets(results: Results) -> None:
    """The same as the spread over seeds in `statistics.json`."""
    summary, spread = summarise(results), statistics(results).spread
    assert summary.mean_test_accuracy_a == pytest.approx(spread["A"]["test_accuracy"].mean)
    assert summary.mean_test_accuracy_bc == pytest.approx(spread["B ∪ C"]["test_accuracy"].mean)
    difference = spread["B ∪ C"]["test_accuracy"].mean - spread["A"]["test_accuracy"].mean
    assert summary.mean_test_accuracy_difference == pytest.approx(difference)
    of_a = [results.evaluation.model(model.id).validation.accuracy for model in one_each(results.sets["ResNet34v2"])]
    assert summary.mean_val_accuracy_a == pytest.approx(sum(of_a) / len(of_a))
    kept = tuple(model for model in results.evaluation.models if not model.id.startswith("A/"))
    without_a = Results(results.selection, results.evaluation.model_copy(update={"models": kept}), results.predictions)
    assert summarise(without_a).mean_test_accuracy_a is None
    assert summarise(without_a).mean_test_accuracy_difference is None


def test_calibration_against_its_definitions(results: Results) -> None:
    found = statistics(results)
    one = next(c for c in found.calibration if c.model == results.selection.chosen and not c.tta and c.duplicates)
    p, labels = results.predictions[f"{one.model}/test"].astype(float), results.predictions["labels/test"]
    assert one.brier == pytest.approx(((p - np.eye(7)[labels]) ** 2).sum(1).mean(), abs=1e-6)
    assert one.log_loss == pytest.approx(-np.log(p[np.arange(len(p)), labels]).mean(), abs=1e-5)
    assert one.confidence == pytest.approx(p.max(1).mean(), abs=1e-6)
    expected = {(id_, tta) for id_ in results.best.values() for tta in (False, True)}
    assert {(c.model, c.tta) for c in found.calibration} == expected


def test_confidence_has_every_best_model_plain_and_with_tta(results: Results) -> None:
    calibration = {(one.model, one.tta): one.log_loss for one in statistics(results).calibration if one.duplicates}
    found = statistics(results).confidence
    assert {(one.model, one.tta) for one in found} == set(calibration)
    for one in found:
        assert one.nll_before == pytest.approx(calibration[one.model, one.tta], abs=1e-5)
        p = results.predictions[f"{one.model}/test{'_tta' * one.tta}"]
        assert one.nll_after == pytest.approx(nll(p, results.labels, 1.2 if one.tta else 1.3))
        assert [part.wanted for part in one.selective] == [0.8, 0.9]
    models = tuple(
        model.model_copy(update={"temperature": None, "temperature_tta": None}) for model in results.evaluation.models
    )
    before = results.evaluation.model_copy(update={"models": models})
    assert "temperature" not in before.to_dict()["models"][0]
    assert statistics(Results(results.selection, before, results.predictions)).confidence == ()


def test_what_cannot_be_compared_is_said(config: Config) -> None:
    few = profile("paper", {"seeds.a": [0], "seeds.c": [1]})
    results = draw_results(few, counts=COUNTS, tta=False, control=False).results
    found = statistics(results)
    assert any("at least two models" in text for text in found.untested)
    assert {one.question for one in found.comparisons} == {"best"}
    assert found.spread["A"]["test_accuracy"].sd is None
    lacking = {k: v for k, v in results.predictions.items() if k != f"{results.selection.chosen}/test"}
    with pytest.raises(ValueError, match=results.selection.chosen):
        statistics(Results(results.selection, results.evaluation, lacking))


def test_other_attention_is_no_lhc_net(config: Config) -> None:
    variants = config.to_dict()["variants"]
    with_se = profile("paper", SMALL | {"variants": {"table2": variants["table2"], "se": [{"attention": "se"}] * 5,
                                                     "rejected": variants["half_d"]}})  # fmt: skip
    results = draw_results(with_se, counts=COUNTS, control=False).results
    assert [model.id for model in results.sets[OTHER]] == ["B/se"]
    assert "B/se" not in [model.id for model in results.sets["LHC-Net"]]
    found = statistics(results)
    permuted = next(one.test for one in found.comparisons if one.question == "sets")
    assert permuted.kind == "permutation"
    assert permuted.n_a == len(results.sets["LHC-Net"]) == 4
    assert isclose(found.spread[OTHER]["test_accuracy"].mean, results.evaluation.model("B/se").test.accuracy)


def test_interval_of_a_paired_difference() -> None:
    low, high = paired_interval(*disagreeing(10, 5, both=85, neither=0))
    assert isclose(low, -0.029634, abs_tol=1e-5)  # Bonett and Price (2012) by hand: 5/102 -+ 1.96 * 0.040130
    assert isclose(high, 0.127673, abs_tol=1e-5)
