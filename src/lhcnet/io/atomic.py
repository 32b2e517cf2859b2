"""Directories and files that are complete or absent, whatever happens while they are written."""

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
    """Yield a new hidden directory beside `target`; rename it to `target` if the block succeeds.

    If the block raises (KeyboardInterrupt too), the hidden directory is removed and `target` is as it was.
    `target` may be absent, empty, or hold the file `marker`, which says that it is one of ours: then it is
    replaced. The block has to write `marker`. A link is followed: what it points to is replaced.

    Raises:
        LhcnetError: `target` is a file, or holds something else than one of ours, or cannot be written; an OSError
            of the block is taken as that.
    """
    target = Path(os.path.realpath(target))
    _check_replaceable(target, marker)
    with _beside(target) as beside:
        beside.mkdir()  # not tempfile.mkdtemp, whose mode 0700 would lock out the next step's user
        yield beside
        if not (beside / marker).is_file():
            raise RuntimeError(f"the block wrote no {marker} into {beside}")
        _check_replaceable(target, marker)  # it may have changed meanwhile
        _flush(beside)
        _swap(beside, target)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """The same for one file: yield a hidden path beside `target`, which takes its place if the block succeeds."""
    target = Path(os.path.realpath(target))
    with _beside(target) as beside:
        yield beside
        _flush(beside)
        beside.replace(target)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A hidden path that nobody else uses; what is there in the end is removed. An OSError becomes an LhcnetError."""
    beside = target.with_name(f".{target.name}.{uuid4().hex[:12]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield beside
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            with suppress(OSError):
                beside.unlink()


def _check_replaceable(target: Path, marker: str) -> None:
    try:
        handle = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            entries = os.listdir(handle)  # noqa: PTH208 - of what is open, wherever it is by now
            # or another run has put its own there meanwhile, and is just removing the one that was listed
            stands = os.path.samestat(os.fstat(handle), target.stat())
        finally:
            os.close(handle)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_write(target, error) from error
    if stands and entries and marker not in entries:
        raise LhcnetError(f"{target} holds other files, expected it absent, empty or with {marker} from a former run")


def _flush(path: Path) -> None:
    """To the disk before the rename, so that a machine that dies leaves nothing that only looks complete."""
    for part in (*path.rglob("*"), path):
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap(new: Path, target: Path) -> None:
    """Rename `new` to `target`; a former `target` comes back if that fails. Of two runs at once the later one stays."""
    former = new.with_name(f"{new.name}.former")
    try:
        while not _renamed(new, target):
            with suppress(FileNotFoundError):  # another run has just taken it away
                target.rename(former)
            if _renamed(new, target):
                break
            shutil.rmtree(former, ignore_errors=True)  # another run's has come in between: the next to give way
    except BaseException:
        if former.exists() and not target.exists():
            former.rename(target)
        raise
    finally:
        shutil.rmtree(former, ignore_errors=True)


def _renamed(new: Path, target: Path) -> bool:
    """Whether `new` is now `target`: it takes the place of nothing and of an empty directory, not of a full one."""
    try:
        new.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _cannot_write(target: Path, error: OSError) -> LhcnetError:
    return LhcnetError(f"{target} cannot be written, expected a writable place with room: {error.strerror or error}")
