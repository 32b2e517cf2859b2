"""The stand-alone pipeline: LHC-Net and ResNet34v2 with the same data seeds after every stage (section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lhcnet.config import FrozenModel
from lhcnet.protocol.score import Score
from lhcnet.protocol.statistics import Paired, mcnemar
from lhcnet.saved import ModelRecord
from lhcnet.versioned import Versioned


class StandaloneModel(FrozenModel):
    """One network at the end of one stage, with its scores on test; a ResNet34v2 has no variant."""

    record: ModelRecord
    test: Score
    test_distinct: Score

    @property
    def stage_and_seed(self) -> tuple[int, int]:
        """(stage, data seed)."""
        return self.record.provenance.stage, self.record.provenance.seed

    @property
    def is_plain(self) -> bool:
        return self.record.provenance.variant is None


class StagePair(FrozenModel):
    """LHC-Net (first) and ResNet34v2 of the same seed at the end of a stage, on the same test images.

    `distinct` is null if no test image has a duplicate in train.
    """

    stage: int
    seed: int
    test: Paired
    distinct: Paired | None


class StandaloneReport(Versioned):
    """`standalone.json`."""

    data: str
    models: tuple[StandaloneModel, ...]
    pairs: tuple[StagePair, ...]


def pair(
    models: Sequence[StandaloneModel], correct: Mapping[str, NDArray[np.bool]], distinct: NDArray[np.bool]
) -> list[StagePair]:
    """Compare the two networks of every stage and seed.

    Args:
        models: all of them, both networks.
        correct: id of a model -> (n,) which test images it classifies correctly.
        distinct: (n,) which test images have no duplicate in train.
    """
    plain = {model.stage_and_seed: model.record.id for model in models if model.is_plain}
    pairs = []
    for model in sorted(models, key=lambda model: model.stage_and_seed):
        if model.is_plain or model.stage_and_seed not in plain:
            continue
        a, b = correct[model.record.id], correct[plain[model.stage_and_seed]]
        some = not distinct.all() and distinct.any()
        without = mcnemar(a[distinct], b[distinct]) if some else None
        stage, seed = model.stage_and_seed
        pairs.append(StagePair(stage=stage, seed=seed, test=mcnemar(a, b), distinct=without))
    return pairs
