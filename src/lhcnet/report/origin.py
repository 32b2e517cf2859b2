"""Where and when a report was made: date, commit, hardware and versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("lhcnet", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "mlflow")


def origin() -> dict[str, str]:
    """Of this machine, now; SOURCE_DATE_EPOCH (seconds), where it is set, is taken as the time."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)
    commit = os.environ.get("LHCNET_COMMIT") or _output("git", "rev-parse", "HEAD") or "unknown"
    return {
        "date": f"{now:%Y-%m-%d %H:%M} UTC",
        "commit": commit[:12],
        "hardware": _hardware(),
        "versions": ", ".join([f"Python {platform.python_version()}", *filter(None, map(_version, PACKAGES))]),
    }


def _hardware() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return ", ".join([f"{_processor()}, {cores} cores", *(gpus or ["no GPU"])])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def _output(*command: str) -> str:
    """What a program prints; nothing if it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
