"""Checks of outputs before the work: a path that cannot be written is reported at once, not after hours."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable
from itertools import chain, combinations, product
from pathlib import Path

from lhcnet.errors import LhcnetError
from lhcnet.io.contents import OwnFolder, OwnJson
from lhcnet.io.hidden import hidden_name, remove_leftovers

ROOM = 1 << 16  # bytes that are free for every output, whatever its size
_PROBE = bytes(4096)  # one block
_PAUSE = 2.0  # seconds
_PASSING = {  # errors of a network volume that is not there yet, or not for a moment
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EAGAIN, errno.EREMOTEIO),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET),
}
log = logging.getLogger("lhcnet")


def output_directory(target: Path, own: OwnFolder, size: int = 0) -> Path:
    """Check a folder that will be written and replaced as a whole. Removes what killed processes left of it.

    Args:
        target: absent, an empty folder, or one that the same step wrote.
        own: what the step writes into it.
        size: its size in bytes, if it is known.

    Returns:
        The path without links and `..` in front of its name.

    Raises:
        LhcnetError: `target` is a link, a mount point, a file, a folder with anything else in it, or cannot be written.
    """
    target = _located(target)
    remove_leftovers(target, own)
    found: os.stat_result | None = None
    try:
        found = target.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise cannot_write(target, error) from error
    if found is not None:
        _require_replaceable_directory(target, found, own)
    require_room(target, size)
    if found is not None:
        _require_permission(target, found)
    return target


def output_file(target: Path, own: OwnJson | None, size: int = 0) -> Path:
    """Check a file that will be written and replaced as a whole. Removes what killed processes left of it.

    Args:
        target: absent, or a file; a link to a file is replaced, and the file that it leads to stays as it is.
        own: content of the file that may be replaced; None: any.
        size: its size in bytes, if it is known.

    Returns:
        The path without links and `..` in front of its name.

    Raises:
        LhcnetError: `target` is something else than a file, or a file of another kind, or cannot be written.
    """
    target = _located(target)
    remove_leftovers(target, None)
    try:
        mode = target.stat().st_mode
        if not stat.S_ISREG(mode):
            raise LhcnetError(f"{target} cannot be written; expected a file or nothing there")
        if is_mount_point(target):
            raise LhcnetError(f"{target} cannot be written: it is a mount point; expected a path below one")
        if own and not target.is_symlink() and (problem := own.problem(target)):
            raise LhcnetError(f"{target} is not replaced: {problem}; name another file, or move this one away")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise cannot_write(target, error) from error
    require_room(target, size)
    return target


def shared_folder(folder: Path, size: int = 0) -> None:
    """Check a folder that files are added to, such as that of the checkpoints.

    Raises:
        LhcnetError: it is no folder and cannot be made, or `size` bytes cannot be written into it.
    """
    require_room(_without_nul(folder) / "file", size, name=folder)


def await_folder(folder: Path, seconds: float) -> None:
    """Check a folder as `shared_folder` does, and wait for the volume that it is on while that does not answer.

    Args:
        folder: on a network volume that may have just been mounted.
        seconds: the longest time to wait. A folder that may not be written is reported at once.

    Raises:
        LhcnetError: nothing can be written into it, or not within that time.
    """
    deadline, waiting = time.monotonic() + seconds, False
    while True:
        try:
            return shared_folder(folder)
        except LhcnetError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in _PASSING:
                raise
            if time.monotonic() > deadline:
                raise LhcnetError(f"{error} (for {seconds:g} s: is its volume mounted, and does it answer?)") from cause
            if not waiting:
                log.warning("%s; waiting up to %g s for its volume", error, seconds)
                waiting = True
        time.sleep(_PAUSE)


def require_separate(*outputs: Path, inputs: Iterable[Path] = ()) -> None:
    """Raise LhcnetError if an output contains another output or an input, lies in it, or is the same."""
    for one, other in chain(combinations(outputs, 2), product(outputs, inputs)):
        first, second = (Path(os.path.realpath(_without_nul(path))) for path in (one, other))
        if first.is_relative_to(second) or second.is_relative_to(first):
            raise LhcnetError(f"{one} and {other}: one contains the other, expected two separate paths")


def require_room(target: Path, size: int, name: Path | None = None) -> None:
    """Prove that `target` can be written beside what is there now.

    Args:
        target: a path; the folders above it may be missing.
        size: bytes.
        name: path to show in the error.

    Raises:
        LhcnetError: the folder above cannot be made or written, or has too little free space.
    """
    name, folder = name or target, target.parent
    try:
        while not os.path.lexists(folder):
            folder = folder.parent
        if not folder.is_dir():
            raise LhcnetError(f"{name} cannot be written: {folder} is not a folder; expected a folder")
        for path in (target, hidden_name(target)):
            _refuse_long_names(path, folder)
        with tempfile.TemporaryFile(dir=folder) as probe:  # it has no name: nothing is left even after a kill
            probe.write(_PROBE)
        usage = shutil.disk_usage(folder)
    except OSError as error:
        raise cannot_write(name, error) from error
    needed = size + ROOM
    if usage.total and usage.free < needed:  # some network file systems report 0 for everything
        raise LhcnetError(
            f"{name} cannot be written; expected {needed / 1e6:,.1f} MB of free disk space for it, "
            f"found {usage.free / 1e6:,.1f} MB"
        )


def cannot_write(target: Path, error: OSError) -> LhcnetError:
    """The error of an output that the system refuses to write."""
    reason = error.strerror or error
    return LhcnetError(f"{target} cannot be written; expected a writable path and free disk space: {reason}")


def is_mount_point(path: Path) -> bool:
    """Whether a file system, a folder or a file is mounted at this path; it cannot be renamed then."""
    if os.path.ismount(path):
        return True
    try:  # a folder of the same file system that is mounted here, as containers do
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    points = (re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split()[4]) for line in lines)
    return os.fsencode(path) in points


def _require_replaceable_directory(target: Path, found: os.stat_result, own: OwnFolder) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise LhcnetError(
            f"{target} is a link to {target.readlink()}: a step does not write through links; name the folder itself"
        )
    if not stat.S_ISDIR(found.st_mode):
        raise LhcnetError(f"{target} cannot be written: it is not a folder; expected a folder or nothing there")
    if is_mount_point(target):
        raise LhcnetError(f"{target} cannot be written: it is a mount point; expected a folder below it")
    if os.path.samestat(found, Path.cwd().stat()):
        raise LhcnetError(f"{target} cannot be replaced: it is the working folder; expected another folder")
    try:
        if problem := own.problem(target):
            now = target.lstat()
            if os.path.samestat(found, now):  # else another process has just replaced it and removes the one listed
                raise LhcnetError(f"{target} is not replaced: {problem}; name another folder, or move this one away")
    except FileNotFoundError:  # the same
        return
    except OSError as error:
        raise cannot_write(target, error) from error


def _require_permission(target: Path, found: os.stat_result) -> None:
    """Raise LhcnetError if this user may write beside an existing folder, but not replace it."""
    parent = target.parent.stat()
    sticky = parent.st_mode & stat.S_ISVTX and os.geteuid() not in (0, found.st_uid, parent.st_uid)
    if sticky or not os.access(target, os.W_OK | os.X_OK):
        raise LhcnetError(f"{target} cannot be written: it belongs to another user, or is write-protected")


def _located(target: Path) -> Path:
    """The path without links and `..` in front of its name; the name itself may be a link."""
    target = _without_nul(target)
    if target.name in ("", ".."):  # ".", "..", "/"
        target = Path(os.path.realpath(target))
    else:
        target = Path(os.path.realpath(target.parent), target.name)
    if not target.name:
        raise LhcnetError(f"{target} cannot be replaced: it is the root of the file system; expected another path")
    return target


def _without_nul(path: Path) -> Path:
    if "\0" in str(path):
        raise LhcnetError(f"{path} cannot be written; expected a path without the character NUL")
    return path


def _refuse_long_names(path: Path, existing: Path) -> None:
    """Raise OSError if a name is too long; where a folder above it is missing, the system would not say so."""
    longest = os.pathconf(existing, "PC_NAME_MAX")
    for part in path.relative_to(existing).parts:
        if len(os.fsencode(part)) > longest:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
