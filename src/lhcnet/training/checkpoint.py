"""Checkpoints: the complete state of an unfinished training in one file; resuming gives the same bytes.

The file has the format safetensors: tensors, and JSON in its header. It is written under a temporary name, flushed and
renamed, so it is complete or absent. It belongs to one training: its name contains a digest of everything that
determines the result (settings, data, initial weights, code, threads), and the checkpoint of another training is not
used.
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

MAX_OLD = 3  # checkpoints kept of the same training with other settings, for a return to those settings
EXIT_RETRY = 75  # exit code: EX_TEMPFAIL of sysexits.h


class Preempted(SystemExit):
    """The process received SIGTERM and has written its checkpoint; the exit code asks for a retry."""

    def __init__(self) -> None:
        super().__init__(EXIT_RETRY)


class Progress(FrozenModel):
    """The part of a checkpoint that is not tensors: `batches` batches of `epoch` are done, its validation is not."""

    epoch: int
    batches: int
    best_epoch: int
    history: tuple[Epoch, ...]


class Checkpoint:
    """The checkpoint of one training.

    Args:
        folder: directory of the files; created with the first.
        task: name of the training, for example "C/table2/seed-3".
        identity: everything that determines the result, as text values.
        seconds: time between two checkpoints.
    """

    def __init__(self, folder: Path, task: str, identity: Mapping[str, str], seconds: float) -> None:
        self._task, self._identity, self._seconds = task, dict(sorted(identity.items())), seconds
        digest = hashlib.sha256(json.dumps([task, self._identity]).encode()).hexdigest()[:16]
        self._name = task.replace("/", ".")
        self.path = folder / f"{self._name}-{digest}.safetensors"
        self._written = time.monotonic()
        self._terminated = self._failed = False

    def load(self) -> tuple[dict[str, Tensor], Progress] | None:
        """Read the checkpoint that was written last.

        Returns:
            Its tensors and progress. None if there is no checkpoint, or if it is damaged or belongs to other settings;
            a warning then says why.
        """
        for unfinished in self.path.parent.glob(f".{self.path.name}.*"):  # of a process that was killed while writing
            unfinished.unlink(missing_ok=True)
        if not self.path.exists():
            for other in self._old():
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
        log.info("%s: resuming at epoch %d, after %d batches", self._task, progress.epoch, progress.batches)
        return tensors, progress

    def due(self) -> bool:
        """Whether it is time for the next checkpoint, or the process received SIGTERM."""
        return self._terminated or time.monotonic() - self._written >= self._seconds

    def write(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Replace the checkpoint. If it cannot be written (a full disk), training continues after one warning.

        Raises:
            Preempted: the process received SIGTERM.
        """
        header = {"progress": json.dumps(progress.to_dict()), "identity": json.dumps(self._identity)}
        temporary = self.path.with_name(f".{self.path.name}.{uuid4().hex[:8]}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, header)
            for flushed in (temporary, self.path.parent):
                handle = os.open(flushed, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
            temporary.rename(self.path)
            for old in self._old()[MAX_OLD:]:
                old.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                temporary.unlink()
            if not self._failed or self._terminated:
                log.warning("%s: no checkpoint could be written to %s: %s", self._task, self.path.parent, error)
            self._failed = True
        self._written = time.monotonic()
        self.exit_if_terminated()

    def exit_if_terminated(self) -> None:
        """Raise Preempted if the process received SIGTERM."""
        if self._terminated:
            log.warning("%s: stopped by SIGTERM; run the same command again to resume", self._task)
            raise Preempted

    def remove(self) -> None:
        """Delete the checkpoint, when the training is finished and its model is written; a failure is a warning."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning(
                "%s: the checkpoint %s could not be removed: %s", self._task, self.path, error.strerror or error
            )

    @contextmanager
    def handling_sigterm(self) -> Iterator[None]:
        """Within the block, SIGTERM causes a last checkpoint instead of ending the process."""
        if threading.current_thread() is not threading.main_thread():  # Python delivers signals to this one only
            yield
            return

        def on_sigterm(_: int, __: FrameType | None) -> None:
            self._terminated = True

        before = signal.signal(signal.SIGTERM, on_sigterm)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _old(self) -> list[Path]:
        """Checkpoints of this task with other settings, the newest first."""
        digest = "[0-9a-f]" * 16
        found = [p for p in self.path.parent.glob(f"{self._name}-{digest}.safetensors") if p != self.path]
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)

    def _difference(self, file: Path) -> str:
        """In words, how the settings of a checkpoint differ from those of this training."""
        try:
            with safe_open(file, "pt") as opened:
                was: dict[str, str] = json.loads((opened.metadata() or {})["identity"])
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            return f"it cannot be read: {error}"
        changed = [name for name in {**was, **self._identity} if was.get(name) != self._identity.get(name)]
        parts = (f"{name} was {was.get(name, 'absent')}, is {self._identity.get(name, 'absent')}" for name in changed)
        return "; ".join(parts)
