"""Atomic writes: directories and files that are complete or absent, even if the process is killed while writing."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from lhcnet.errors import LhcnetError


@contextmanager
def atomic_directory(target: Path, marker: str) -> Iterator[Path]:
    """Yield a new hidden directory next to `target`; rename it to `target` if the block succeeds.

    If the block raises an exception (also KeyboardInterrupt), the hidden directory is removed and `target` stays as it
    was.

    Args:
        target: the directory to write. It may be absent, empty, or contain `marker`; then it is replaced. If it is a
            symbolic link, the directory it points to is replaced.
        marker: name of a file that every such directory contains; the block has to write it.

    Raises:
        LhcnetError: `target` is a file, contains other files but no `marker`, or cannot be written. An OSError of the
            block is reported in the same way.
    """
    target = Path(os.path.realpath(target))
    _check_replaceable(target, marker)
    with _hidden_path(target) as temporary:
        temporary.mkdir()  # not tempfile.mkdtemp: its mode 0700 would deny access to another user's next step
        yield temporary
        if not (temporary / marker).is_file():
            raise RuntimeError(f"the block wrote no {marker} into {temporary}")
        _check_replaceable(target, marker)  # again, because it may have changed in the meantime
        _flush(temporary)
        _swap(temporary, target)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a hidden path next to `target`; rename it to `target` if the block succeeds. See `atomic_directory`."""
    target = Path(os.path.realpath(target))
    with _hidden_path(target) as temporary:
        yield temporary
        _flush(temporary)
        temporary.replace(target)


@contextmanager
def _hidden_path(target: Path) -> Iterator[Path]:
    """A unique hidden path next to `target`, removed at the end; an OSError becomes an LhcnetError."""
    if not target.name:
        raise LhcnetError(f"{target} cannot be written; expected a path below it")
    temporary = target.with_name(f".{target.name}.{uuid4().hex[:12]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):
                temporary.unlink()


def _check_replaceable(target: Path, marker: str) -> None:
    try:
        handle = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            entries = os.listdir(handle)  # noqa: PTH208 - of the open directory, even if it is renamed
            # false if another process has replaced it in the meantime and is removing the one that was listed
            unchanged = os.path.samestat(os.fstat(handle), target.stat())
        finally:
            os.close(handle)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_write(target, error) from error
    if unchanged and entries and marker not in entries:
        raise LhcnetError(f"{target} contains other files; expected it to be absent, empty or to contain {marker}")


def _flush(path: Path) -> None:
    """Flush files and directories to the disk before the rename; a power failure then leaves no incomplete target."""
    for part in (*path.rglob("*"), path):
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap(new: Path, target: Path) -> None:
    """Rename `new` to `target`, and restore the former `target` if that fails. Of two processes the later one wins."""
    former = new.with_name(f"{new.name}.former")
    try:
        while not _renamed(new, target):
            with suppress(FileNotFoundError):  # another process has just moved it
                target.rename(former)
            if _renamed(new, target):
                break
            shutil.rmtree(former, ignore_errors=True)  # another process has put its own there: replace that one
    except BaseException:
        if former.exists() and not target.exists():
            former.rename(target)
        raise
    finally:
        shutil.rmtree(former, ignore_errors=True)


def _renamed(new: Path, target: Path) -> bool:
    """Try to rename `new` to `target`; returns False if `target` is a directory that is not empty."""
    try:
        new.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _cannot_write(target: Path, error: OSError) -> LhcnetError:
    reason = error.strerror or error
    return LhcnetError(f"{target} cannot be written; expected a writable path and free disk space: {reason}")
