"""Tasks without a process of their own, and without MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.components import Started

from lhcnet import steps


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    """The arguments of each `start_task`; the process itself stays as it is. MLflow gets nothing."""
    monkeypatch.setenv("LHCNET_EXECUTION", "components")
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    calls: Started = []
    monkeypatch.setattr(steps, "start_task", lambda **arguments: calls.append(arguments))
    return calls
