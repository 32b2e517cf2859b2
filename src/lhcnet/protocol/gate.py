"""The gate of the model registry: whether a new version takes the place of the champion, on validation alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lhcnet.protocol.statistics import ALPHA, Paired, mcnemar

ChampionRule = Literal["not_worse", "better", "never"]  # setting registry.champion
PREDICTIONS = "validation.npz"  # predicted and true classes on validation, stored with each version


@dataclass(frozen=True)
class ValidationResult:
    """Predictions of a model on validation, without TTA.

    Attributes:
        data: digest of the data set, which fixes images, labels and splits.
        predicted, labels: (n,) classes 0..6.
    """

    data: str
    predicted: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    @property
    def correct(self) -> NDArray[np.bool]:
        right: NDArray[np.bool] = self.predicted == self.labels
        return right

    def save(self, file: Path) -> None:
        """Write as `.npz`, two bytes an image."""
        np.savez_compressed(file, data=np.array(self.data), predicted=self.predicted, labels=self.labels)

    @classmethod
    def read(cls, file: Path) -> ValidationResult:
        """Read what `save` wrote; raises OSError, ValueError or KeyError for another file."""
        with np.load(file, allow_pickle=False) as found:
            return cls(str(found["data"]), found["predicted"], found["labels"])


@dataclass(frozen=True)
class Verdict:
    """Whether a version becomes champion, the reason in one sentence, and the paired test where there was one."""

    champion: bool
    reason: str
    test: Paired | None = None


def judge(rule: ChampionRule, own: ValidationResult, champion: str, of_champion: ValidationResult | None) -> Verdict:
    """Apply the rule `registry.champion` to a new version.

    Args:
        rule: of params.yaml.
        own: result of the new version.
        champion: the present champion's version, or "" if there is none.
        of_champion: its result; None if it was stored without one.
    """
    if rule == "never":
        return Verdict(False, "challenger: registry.champion is `never`, so a person sets the champion")
    if not champion:
        return Verdict(True, "champion: the first version; there was no champion to compare with")
    if of_champion is None:
        return Verdict(
            False,
            f"challenger: version {champion}, the champion, has no readable predictions on validation, so the two "
            "cannot be compared; a person decides",
        )
    if of_champion.data != own.data or not np.array_equal(of_champion.labels, own.labels):
        return Verdict(
            False,
            f"challenger: version {champion}, the champion, was scored on other data ({of_champion.data[:12]}, not "
            f"{own.data[:12]}), so the two cannot be compared; a person decides",
        )
    test = mcnemar(own.correct, of_champion.correct)
    wins = test.difference >= 0 if rule == "not_worse" else test.difference > 0 and test.p < ALPHA
    words = {
        ("not_worse", True): "not worse on validation than",
        ("not_worse", False): "worse on validation than",
        ("better", True): f"better on validation (p < {ALPHA:g}) than",
        ("better", False): f"not better on validation (p < {ALPHA:g}) than",
    }[rule, wins]
    figures = (
        f"accuracy {test.accuracy_a:.4f} against {test.accuracy_b:.4f} on the same {test.n} images; right alone "
        f"{test.b} and {test.c}; McNemar's exact test p = {test.p:.3g}"
    )
    return Verdict(wins, f"{'champion' if wins else 'challenger'}: {words} version {champion}: {figures}", test)
