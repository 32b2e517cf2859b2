"""The form of the components: one step each, every argument described; and the exit handler."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from support.components import Started, function
from support.drivers import ROOT

from lhcnet import steps

NAMES = sorted(file.stem for file in (ROOT / "components").glob("*.py") if file.stem != "__init__")
HELPERS = {
    "RunContext",
    "confusion_matrix",
    "execution_name_of_task",
    "final_status",
    "model_metadata",
    "model_metrics",
    "score_metrics",
    "start_task",
    "supervised",
    "hand_over_journals",
    "take_over_journals",
    "task_settings",
}
STEPS = (set(steps.__all__) - HELPERS) | {"train_inserted"}  # two steps in one task, of `steps.supervised` alone


@pytest.mark.parametrize(
    ("state", "written"),
    [
        ("SUCCEEDED", "SUCCEEDED"),
        ("COMPLETE", "SUCCEEDED"),
        ("FAILED", "FAILED"),
        ("CANCELED", "CANCELLED"),
        ("RUNNING", "UNKNOWN"),
    ],
)
def test_finish(state: str, written: str, monkeypatch: pytest.MonkeyPatch, started: Started) -> None:
    """The states are those of the local runner and of a back end's metadata store."""
    closed: list[tuple[Any, Any]] = []
    monkeypatch.setattr(steps, "finish", lambda *status, **more: closed.append((status, more)))
    status = dsl.PipelineTaskFinalStatus(
        state=state,
        pipeline_job_resource_name="lhcnet-x7k",
        pipeline_task_name="exit-handler-1",
        error_code=None,
        error_message=None,
    )
    function("finish")(status=status)
    assert closed == [((written,), {"error": "", "links": {"kubeflow_job": "lhcnet-x7k"}})]
    assert started == [{}]


def test_every_component_has_a_test() -> None:
    files = Path(__file__).parent.glob("test_*.py")
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    tested = {node.name.removeprefix("test_") for node in nodes if isinstance(node, ast.FunctionDef)}
    assert set(NAMES) - tested == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_component_calls_one_step_and_computes_nothing(name: str) -> None:
    tree = ast.parse((ROOT / "components" / f"{name}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert imported <= {"components", "kfp", "lhcnet", "lhcnet.io.files", "json", "pathlib", "shutil"}
    called = [
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in STEPS
    ]
    assert len(called) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_kubeflow_ui_describes_every_argument(name: str) -> None:
    spec = getattr(import_module(f"components.{name}"), name).component_spec
    described = {**(spec.inputs or {}), **(spec.outputs or {})}
    lines = [line.strip() for line in (function(name).__doc__ or "").splitlines()]
    assert spec.description
    undescribed = {key for key in described if not any(line.startswith(f"{key}: ") for line in lines)}
    assert undescribed <= {"Output"}  # the returned value
