"""How long a training will still take: what was measured before it, corrected by the time that its batches took."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from lhcnet.config import Stage
from lhcnet.estimate import span

_WEIGHT = 0.1  # the measured time counts as much as this part of an epoch, so that one slow batch moves little


class Forecast:
    """Expected time of all epochs of a training.

    Args:
        stage: settings of the training.
        input_size: S, side of the network's input in pixels.
        seconds: expected seconds of an epoch with its validation, by the side of its images.
        clock: seconds from some moment on.
    """

    def __init__(
        self,
        stage: Stage,
        input_size: int,
        seconds: Mapping[int, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sizes = stage.sizes or ((stage.epochs, input_size),)
        self._seconds, self._clock = seconds, clock
        self._early_stop = stage.patience is not None
        self.total = self._expected(stage.epochs)
        self.begin(0)

    def begin(self, done: float) -> None:
        """The training begins now.

        Args:
            done: epochs that an earlier process has done.
        """
        self._done, self._begun = done, self._clock()

    def left(self, done: float) -> float:
        """Seconds until the last epoch has ended.

        Args:
            done: epochs done, with the part of the current one.
        """
        expected = self._expected(done) - self._expected(self._done)
        factor = 1.0
        if expected > 0:
            prior = _WEIGHT * self._expected(1)
            factor = (self._clock() - self._begun + prior) / (expected + prior)
        return factor * (self.total - self._expected(done))

    def in_words(self, done: float) -> str:
        """`left`, for people: `about 0:20:00 left`, or `at most 0:20:00 left` if the training may stop early."""
        return f"{'at most' if self._early_stop else 'about'} {span(self.left(done))} left"

    def _expected(self, epochs: float) -> float:
        """Expected seconds of the first epochs."""
        total = 0.0
        for number, size in self._sizes:
            total += min(epochs, number) * self._seconds[size]
            epochs = max(0.0, epochs - number)
        return total
