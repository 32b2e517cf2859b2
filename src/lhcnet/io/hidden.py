"""Hidden temporary copies beside an output, and the removal of those that killed processes left.

A process holds a lock (flock) on its copy, which the system releases when the process ends, however it ends. A copy is
removed only if its name and its content are ours and nobody holds the lock. Where a file system has no such locks,
nothing is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from lhcnet.io.contents import HIDDEN, OwnFolder

FORMER = ".former"  # end of the name of a former output that is moved aside where two folders cannot be exchanged
_LONGEST = 200  # bytes of an output's name that a hidden name repeats; file systems allow 255 for the whole


def hidden_name(target: Path) -> Path:
    """A new hidden name beside `target`."""
    return target.with_name(f".{_stem(target)}.lhcnet-{uuid4().hex[:12]}")


@contextmanager
def hidden_path(target: Path, *, folder: bool) -> Iterator[Path]:
    """A new empty hidden file or folder beside `target`, locked, and removed at the end if it is still there."""
    path, handle = _create(target, folder=folder)
    try:
        yield path
    finally:
        remove(path)
        os.close(handle)


def remove_leftovers(target: Path, own: OwnFolder | None) -> None:
    """Remove the hidden copies of `target` whose processes are dead.

    A former output that was moved aside, and whose successor never came, is put back.

    Args:
        target: the output.
        own: what the folder contains; None: the output is a file.
    """
    pattern = re.compile(rf"\.{re.escape(_stem(target))}\.{HIDDEN}({re.escape(FORMER)})?")
    try:
        names = [name for name in os.listdir(target.parent) if pattern.fullmatch(name)]  # noqa: PTH208 - strings
    except OSError:  # the parent is missing, or cannot be listed
        return
    for path in map(target.with_name, names):
        with suppress(OSError):  # another process removes it, or it is not ours to remove
            _remove_if_dead(path, target, own)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _create(target: Path, *, folder: bool) -> tuple[Path, int]:
    while True:
        path = hidden_name(target)
        if folder:
            path.mkdir()  # not tempfile.mkdtemp: its mode 0700 would deny access to another user's next step
        else:
            path.touch(exist_ok=False)
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # taken for a leftover before it was locked
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), path.stat()):
                return path, handle
        except (BlockingIOError, FileNotFoundError):  # the same, a moment later
            pass
        except OSError:  # no locks on this file system: then nobody can take it for a leftover
            return path, handle
        os.close(handle)


def _remove_if_dead(path: Path, target: Path, own: OwnFolder | None) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        mode = os.fstat(handle).st_mode
        if not (stat.S_ISREG(mode) if own is None else stat.S_ISDIR(mode)):
            return
        if own is not None and own.foreign_entry(path, unfinished=True):
            return
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.name.endswith(FORMER) and not os.path.lexists(target):
            path.rename(target)
        else:
            remove(path)
    finally:
        os.close(handle)


def _stem(target: Path) -> str:
    name = os.fsencode(target.name)
    return target.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()[:32]
