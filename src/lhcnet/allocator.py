"""Settings of the C library's memory allocator, which have to stand in the environment before a process starts.

By default glibc gives every large block back to the kernel when it is freed, and the next batch asks for it again, page
by page of 4 KB. With these settings the process keeps its memory, in pages of 2 MB. No result depends on them.
docs/performance.md has what they gave.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

VARIABLE: Final = "GLIBC_TUNABLES"
TUNABLES: Final = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,  # ask for transparent huge pages
        "mmap_threshold": 4 << 30,  # bytes; no block below it is mapped for itself
        "trim_threshold": 8 << 30,
        "top_pad": 256 << 20,  # how much the heap grows at once
    }.items()
)
COMPUTING: Final = frozenset(
    {"train", "control", "evaluate", "analyse", "select", "insert", "pipeline"}
    | {"predict", "explain", "score", "export", "app"}
)


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that computes; a value of the user's own stays."""
    return {VARIABLE: TUNABLES, **given} if _has_tunables() else dict(given)


def restart_tuned(arguments: Sequence[str]) -> None:
    """Start this process again with the settings, in its place, if it is to compute and does not have them.

    Args:
        arguments: those of the command line; the first one names the command.
    """
    if _has_tunables() and VARIABLE not in os.environ and COMPUTING.intersection(arguments[:1]):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment(os.environ))


def _has_tunables() -> bool:
    return "CS_GNU_LIBC_VERSION" in os.confstr_names
