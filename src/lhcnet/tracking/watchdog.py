"""A bound on the whole time of a call to MLflow, in a process that does nothing else.

A server that sends one byte now and then resets every time-out of a connection. The bound is kept by a thread that ends
the process, whatever the call does. Outside such a process the bound is not set, and nothing happens.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

TIMED_OUT = 75  # exit status of a process that was ended
_POLL = 0.1  # seconds


class Watchdog:
    """Ends this process when a call takes too long.

    Attributes:
        limit: seconds that a call may take; infinite until `start`.
    """

    def __init__(self) -> None:
        self.limit = inf
        self._until = inf

    def start(self, limit: float, at_timeout: Callable[[], None], ended: Callable[[], bool]) -> None:
        """Watch from now on.

        Args:
            limit: seconds that a call may take.
            at_timeout: called before the process ends, to report why.
            ended: asked all the time; True ends the process at once, without a report.
        """
        self.limit = limit
        threading.Thread(target=self._watch, args=(at_timeout, ended), daemon=True).start()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Bound one call."""
        self._until = time.monotonic() + self.limit
        try:
            yield
        finally:
            self._until = inf

    def _watch(self, at_timeout: Callable[[], None], ended: Callable[[], bool]) -> None:
        while True:
            if ended():
                os._exit(TIMED_OUT)
            if time.monotonic() > self._until:
                try:
                    at_timeout()
                finally:
                    os._exit(TIMED_OUT)
            time.sleep(_POLL)


WATCHDOG = Watchdog()
