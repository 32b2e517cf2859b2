"""A checkpoint that interrupts its training."""

from __future__ import annotations

from typing import Any

from lhcnet.training.checkpoint import Checkpoint


class Interrupted(Checkpoint):
    """Raises KeyboardInterrupt right after writing for the n-th time."""

    left = 0

    def write(self, *args: Any) -> None:
        super().write(*args)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
