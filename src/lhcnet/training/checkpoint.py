"""Checkpoints: the complete state of an unfinished training in one file; resuming gives the same bytes.

The file has the format safetensors: tensors, and JSON in its header. It is written under a temporary name, flushed and
renamed, so it is complete or absent. A digest of its content is in the header and is verified. It belongs to one
training: its name contains a digest of everything that determines the result (settings, data, initial weights, code,
threads), and the checkpoint of another training is not used. Where two processes do the same training at once, the
second one has a file of its own, named by its run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lhcnet.config import FrozenModel, parse
from lhcnet.errors import LhcnetError
from lhcnet.io.files import require_regular_file
from lhcnet.io.hidden import remove
from lhcnet.saved import Epoch
from lhcnet.training.checkpoint_lock import CheckpointLock, in_use, kubeflow_run

log = logging.getLogger("lhcnet")

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "U8": torch.uint8,
}  # names of safetensors
MAX_OLD = 3  # checkpoints kept of the same training with other settings, for a return to those settings
_FILE_MODE = 0o644
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


class _DamagedError(Exception):
    """A file in the place of a checkpoint that is none, or not the one that was written."""


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
        self._common = self.path  # of all processes that do this training
        self._lock = CheckpointLock(self.path)
        self._written = time.monotonic()
        self._terminated = self._failed = False

    def load(
        self,
        like: Mapping[str, Tensor] | None = None,
        problem: Callable[[Mapping[str, Tensor], Progress], str] = lambda *_: "",
    ) -> tuple[dict[str, Tensor], Progress] | None:
        """Read the checkpoint that was written last.

        Args:
            like: tensors with the names, shapes and types that the checkpoint must have; None accepts all.
            problem: explains why tensors and progress cannot be those of this training; empty if they can.

        Returns:
            Its tensors and progress. None if there is no checkpoint, or if it is damaged or belongs to other settings;
            a warning then says why. A damaged one is renamed to `<name>.damaged`, so that no later try meets it again.
        """
        for unfinished in self.path.parent.glob(f".{self.path.name}.*"):  # of a process that was killed while writing
            remove(unfinished)
        if not os.path.lexists(self.path):
            for other in self._old():
                log.warning("%s: the checkpoint %s is not used: %s", self._task, other, self._difference(other))
            return None
        try:
            tensors, progress = self._read(like)
            if why := problem(tensors, progress):
                raise _DamagedError(why)
        except LhcnetError as error:
            log.warning("%s: the checkpoint %s is not used: %s", self._task, self.path, error)
            return None
        except _DamagedError as error:
            why = f"it is damaged ({LhcnetError(str(error))}); {self._set_aside()}; training starts from the beginning"
            log.warning("%s: the checkpoint %s is not used: %s", self._task, self.path, why)
            return None
        log.info("%s: resuming at epoch %d, after %d batches", self._task, progress.epoch, progress.batches)
        return tensors, progress

    def _read(self, like: Mapping[str, Tensor] | None) -> tuple[dict[str, Tensor], Progress]:
        """Tensors and progress of the file.

        Raises:
            LhcnetError: the file may not be read, or belongs to other settings.
            _DamagedError: it is no checkpoint, or is not the one that was written.
        """
        try:
            require_regular_file(self.path)  # opening a pipe would wait for its other end
            with safe_open(self.path, "pt") as file:
                header = file.metadata() or {}
                if json.loads(header["identity"]) != self._identity:
                    raise LhcnetError(self._difference(self.path))
                if like is not None:  # before a tensor is read: its size may be anything
                    found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                    shapes = {name: (part.get_dtype(), part.get_shape()) for name, part in found.items()}
                    if why := _first_difference(shapes, like):
                        raise _DamagedError(why)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header["digest"] != checkpoint_digest(tensors, header["progress"]):
                raise _DamagedError("its content has another SHA-256 than its header says")
            return tensors, parse(Progress, json.loads(header["progress"]), "progress")
        except PermissionError as error:
            raise LhcnetError(f"it cannot be read: {error.strerror}") from None
        except LhcnetError as error:
            if str(error).startswith("progress: "):
                raise _DamagedError(str(error)) from None
            raise
        except KeyError as error:
            raise _DamagedError(f"its header lacks {error}") from None
        except (SafetensorError, OSError, ValueError, TypeError, RecursionError, MemoryError, RuntimeError) as error:
            raise _DamagedError(str(error) or type(error).__name__) from None

    def _set_aside(self) -> str:
        """Rename the damaged checkpoint; returns what was done, in words."""
        aside = self.path.with_name(f"{self.path.name}.damaged")
        try:
            if aside.is_dir() or (aside.exists() and self.path.is_dir()):  # neither can replace the other
                aside = aside.with_name(f"{aside.name}.{uuid4().hex[:8]}")
            self.path.rename(aside)
        except OSError as error:
            return f"it cannot be moved away: {error.strerror}"
        return f"it was renamed to {aside.name}"

    def require_writable(self) -> None:
        """Raise `LhcnetError` if no checkpoint can be written to the folder: before the work, not when it is needed."""
        probe = self.path.with_name(f".{self.path.name}.{uuid4().hex[:8]}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise LhcnetError(
                f"checkpoints.folder: {self.path.parent} cannot be written: {error.strerror or error}; expected a "
                "folder with free space (LHCNET_CHECKPOINTS takes precedence over the setting)"
            ) from None

    def due(self) -> bool:
        """Whether it is time for the next checkpoint, or the process received SIGTERM."""
        return self._terminated or time.monotonic() - self._written >= self._seconds

    def write(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Replace the checkpoint. If it cannot be written (a full disk), training continues after one warning.

        Raises:
            Preempted: the process received SIGTERM.
        """
        own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"progress": json.dumps(progress.to_dict()), "identity": json.dumps(self._identity)}
        header["digest"] = checkpoint_digest(own, header["progress"])
        # save_file has a temporary file of its own beside its target: in a folder, both are found after a kill
        temporary = self.path.with_name(f".{self.path.name}.{uuid4().hex[:8]}")
        file = temporary / self.path.name
        try:
            temporary.mkdir(parents=True)
            save_file(own, file, header)
            file.chmod(_FILE_MODE)  # save_file's is 0600, so another user's next try could not read it
            for flushed in (file, self.path.parent):
                handle = os.open(flushed, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
            file.rename(self.path)
            for old in self._old()[MAX_OLD:]:
                if not in_use(old):
                    with suppress(OSError):
                        old.unlink()
        except (OSError, SafetensorError) as error:
            if not self._failed or self._terminated:
                log.warning("%s: no checkpoint could be written to %s: %s", self._task, self.path.parent, error)
            self._failed = True
        finally:
            remove(temporary)
        self._written = time.monotonic()
        self._lock.refresh()
        self.exit_if_terminated()

    def exit_if_terminated(self) -> None:
        """Raise Preempted if the process received SIGTERM."""
        if self._terminated:
            log.warning("%s: stopped by SIGTERM; run the same command again to resume", self._task)
            raise Preempted

    def remove(self) -> None:
        """Delete the checkpoint, when the training is finished and its model is written; a failure is a warning."""
        if in_use(self.path):  # another process has begun the same training meanwhile, and removes it
            return
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning(
                "%s: the checkpoint %s could not be removed: %s", self._task, self.path, error.strerror or error
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block, no other process uses the file, and SIGTERM causes a last checkpoint."""
        self._choose_file()
        try:
            with self.handling_sigterm():
                yield
        finally:
            self._lock.release()

    def _choose_file(self) -> None:
        """Take the common file, or one of our own while another process uses that; an own one that exists is kept."""
        run = kubeflow_run()
        own = self._common.with_name(f"{self._common.stem}.{run[:8] or uuid4().hex[:8]}.safetensors")
        holder = ""
        for path in (own, self._common, own) if own.is_file() else (self._common, own):
            lock = CheckpointLock(path)
            holder, before = lock.take(), holder
            if holder:
                continue
            self.path, self._lock = path, lock
            if before:
                text = "%s: the checkpoint %s is in use by %s; this training keeps its own in %s"
                log.warning(text, self._task, self._common, before, path.name)
            return

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
        return sorted(found, key=_written_at, reverse=True)

    def _difference(self, file: Path) -> str:
        """In words, how the settings of a checkpoint differ from those of this training."""
        try:
            require_regular_file(file)
            with safe_open(file, "pt") as opened:
                was: dict[str, str] = dict(json.loads((opened.metadata() or {})["identity"]))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            return f"it cannot be read: {LhcnetError(str(error))}"
        changed = [name for name in {**was, **self._identity} if was.get(name) != self._identity.get(name)]
        parts = (f"{name} was {was.get(name, 'absent')}, is {self._identity.get(name, 'absent')}" for name in changed)
        return "; ".join(parts)


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed in the meantime by another process, or a link to nothing
        return 0.0


def checkpoint_digest(tensors: Mapping[str, Tensor], progress: str) -> str:
    """SHA-256 of names, types, shapes and bytes of all tensors (contiguous, on the CPU) and of the progress."""
    found = hashlib.sha256(progress.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _first_difference(shapes: Mapping[str, tuple[str, list[int]]], like: Mapping[str, Tensor]) -> str:
    """In words, how the tensors of a file differ from those that it should have; empty if they do not."""
    for name in sorted(shapes.keys() | like.keys()):
        if name not in shapes:
            return f"{name} is missing"
        if name not in like:
            return f"{name} does not belong to this training"
        (dtype, shape), wanted = shapes[name], like[name]
        if (_DTYPES.get(dtype), list(shape)) != (wanted.dtype, list(wanted.shape)):
            return f"{name} is {dtype} {tuple(shape)}, expected {wanted.dtype} {tuple(wanted.shape)}"
    return ""
