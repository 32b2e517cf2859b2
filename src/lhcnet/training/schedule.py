"""Learning rate of each batch: a function of its number alone, so that a resumed training has the same rates."""

from __future__ import annotations

import math

from lhcnet.config import Stage

_START, _END = 1 / 25, 1e-4 / 25  # rates of one_cycle as fractions of its peak, the defaults of torch's OneCycleLR


def learning_rate(stage: Stage, step: int, steps: int) -> float:
    """Learning rate of one batch.

    `one_cycle` is torch's `OneCycleLR` with `pct_start=warmup` and constant momentum: half a cosine up to the peak,
    another one down. `cosine` rises linearly during the warm-up; then it is torch's `CosineAnnealingLR` down to zero.

    Args:
        stage: settings of the training; `learning_rate` is the peak.
        step: number of the batch in the whole training, from 0.
        steps: batches of all epochs.

    Returns:
        The rate.
    """
    peak = stage.learning_rate
    if stage.schedule == "constant":
        return peak
    if stage.schedule == "cosine":
        rising = stage.warmup * steps
        if step < rising:
            return peak * min(1.0, (step + 1) / rising)
        return _anneal(peak, 0.0, (step - rising) / (steps - rising))
    top, last = stage.warmup * steps - 1, steps - 1
    if step < top:
        return _anneal(peak * _START, peak, step / top)
    return _anneal(peak, peak * _END, (step - top) / (last - top))


def _anneal(start: float, end: float, part: float) -> float:
    """From `start` (part 0) to `end` (part 1) along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))
