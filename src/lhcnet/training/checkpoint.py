"""Where an unfinished training stands, in one file from which it goes on to the same bytes.

The file is safetensors: tensors, and JSON in its header. It is written beside its place, flushed and renamed, so it is
complete or absent. It belongs to one training: its name carries the digest of all that decides the numbers (settings,
data, start, code, threads), and a checkpoint of any other is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lhcnet.config import FrozenModel, parse
from lhcnet.errors import LhcnetError
from lhcnet.saved import Epoch

log = logging.getLogger("lhcnet")

OTHERS_KEPT = 3  # of one training under other settings: somebody may go back to them
TRY_AGAIN = 75  # exit code, EX_TEMPFAIL of sysexits.h


class Preempted(SystemExit):
    """SIGTERM came: the checkpoint is written, and the exit code asks for another try."""

    def __init__(self) -> None:
        super().__init__(TRY_AGAIN)


class Progress(FrozenModel):
    """The part of a checkpoint that is not tensors: `batches` of `epoch` are done, its validation is not."""

    epoch: int
    batches: int
    best_epoch: int
    history: tuple[Epoch, ...]


class Checkpoint:
    """The checkpoint of one training.

    Args:
        folder: where the files lie; made when the first is written.
        task: what is trained, for people: "C/table2/seed-3".
        identity: everything that decides the numbers, as plain text values.
        seconds: between two checkpoints.
    """

    def __init__(self, folder: Path, task: str, identity: Mapping[str, str], seconds: float) -> None:
        self._task, self._identity, self._seconds = task, dict(sorted(identity.items())), seconds
        digest = hashlib.sha256(json.dumps([task, self._identity]).encode()).hexdigest()[:16]
        self._name = task.replace("/", ".")
        self.path = folder / f"{self._name}-{digest}.safetensors"
        self._written = time.monotonic()
        self._asked = self._failed = False

    def load(self) -> tuple[dict[str, Tensor], Progress] | None:
        """What was written last, or None. A checkpoint that is damaged or of other settings is refused, and said so."""
        for left in self.path.parent.glob(f".{self.path.name}.*"):  # a process was killed while it wrote
            left.unlink(missing_ok=True)
        if not self.path.exists():
            for other in self._others():
                log.warning("%s: the checkpoint %s is not used: %s", self._task, other, self._difference(other))
            return None
        try:
            with safe_open(self.path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            progress = parse(Progress, json.loads(header["progress"]), str(self.path))
            if json.loads(header["identity"]) != self._identity:
                raise LhcnetError(self._difference(self.path))
        except (SafetensorError, OSError, ValueError, KeyError, LhcnetError) as error:
            log.warning("%s: the checkpoint %s is not used: %s", self._task, self.path, error)
            return None
        log.info("%s: goes on in epoch %d, after %d batches", self._task, progress.epoch, progress.batches)
        return tensors, progress

    def due(self) -> bool:
        """Whether it is time for the next, or the process was asked to end."""
        return self._asked or time.monotonic() - self._written >= self._seconds

    def write(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Replace the checkpoint. A full disk costs the checkpoint, not the training: it is said once.

        Raises:
            Preempted: the process was asked to end.
        """
        header = {"progress": json.dumps(progress.to_dict()), "identity": json.dumps(self._identity)}
        beside = self.path.with_name(f".{self.path.name}.{uuid4().hex[:8]}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, beside, header)
            for flushed in (beside, self.path.parent):
                handle = os.open(flushed, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
            beside.rename(self.path)
            for old in self._others()[OTHERS_KEPT:]:
                old.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                beside.unlink()
            if not self._failed or self._asked:
                log.warning("%s: no checkpoint could be written to %s: %s", self._task, self.path.parent, error)
            self._failed = True
        self._written = time.monotonic()
        self.leave_if_asked()

    def leave_if_asked(self) -> None:
        if self._asked:
            log.warning("%s: was asked to end (SIGTERM); the same command goes on from here", self._task)
            raise Preempted

    def remove(self) -> None:
        """The training is finished and its model written."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block, SIGTERM asks for a last checkpoint instead of ending the process."""
        if threading.current_thread() is not threading.main_thread():  # only that one is told of signals
            yield
            return

        def ask(_: int, __: FrameType | None) -> None:
            self._asked = True

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _others(self) -> list[Path]:
        """Checkpoints of this task under other settings, the newest first."""
        digest = "[0-9a-f]" * 16
        found = [p for p in self.path.parent.glob(f"{self._name}-{digest}.safetensors") if p != self.path]
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)

    def _difference(self, file: Path) -> str:
        """In words, what a checkpoint was made with and this training is not."""
        try:
            with safe_open(file, "pt") as opened:
                was: dict[str, str] = json.loads((opened.metadata() or {})["identity"])
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            return f"it cannot be read: {error}"
        changed = [name for name in {**was, **self._identity} if was.get(name) != self._identity.get(name)]
        parts = (f"{name} was {was.get(name, 'absent')}, is {self._identity.get(name, 'absent')}" for name in changed)
        return "; ".join(parts)
