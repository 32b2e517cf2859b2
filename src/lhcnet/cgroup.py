"""Limits of the container that this process runs in, read from its control groups (cgroup v1 and v2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lhcnet.estimate import gib

ROOT = Path("/")  # where /proc and /sys are
_FULL = 0.98  # of the memory limit


def cpu_limit(root: Path = ROOT) -> int | None:
    """CPU limit of the container: the smallest quota of its control groups, rounded up.

    Args:
        root: where /proc and /sys are.

    Returns:
        number of cores, at least 1, or None without a limit. A limit of half a core counts as one.
    """
    quotas = (_quota(folder, version_2) for folder, version_2 in _groups("cpu", root))
    return min((math.ceil(quota) for quota in quotas if quota), default=None)


def oom_kills(root: Path = ROOT) -> int:
    """How many processes of the container the kernel has killed for lack of memory; 0 if it does not count them."""
    for folder, version_2 in _groups("memory", root):
        count = _fields(folder / ("memory.events" if version_2 else "memory.oom_control")).get("oom_kill")
        if count is not None:  # of our own group: those above count other containers too
            return count
    return 0


def memory_exhausted(root: Path = ROOT) -> str:
    """How full the memory of a container is that the kernel is about to kill as a whole, in words; "" if it is not.

    With `memory.oom.group` (cgroup v2; Kubernetes sets it) the kernel kills all processes of the container at once, so
    that none is left to say why. Memory that the kernel could free (page cache) does not count.
    """
    for folder, version_2 in _groups("memory", root):
        if not version_2 or _number(folder / "memory.oom.group") != 1:
            continue
        stat, limit = _fields(folder / "memory.stat"), _number(folder / "memory.max")
        used = stat.get("anon", 0) + stat.get("shmem", 0)
        if limit and used > _FULL * limit:
            return f"{gib(used)} of the {gib(limit)} that the container may use"
    return ""


def _groups(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """Folders of the control groups of this process, each before those above it, and whether they are of version 2.

    The limits of all groups above hold too; where the group is not mounted, the top one is the container's.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    mounted = root / "sys/fs/cgroup"
    for number, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        version_2 = number == "0" and not controllers
        if not version_2 and controller not in controllers.split(","):
            continue
        for hierarchy in (mounted,) if version_2 else (mounted / controllers, mounted / controller):
            group = PurePosixPath(path)
            for part in (group, *group.parents):
                yield hierarchy / str(part).strip("/"), version_2


def _quota(group: Path, version_2: bool) -> float | None:
    """Cores that a control group may use; None if that is not limited."""
    try:
        if version_2:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None
    except (OSError, ValueError):  # no such file, or the quota `max`
        return None


def _fields(file: Path) -> dict[str, int]:
    """Lines of a name and a number; {} if there is no such file."""
    try:
        return {name: int(value) for name, value in (line.split() for line in file.read_text().splitlines())}
    except (OSError, ValueError):
        return {}


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such file, or `max`
        return None
