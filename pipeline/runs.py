"""Runs of Kubeflow Pipelines as its API shows them: states, tasks, and why a task failed or waits."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lhcnet.errors import LhcnetError

ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_HIDDEN_DAGS = ("root", "iteration-item")  # levels of the workflow that a user's pipeline does not have
_ITERATION = re.compile(r"^iteration-iterations\((\d+):")
_ATTEMPT = re.compile(r"\(\d+\)$")  # of each group and pod, where the controller's configuration has it all retried
_MOST_TASKS = 100_000
_MOST_BYTES = 1 << 28  # of the nodes of a workflow
# Argo's phase of a node -> state in the API
_PHASES = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Succeeded": "SUCCEEDED",
    "Failed": "FAILED",
    "Error": "FAILED",
    "Skipped": "CACHED",
    "Omitted": "OMITTED",
}
# message of Kubernetes or Argo -> what it means and what to do; the first that matches counts
_REASONS = (
    (r'persistentvolumeclaim "([^"]+)" not found', "volume claim {0} is missing: create it, or change `checkpoints`"),
    (r"unbound immediate PersistentVolumeClaims", "a volume claim has no volume: look at its storage class"),
    (r"ReadWriteOnce|Multi-Attach", "its volume is in use on another node: expected a ReadWriteMany volume claim"),
    (r'secrets? "([^"]+)" not found', "the secret {0} is missing in the namespace: create it, or change `secret`"),
    (r'configmaps? "([^"]+)" not found', "the config map {0} is missing in the namespace"),
    (r'couldn\'t find key (\S+) in Secret', "the secret has no key {0}: add it, or change `secret_keys`"),
    (r'service ?accounts? "([^"]+)" not found', "the service account {0} is missing in the namespace"),
    (
        r"exceeded quota: ([\w-]+(?:\.[\w-]+)*)",
        "quota {0} of the namespace is used up: lower what the tasks ask for, or how many run at once",
    ),
    (r"exceeds? .*limit|LimitRange", "the namespace limits what a pod may ask for: lower cpu or memory"),
    (
        r"ImagePullBackOff|ErrImagePull|InvalidImageName|[Ff]ailed to pull image|manifest unknown",
        "the image cannot be pulled: look at `image`, and at the pull secret of a private registry",
    ),
    (
        r"Insufficient ([\w/-]+(?:\.[\w/-]+)*)",
        "no node has enough free {0}: it waits until there is; lower what the tasks ask for",
    ),
    (r"untolerated taint|didn't match", "no node matches: look at `node_selector` and `tolerations`"),
    (r"Unschedulable|nodes are available", "no node takes its pod"),
    (r"OOMKilled", "out of memory: raise the memory limit of its step, or lower batch_size"),
    (r"[Ee]victed|low on resource", "its node ran out of memory or disk, and ended it"),
    (r"exceeded its deadline|activeDeadlineSeconds", "ended by a time limit or because the run was terminated"),
    (r"pod deleted|node .*(lost|shutdown|NotReady)", "its pod is gone with its node, or was deleted"),
    (r"CreateContainerConfigError|CreateContainerError|RunContainerError", "its container cannot be started"),
    (r"FailedMount|FailedAttachVolume|MountVolume", "a volume cannot be mounted"),
    (r"runAsNonRoot|violates PodSecurity", "the namespace's security policy refuses its pod"),
    (r"is forbidden", "the cluster does not allow its pod"),
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One task of a run.

    Attributes:
        name: of the task in the pipeline; tasks in a loop have the loop's name and the item's position in front.
        state: RuntimeState of the API; CACHED where its outputs come from the cache, OMITTED where its driver failed.
        message: what Kubernetes and Argo say about it, "" if the API does not hand it out.
        pod: name of its newest pod, "" if there is none.
        namespace: of the pod.
        attempts: number of its pods.
    """

    name: str
    state: str
    message: str = ""
    pod: str = ""
    namespace: str = ""
    attempts: int = 1


@dataclass(frozen=True)
class Run:
    """State of a run.

    Attributes:
        run_id: its id.
        name: its name in the user interface.
        state: RuntimeState; CANCELED for a terminated run, which back ends report as FAILED.
        error: what the back end says about the run itself.
        tasks: its tasks, without reasons.
        links: addresses that plugins of the back end added (MLflow), by name.
    """

    run_id: str
    name: str
    state: str
    error: str
    tasks: tuple[Task, ...]
    links: Mapping[str, str]

    @classmethod
    def of_reply(cls, reply: Mapping[str, Any]) -> Run:
        """The run of a reply. Parts that are missing or of the wrong type are left out."""
        history = [str(row.get("state")) for row in _rows(reply.get("state_history"))]
        state = str(reply.get("state") or "PENDING")
        if state == "FAILED" and [s for s in history if s != "FAILED"][-1:] == ["CANCELING"]:
            state = "CANCELED"
        errors = [_text(reply.get("error")), *(_text(row.get("error")) for row in _rows(reply.get("state_history")))]
        details = reply.get("run_details")
        tasks = _rows(details.get("task_details")) if isinstance(details, Mapping) else []
        return cls(
            run_id=str(reply.get("run_id", "")),
            name=str(reply.get("display_name", "")),
            state=state,
            error=next(filter(None, reversed(errors)), ""),
            tasks=tuple(_tasks_of_details(tasks)),
            links=dict(_links(reply.get("plugins_output"))),
        )

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def tasks_of_workflow(workflow: Mapping[str, Any]) -> list[Task]:
    """Tasks of an Argo workflow that a back end made of a pipeline, in the order of their start.

    A task is a group of pods: its driver, and one executor for each attempt. A task from the cache has no executor.
    """
    metadata, nodes = workflow["metadata"], _nodes(workflow["status"])
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for node in list(nodes.values())[:_MOST_TASKS]:
        name = _name(node)
        if node.get("type") in ("Pod", "Skipped") and (name.startswith("executor") or name.endswith("-driver")):
            groups.setdefault(_path(node, nodes), []).append(node)
    found = []
    for name, members in groups.items():
        members.sort(key=lambda node: (str(node.get("startedAt") or "9"), str(node.get("displayName"))))
        executors = [node for node in members if _name(node).startswith("executor")]
        newest = executors[-1] if executors else members[-1]
        state = _PHASES.get(str(newest.get("phase")), "PENDING")
        if not executors and state == "SUCCEEDED":
            continue  # the driver of a loop or of a group, or of a task whose executor has not begun
        pods = [node for node in executors or members if node.get("type") == "Pod"]
        found.append(
            (
                str(members[0].get("startedAt")),
                Task(
                    name=name,
                    state=state,
                    message="" if state in ("SUCCEEDED", "CACHED") else str(newest.get("message") or ""),
                    pod=_pod_name(pods[-1], workflow) if pods else "",
                    namespace=str(metadata.get("namespace", "")),
                    attempts=len(pods),
                ),
            )
        )
    return [task for _, task in sorted(found, key=lambda pair: pair[0])]


def failed_text(task: Task, events: Callable[[Task], str] = lambda _: "") -> str:
    """Why a task failed or waits, in one sentence with the original message; "" if it does neither or nothing is known.

    Args:
        task: the task.
        events: gives the last warning about the pod of a task; asked if the task itself says nothing.
    """
    if task.state not in ("PENDING", "FAILED"):
        return ""
    message = task.message
    if task.state == "PENDING" and (not message or message in ("ContainerCreating", "PodInitializing")):
        message = events(task)
    for pattern, meaning in _REASONS:
        if found := re.search(pattern, message):
            return f"{meaning.format(*found.groups())} ({_short(message)})"
    return _short(message) if task.state == "FAILED" else ""


def _nodes(status: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Nodes of a workflow. Argo compresses those of a large one: about 50 tasks under Kubeflow's stock manifests."""
    packed = status.get("compressedNodes")
    if not packed:
        return status.get("nodes") or {}
    text = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(base64.b64decode(packed), _MOST_BYTES)
    nodes: dict[str, Any] = json.loads(text)
    return nodes


def _name(node: Mapping[str, Any]) -> str:
    """Name of a node without the number of the attempt."""
    return _ATTEMPT.sub("", str(node.get("displayName", "")))


def _path(node: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> str:
    """Name of the task that a pod belongs to, from the groups around it."""
    name, parts, seen = _name(node), [], set()
    if name.endswith("-driver"):
        parts.append(name.removesuffix("-driver"))
    boundary = str(node.get("boundaryID", ""))
    while boundary in nodes and boundary not in seen:
        seen.add(boundary)
        around = nodes[boundary]
        parts.append(_name(around))
        boundary = str(around.get("boundaryID", ""))
    path = ""
    for part in reversed(parts[:-1] if len(parts) > 1 else parts):  # the outermost is the workflow itself
        if item := _ITERATION.match(part):
            path += f"[{item[1]}]"
        elif part not in _HIDDEN_DAGS and not part.startswith("iteration-item"):
            path += f"/{part}" if path else part
    return path or name


def _pod_name(node: Mapping[str, Any], workflow: Mapping[str, Any]) -> str:
    """Name of the pod of a node, as Argo makes it: workflow, template, and the number at the end of the node's id."""
    metadata = workflow["metadata"]
    node_id, name = str(node.get("id", "")), str(metadata.get("name", ""))
    if (metadata.get("annotations") or {}).get("workflows.argoproj.io/pod-name-format") == "v1":
        return node_id
    number = node_id.rpartition("-")[2]
    template = node.get("templateName")
    return f"{name}-{template}-{number}" if template and ".inline" not in str(node.get("name")) else f"{name}-{number}"


def _tasks_of_details(rows: list[Mapping[str, Any]]) -> list[Task]:
    """Tasks of `task_details`, which has a row for each node of the workflow: pods, groups and drivers."""
    named = ((str(row.get("display_name") or ""), str(row.get("state") or "PENDING")) for row in rows)
    return [
        Task(name, state)
        for name, state in named
        if name
        and not _ATTEMPT.search(name)
        and not name.endswith("-driver")
        and not name.startswith(("executor", "iteration-", "root"))
    ]


def _links(plugins: Any) -> list[tuple[str, str]]:
    found = []
    for plugin, output in plugins.items() if isinstance(plugins, Mapping) else ():
        entries = output.get("entries") if isinstance(output, Mapping) else None
        for entry in entries.values() if isinstance(entries, Mapping) else ():
            value = entry.get("value") if isinstance(entry, Mapping) else None
            if isinstance(value, str) and value.startswith(("http://", "https://")):
                found.append((str(plugin), value))
    return found


def _rows(value: Any) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _text(error: Any) -> str:
    return str(error.get("message") or "") if isinstance(error, Mapping) else ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:300]} ..."


def find_task(tasks: list[Task], name: str) -> Task:
    """The task of this name, or the only one whose name ends with it.

    Raises:
        LhcnetError: there is none, there are several, or it has no pod.
    """
    found = [task for task in tasks if task.name == name] or [t for t in tasks if t.name.endswith(f"/{name}")]
    if len(found) != 1:
        names = ", ".join(task.name for task in found or tasks) or "none: the run has not begun"
        raise LhcnetError(f"task {name}: {'several' if found else 'none'} of this name; expected one of {names}")
    if found[0].state == "CACHED":
        raise LhcnetError(f"task {name}: its outputs come from Kubeflow's cache; it has no pod and no log in this run")
    if not found[0].pod:
        raise LhcnetError(f"task {name}: has no pod yet, or the back end does not name it; look at its log in the UI")
    return found[0]
