"""What a compiled pipeline needs: tasks, pods, and the most CPU, memory and GPUs at one moment."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubernetes.utils.quantity import parse_quantity

Node = Mapping[str, Any]  # a mapping of the intermediate representation (IR)
Amounts = Mapping[str, float]
AMOUNTS = ("tasks", "cpu", "cpu_request", "memory", "memory_request", "gpus")  # CPU in cores, memory in bytes


@dataclass(frozen=True)
class Footprint:
    """Needs of one run, nothing from the cache.

    Args:
        tasks: number of tasks by component.
        drivers: pods that the back end itself starts: one for each task, loop, loop item and group.
        peak: the most of each of `AMOUNTS` at one moment, each for itself, without the drivers.
    """

    tasks: Counter[str] = field(default_factory=Counter)
    drivers: int = 0
    peak: Amounts = field(default_factory=dict)

    @property
    def pods(self) -> int:
        return self.tasks.total() + self.drivers


def footprint(ir: Node) -> Footprint:
    """The needs of a compiled pipeline (the first of its YAML documents) with its default parameters."""
    defaults = {
        name: parameter.get("defaultValue")
        for name, parameter in ir["root"].get("inputDefinitions", {}).get("parameters", {}).items()
    }
    return _group(ir["root"], ir, defaults)


def _group(component: Node, ir: Node, values: Mapping[str, Any]) -> Footprint:
    """Needs of a group of tasks, its own driver among them. `values` are the known values of its parameters."""
    tasks, drivers, peaks = Counter[str](), 1, {}
    everything = component["dag"]["tasks"]
    for name, task in everything.items():
        reference = task["componentRef"]["name"]
        inner = ir["components"][reference]
        inputs = task.get("inputs", {}).get("parameters", {})
        known = {key: value_of(source, values) for key, source in inputs.items()}
        if "dag" not in inner:
            executor = ir["deploymentSpec"]["executors"][inner["executorLabel"]]
            tasks[reference.removeprefix("comp-")] += 1
            drivers += "importer" not in executor  # an importer runs without one
            peaks[name] = _container(executor.get("container", {}))
            continue
        one, copies, at_once = _group(inner, ir, known), 1, 1
        if iterator := task.get("parameterIterator"):
            items = iterator["items"]
            listed = json.loads(items["raw"]) if "raw" in items else known.get(items["inputParameter"]) or []
            copies = len(listed)
            at_once = min(copies, task.get("iteratorPolicy", {}).get("parallelismLimit") or copies)
            drivers += 1  # of the loop, beside those of its items
        tasks.update({key: count * copies for key, count in one.tasks.items()})
        drivers += one.drivers * copies
        peaks[name] = {key: amount * at_once for key, amount in one.peak.items()}
    after = _ancestors(everything)
    return Footprint(tasks, drivers, {key: _most(list(everything), key, peaks, after) for key in AMOUNTS})


def value_of(source: Node, values: Mapping[str, Any]) -> Any:
    """Value of a task's parameter, given those of the group around it; None if a task makes it."""
    if "componentInputParameter" in source:
        return values.get(source["componentInputParameter"])
    return source.get("runtimeValue", {}).get("constant")


def _container(container: Node) -> Amounts:
    resources = container.get("resources", {})

    def quantity(name: str, otherwise: float = 0.0) -> float:
        return float(parse_quantity(resources[name])) if name in resources else otherwise

    cpu, memory = quantity("resourceCpuLimit"), quantity("resourceMemoryLimit")
    return {
        "tasks": 1,
        "cpu": cpu,
        "cpu_request": quantity("resourceCpuRequest", cpu),  # Kubernetes takes the limit
        "memory": memory,
        "memory_request": quantity("resourceMemoryRequest", memory),
        "gpus": float(resources.get("accelerator", {}).get("resourceCount", 0)),
    }


def _ancestors(tasks: Node) -> dict[str, set[str]]:
    """All tasks that end before each task starts."""
    found: dict[str, set[str]] = {}

    def of(name: str) -> set[str]:
        if name not in found:
            found[name] = set()  # also ends the search in a circle
            before = tasks[name].get("dependentTasks", [])
            found[name] = set(before).union(*(of(other) for other in before))
        return found[name]

    for name in tasks:
        of(name)
    return found


def _most(names: list[str], key: str, peaks: Mapping[str, Amounts], after: Mapping[str, set[str]]) -> float:
    """The largest sum of an amount over tasks that can run at the same time, that is: none waits for another."""
    if not names:
        return 0.0
    first, *others = names
    beside = [name for name in others if name not in after[first] and first not in after[name]]
    with_first = peaks[first].get(key, 0.0) + _most(beside, key, peaks, after)
    return with_first if beside == others else max(with_first, _most(others, key, peaks, after))
