"""Load of the machine beside a step: processor, memory, disk, network and graphics cards, as MLflow measures them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from lhcnet.tracking.journal import StepRun

log = logging.getLogger("lhcnet")

SWITCH, INTERVAL = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
_SECONDS = 10.0  # between two samples, as in MLflow


@contextmanager
def system_metrics(run: StepRun) -> Iterator[None]:
    """Log `system/...` while the block runs, if MLflow's own variable MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is true.

    MLflow's monitors measure; the samples go into the step's journal, like everything else.

    Raises:
        LhcnetError: MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL is no number of seconds.
    """
    if os.environ.get(SWITCH, "").lower() not in ("true", "1"):
        yield
        return
    ended, pause = threading.Event(), _interval()
    thread = threading.Thread(target=_sample, args=(run, ended, pause), name="system metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _interval() -> float:
    text = os.environ.get(INTERVAL) or str(_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise LhcnetError(f"{INTERVAL}={text}: expected a number of seconds above 0")
    return seconds


def _sample(run: StepRun, ended: threading.Event, pause: float) -> None:
    """Log one sample after each pause, until the step ends."""
    try:
        monitors = _monitors()
    except ImportError as error:  # psutil is no requirement of MLflow
        log.warning("no system metrics: %s; expected the package psutil, or %s=false", error, SWITCH)
        return
    number = 0
    while not ended.wait(pause):
        values: dict[str, float] = {}
        for monitor in monitors:
            monitor.collect_metrics()
            values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        run.metrics(values, step=number)
        number += 1


def _monitors() -> list[Any]:
    """MLflow's monitors, which have no types."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    kinds: list[Any] = [CPUMonitor, DiskMonitor, NetworkMonitor]
    gpu: Any = GPUMonitor
    monitors = [kind() for kind in kinds]
    try:
        monitors.append(gpu())
    except Exception:  # no NVIDIA card, or no driver: MLflow raises what the driver's library raises
        log.debug("no graphics card to measure")
    return monitors
