"""Argo workflows as back ends of Kubeflow Pipelines make them: what a test's server hands out as a run's manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Workflow:
    """An Argo workflow as a back end makes it of a pipeline: each task is a driver and a group with its executor.

    With `retried` as under Kubeflow's stock manifests: each group and pod is an attempt of a node for all attempts.
    """

    name: str = "lhcnet-x7k2p"
    retried: bool = False
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._add("", self.name, "DAG", "Running")
        self.root = self._add(self.name, "root", "DAG", "Running")
        self._add(self.name, "root-driver", "Pod", "Succeeded")

    def task(self, name: str, phase: str, message: str = "", *, attempts: int = 1, group: str = "") -> Workflow:
        """Add a task; "Skipped" is one from the cache."""
        group = group or self.root
        self._add(group, f"{name}-driver", "Pod", "Succeeded")
        dag = self._add(group, name, "DAG", phase)
        for attempt in range(attempts):
            last = attempt == attempts - 1
            label = "executor" if attempts == 1 or self.retried else f"executor({attempt})"
            kind = "Skipped" if phase in ("Skipped", "Omitted") else "Pod"
            self._add(dag, label, kind, phase if last else "Failed", message if last else "Error (exit code 1)")
        return self

    def driver(self, name: str, phase: str, message: str = "") -> Workflow:
        """Add a task whose driver has not succeeded."""
        self._add(self.root, f"{name}-driver", "Pod", phase, message)
        return self

    def item(self, loop: str, number: int) -> str:
        """Id of the group of one item of a loop."""
        found = self._group(loop)
        outer = found or self._add(self.root, loop, "DAG", "Running")
        if not found:
            self._add(outer, "iteration-driver", "Pod", "Succeeded")
        iteration = self._add(outer, f"iteration-iterations({number}:{number})", "DAG", "Running")
        self._add(iteration, "iteration-item-driver", "Pod", "Succeeded")
        return self._add(iteration, "iteration-item", "DAG", "Running")

    def manifest(self) -> dict[str, Any]:
        metadata = {"name": self.name, "namespace": "kubeflow"}
        return {"metadata": metadata, "status": {"phase": "Running", "nodes": self.nodes}}

    def pod(self, task: str) -> str:
        """Name of the newest executor pod of a task."""
        dag = self._group(task)
        number = [i for i, n in self.nodes.items() if n["boundaryID"] == dag and n["type"] == "Pod"][-1]
        return f"{self.name}-system-container-impl-{number.rpartition('-')[2]}"

    def _group(self, name: str) -> str | None:
        names = (name, f"{name}(0)")
        return next((i for i, n in self.nodes.items() if n["type"] == "DAG" and n["displayName"] in names), None)

    def _add(self, group: str, name: str, kind: str, phase: str, message: str = "") -> str:
        if self.retried and kind != "Retry" and (not name.endswith(")") or name.startswith("iteration")):
            self._add(group, name, "Retry", phase)
            name = f"{name}(0)"
        number = len(self.nodes)
        node_id = f"{self.name}-{1000 + number}" if number else self.name
        self.nodes[node_id] = {
            "id": node_id,
            "name": f"{self.name}.{name}",
            "displayName": name,
            "type": kind,
            "templateName": "system-container-impl" if kind == "Pod" else "dag",
            "boundaryID": group,
            "phase": phase,
            "message": message,
            "startedAt": f"2026-01-01T00:{number // 60:02}:{number % 60:02}Z",
        }
        return node_id
