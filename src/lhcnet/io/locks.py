"""Locks between processes, also on a shared volume, and what is known where a file system has none."""

from __future__ import annotations

import fcntl


def try_lock(handle: int, *, shared: bool = False) -> bool | None:
    """Take a lock (flock) on an open file, without waiting. It ends with the process or with `close`.

    Args:
        handle: file descriptor.
        shared: whether others may hold a shared lock at the same time.

    Returns:
        True: it is held. False: another process holds it. None: the file system has no such locks.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def wait_for_lock(handle: int) -> None:
    """Take a lock (flock) on an open file as soon as it is free; none where the file system has no such locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        return
