"""The Kubeflow components as Python functions."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

Started = list[dict[str, str]]  # the arguments of each call of `start_task`


def function(name: str) -> Callable[..., Any]:
    """Python function of the component `name`."""
    found: Callable[..., Any] = getattr(import_module(f"components.{name}"), name).python_func
    return found
