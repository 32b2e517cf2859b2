"""Atomic writes: directories and files that are complete or absent, even if the process is killed while writing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lhcnet.errors import LhcnetError
from lhcnet.io.contents import OwnFolder, OwnJson
from lhcnet.io.exchange import exchange
from lhcnet.io.hidden import FORMER, hidden_path, remove
from lhcnet.io.preflight import cannot_write, output_directory, output_file


@contextmanager
def atomic_directory(target: Path, own: OwnFolder, size: int = 0) -> Iterator[Path]:
    """Yield a new hidden directory next to `target`; put it in the place of `target` if the block succeeds.

    If the block raises an exception (also KeyboardInterrupt), the hidden directory is removed and `target` stays as it
    was. If the process is killed, the next run removes the hidden directory.

    Args:
        target: the directory to write: absent, empty, or one that the same step wrote; then it is replaced.
        own: the files that the block writes.
        size: their size in bytes, if it is known.

    Raises:
        LhcnetError: `target` is a file or a link, holds anything else, or cannot be written. An OSError of the block
            is reported in the same way.
    """
    target = output_directory(target, own, size)
    with _reported(target), hidden_path(target, folder=True) as temporary:
        yield temporary
        if unknown := own.foreign_entry(temporary):
            raise RuntimeError(f"the block wrote {unknown} into {temporary}, which is not in its list of files")
        if not (temporary / own.marker).is_file():
            raise RuntimeError(f"the block wrote no {own.marker} into {temporary}")
        output_directory(target, own)  # again, because it may have changed in the meantime
        _flush(temporary)
        _swap(temporary, target, own)


@contextmanager
def atomic_file(target: Path, own: OwnJson | None = None) -> Iterator[Path]:
    """Yield a hidden file next to `target`, for the block to fill; rename it to `target` if the block succeeds.

    A link is replaced; the file that it leads to stays as it is. See `atomic_directory`.

    Args:
        target: the file to write.
        own: content of a file that may be replaced; None: any.
    """
    target = output_file(target, own)
    with _reported(target), hidden_path(target, folder=False) as temporary:
        yield temporary
        _flush(temporary)
        temporary.replace(target)


@contextmanager
def _reported(target: Path) -> Iterator[None]:
    """Make the folder of `target`; an OSError of the block becomes an LhcnetError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise cannot_write(target, error) from error


def _flush(path: Path) -> None:
    """Flush files and directories to the disk before the rename; a power failure then leaves no incomplete target."""
    for part in (*path.rglob("*"), path):
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap(new: Path, target: Path, own: OwnFolder) -> None:
    """Put `new` in the place of `target`. Of two processes the later one wins.

    Raises:
        LhcnetError: somebody put a file into `target` at the last moment; it stays as it is.
    """
    while not _renamed(new, target):
        if exchange(new, target):
            if foreign := _foreign_entry(new, own):
                exchange(new, target)
                raise _changed(target, foreign)
            remove(new)
            return
        if _moved_aside(new, target, own):
            return


def _moved_aside(new: Path, target: Path, own: OwnFolder) -> bool:
    """Replace `target` where paths cannot be exchanged: for a moment it is missing.

    If the process is killed in this moment, the next run puts the former `target` back. Returns False if another
    process was faster.
    """
    former = new.with_name(f"{new.name}{FORMER}")
    try:
        target.rename(former)
    except FileNotFoundError:
        return False
    try:
        if foreign := _foreign_entry(former, own):
            raise _changed(target, foreign)
        replaced = _renamed(new, target)
    except BaseException:
        if not target.exists():
            former.rename(target)
        raise
    remove(former)
    return replaced


def _foreign_entry(folder: Path, own: OwnFolder) -> str:
    with suppress(FileNotFoundError):  # another process takes it for the leftover that it is
        return own.foreign_entry(folder)
    return ""


def _changed(target: Path, foreign: str) -> LhcnetError:
    return LhcnetError(f"{target} is not replaced: meanwhile somebody put {foreign} into it")


def _renamed(new: Path, target: Path) -> bool:
    """Try to rename `new` to `target`; returns False if `target` is a directory that is not empty."""
    try:
        new.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True
