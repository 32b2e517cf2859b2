"""Who uses a checkpoint file: a lock file beside it, `<checkpoint>.lock`, held by one training at a time.

The lock (flock) ends with its process, also on a shared volume. A pod that vanished may seem to hold it for a while: a
new attempt in the same Kubeflow run does not wait for that, because a run has each training once. Where a file system
has no locks, a lock file that was touched within the last hour is taken for held; each checkpoint touches it.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from lhcnet.io.locks import try_lock

_FRESH = 3600  # seconds
_LONGEST = 1000  # bytes of a lock file
_MODE = 0o666


def kubeflow_run() -> str:
    """Id of the Kubeflow run that this process belongs to, or ""."""
    return os.environ.get("LHCNET_KUBEFLOW_RUN", "")


def lock_file(checkpoint: Path) -> Path:
    """The lock file of a checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}.lock")


def in_use(checkpoint: Path) -> bool:
    """Whether a training of another process holds a checkpoint."""
    try:
        with lock_file(checkpoint).open("rb") as file:
            return _held(file.fileno())
    except OSError:  # there is none
        return False


class CheckpointLock:
    """The right of this process to write one checkpoint file."""

    def __init__(self, checkpoint: Path) -> None:
        self._file = lock_file(checkpoint)
        self._handle: int | None = None

    def take(self) -> str:
        """Take the lock.

        Returns:
            "", or who holds it. A folder without room for a lock file has no locks: whoever asks takes them.
        """
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            while True:
                handle = os.open(self._file, os.O_RDWR | os.O_CREAT, _MODE)
                holder = _holder(handle)
                if _held(handle, exclusive=True) and not _is_ours(holder):
                    os.close(handle)
                    return f"run {holder['run'] or '(outside of Kubeflow)'} on {holder['pod']}"
                if os.path.samestat(os.fstat(handle), self._file.stat()):
                    break
                os.close(handle)  # its holder has just removed it
        except OSError:
            return ""
        self._handle = handle
        note = json.dumps({"run": kubeflow_run(), "pod": os.uname().nodename, "process": os.getpid()}).encode()
        with suppress(OSError):  # a full disk
            os.ftruncate(handle, 0)
            os.pwrite(handle, note, 0)
        return ""

    def refresh(self) -> None:
        """Show that the training still runs."""
        if self._handle is not None:
            with suppress(OSError):
                os.utime(self._handle)

    def release(self) -> None:
        """Give the lock back."""
        if self._handle is None:
            return
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._handle), self._file.stat()):
                self._file.unlink()
        os.close(self._handle)
        self._handle = None


def _held(handle: int, *, exclusive: bool = False) -> bool:
    """Whether another process holds the lock; if not, it is held now (where there are locks)."""
    locked = try_lock(handle, shared=not exclusive)
    if locked is not None:
        return not locked
    state = os.fstat(handle)
    own = _holder(handle)
    ours = (own["pod"], own["process"]) == (os.uname().nodename, str(os.getpid()))
    return bool(state.st_size) and not ours and time.time() - state.st_mtime < _FRESH


def _is_ours(holder: dict[str, str]) -> bool:
    """Whether the holder is another attempt in the same Kubeflow run."""
    return bool(kubeflow_run()) and holder["run"] == kubeflow_run()


def _holder(handle: int) -> dict[str, str]:
    """Run, pod and process that a lock file names."""
    found: object = None
    with suppress(ValueError, RecursionError):
        found = json.loads(os.pread(handle, _LONGEST, 0))
    values = found if isinstance(found, dict) else {}
    return {name: str(values.get(name, "")) for name in ("run", "pod", "process")}
