"""What the benchmarks share: the machine in one line, rows of the table, and fair medians."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

RUNS = 5  # medians are of at least so many


@dataclass(frozen=True)
class Row:
    """One line of the table in docs/performance.md; the cells are printed as they are."""

    what: str
    elsewhere: str
    asked: str
    here: str


def machine(*packages: str) -> str:
    """Processor, cores and versions, e.g. "AMD EPYC, 2 cores, Linux 6.1, Python 3.11.7, torch 2.14.1"."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    cpu = names[0].partition(": ")[2] if names else platform.processor() or platform.machine()
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    system = f"{platform.system()} {platform.release()}"
    return f"{cpu}, {os.cpu_count()} cores, {system}, Python {platform.python_version()}, {versions}"


def seconds(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def medians(candidates: Mapping[str, Callable[[], object]], runs: int = RUNS) -> dict[str, float]:
    """Median seconds of each, after one run that does not count; they take turns, so that a slow minute hits all."""
    for do in candidates.values():
        do()
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(runs):
        for name, do in candidates.items():
            taken[name].append(seconds(do))
    return {name: statistics.median(times) for name, times in taken.items()}
