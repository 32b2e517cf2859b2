"""Directories that are complete or absent, whatever happens while they are written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from lhcnet.errors import LhcnetError


@contextmanager
def complete_or_absent(target: Path, marker: str) -> Iterator[Path]:
    """Yield a new hidden directory beside `target`; rename it to `target` if the block succeeds.

    If the block raises (KeyboardInterrupt too), the hidden directory is removed and `target` is as it was.
    `target` may be absent, empty, or hold the file `marker`, which says that it is one of ours: then it is
    replaced. The block has to write `marker`. A link is followed: what it points to is replaced.

    Raises:
        LhcnetError: `target` is a file, or holds something else than one of ours, or cannot be written.
    """
    target = Path(os.path.realpath(target))
    _check_replaceable(target, marker)
    beside = target.with_name(f".{target.name}.{uuid4().hex[:12]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()  # not tempfile.mkdtemp, whose mode 0700 would lock out the next step's user
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        yield beside
        if not (beside / marker).is_file():
            raise RuntimeError(f"the block wrote no {marker} into {beside}")
        _check_replaceable(target, marker)  # it may have changed meanwhile
        try:
            _flush(beside)
            _swap(beside, target)
        except OSError as error:
            raise _cannot_write(target, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check_replaceable(target: Path, marker: str) -> None:
    try:
        entries = {entry.name for entry in target.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_write(target, error) from error
    if entries and marker not in entries:
        raise LhcnetError(f"{target} holds other files, expected it absent, empty or with {marker} from a former run")


def _flush(directory: Path) -> None:
    """To the disk before the rename, so that a machine that dies leaves no complete-looking directory."""
    for path in (*directory.rglob("*"), directory):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap(new: Path, target: Path) -> None:
    """Rename `new` to `target`; a former `target` comes back if that fails."""
    if not target.exists():
        new.rename(target)
        return
    former = new.with_name(f"{new.name}.former")
    target.rename(former)
    try:
        new.rename(target)
    except BaseException:
        former.rename(target)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _cannot_write(target: Path, error: OSError) -> LhcnetError:
    return LhcnetError(f"{target} cannot be written, expected a writable directory: {error.strerror or error}")
