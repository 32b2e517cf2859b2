"""The gate of the registry: each rule, and what cannot be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lhcnet.protocol.gate import ChampionRule, ValidationResult, judge

LABELS = np.arange(100, dtype=np.uint8) % 7


def result(right: int, data: str = "d" * 64, labels: np.ndarray = LABELS) -> ValidationResult:
    """A model that classifies the first `right` images correctly."""
    predicted = np.where(np.arange(len(labels)) < right, labels, (labels + 1) % 7).astype(np.uint8)
    return ValidationResult(data, predicted, labels)


@pytest.mark.parametrize(
    ("rule", "own", "wins", "says"),
    [
        ("not_worse", 51, True, "champion: not worse on validation than version 3: accuracy 0.5100 against 0.5000"),
        ("not_worse", 50, True, "right alone 0 and 0; McNemar's exact test p = 1"),
        ("not_worse", 49, False, "challenger: worse on validation than version 3"),
        ("better", 55, False, "challenger: not better on validation (p < 0.05) than version 3"),  # p = 0.0625
        ("better", 56, True, "champion: better on validation (p < 0.05) than version 3"),  # p = 0.03125
        ("better", 44, False, "right alone 0 and 6; McNemar's exact test p = 0.0312"),
        ("never", 99, False, "a person sets the champion"),
    ],
)
def test_rules(rule: ChampionRule, own: int, wins: bool, says: str) -> None:
    verdict = judge(rule, result(own), "3", result(50))
    assert verdict.champion is wins
    assert says in verdict.reason
    assert (verdict.test is None) == (rule == "never")


@pytest.mark.parametrize(("rule", "wins"), [("not_worse", True), ("better", True), ("never", False)])
def test_the_first_version(rule: ChampionRule, wins: bool) -> None:
    assert judge(rule, result(1), "", None).champion is wins


@pytest.mark.parametrize(
    ("of_champion", "says"),
    [
        (None, "version 3, the champion, has no readable predictions on validation"),
        (result(1, data="e" * 64), "was scored on other data (eeeeeeeeeeee, not dddddddddddd)"),
        (result(1, labels=LABELS[::-1]), "was scored on other data"),
        (result(1, labels=LABELS[:50]), "was scored on other data"),
    ],
)
@pytest.mark.parametrize("rule", ["not_worse", "better"])
def test_what_cannot_be_compared_does_not_become_champion(
    rule: ChampionRule, of_champion: ValidationResult | None, says: str
) -> None:
    verdict = judge(rule, result(100), "3", of_champion)
    assert not verdict.champion
    assert says in verdict.reason
    assert verdict.reason.endswith("a person decides")


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    result(7).save(tmp_path / "validation.npz")
    again = ValidationResult.read(tmp_path / "validation.npz")
    assert again.data == "d" * 64
    assert (again.predicted == result(7).predicted).all()
    assert (again.labels == LABELS).all()
    assert again.correct.sum() == 7
