"""Runs as the API shows them: states, tasks, and why a task failed or waits."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest
from support.argo_workflow import Workflow

from lhcnet.errors import LhcnetError
from pipeline.runs import Run, Task, failed_text, find_task, tasks_of_workflow

MESSAGES = {
    "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.": "no node has enough free nvidia.com/gpu",
    "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 ...": "no node has enough free cpu",
    "Unschedulable: 0/1 nodes are available: 1 node(s) had untolerated taint {gpu: true}.": "no node matches",
    "Unschedulable: 0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.": "no node matches",
    'Unschedulable: 0/1 nodes are available: persistentvolumeclaim "ckpt" not found.': "volume claim ckpt is missing",
    "Unschedulable: pod has unbound immediate PersistentVolumeClaims.": "a volume claim has no volume",
    "Unschedulable: 0/1 nodes are available: something new": "no node takes its pod",
    'CreateContainerConfigError: secret "mlflow" not found': "the secret mlflow is missing in the namespace",
    "CreateContainerConfigError: couldn't find key TOKEN in Secret me/mlflow": "the secret has no key TOKEN",
    'FailedMount: MountVolume.SetUp failed for volume "x" : secret "ca" not found': "the secret ca is missing",
    'pods "a" is forbidden: error looking up service account me/runner: serviceaccount "runner" not found': (
        "the service account runner is missing"
    ),
    'pods "a" is forbidden: exceeded quota: team-a, requested: limits.cpu=4, used: 8, limited: 8': (
        "quota team-a of the namespace is used up"
    ),
    "ImagePullBackOff: Back-off pulling image \"registry.example/lhcnet:1\"": "the image cannot be pulled",
    "ErrImagePull: pull access denied": "the image cannot be pulled",
    "InvalidImageName: Failed to apply default image tag": "the image cannot be pulled",
    "OOMKilled (exit code 137)": "out of memory: raise the memory limit",
    "The node was low on resource: memory.": "its node ran out of memory or disk",
    "Step exceeded its deadline": "ended by a time limit or because the run was terminated",
    "pod deleted": "its pod is gone with its node, or was deleted",
    "Error: container has runAsNonRoot and image will run as root": "the namespace's security policy refuses its pod",
    'pods "a" is forbidden: no': "the cluster does not allow its pod",
    "Multi-Attach error for volume x": "its volume is in use on another node",
}  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_kubernetes_gets_a_meaning(message: str) -> None:
    for state in ("PENDING", "FAILED"):
        text = failed_text(Task("train", state, message))
        assert text.startswith(MESSAGES[message]), text
        assert text.endswith(f"({message})")
    assert failed_text(Task("train", "RUNNING", message)) == ""
    assert failed_text(Task("train", "SUCCEEDED", message)) == ""


def test_an_unknown_message_is_shown_as_it_is_where_a_task_failed() -> None:
    assert failed_text(Task("train", "FAILED", "Error (exit code 1)")) == "Error (exit code 1)"
    assert failed_text(Task("train", "PENDING", "PodInitializing")) == ""
    long = failed_text(Task("train", "FAILED", "x\n" * 4000))
    assert "\n" not in long
    assert len(long) < 400


def test_events_are_asked_where_the_task_says_nothing() -> None:
    asked: list[str] = []

    def events(task: Task) -> str:
        asked.append(task.name)
        return 'FailedMount: configmap "ca" not found'

    assert "the config map ca is missing" in failed_text(Task("a", "PENDING"), events)
    assert "the config map ca is missing" in failed_text(Task("b", "PENDING", "ContainerCreating"), events)
    assert "out of memory" in failed_text(Task("c", "FAILED", "OOMKilled (exit code 137)"), events)
    assert asked == ["a", "b"]


@pytest.mark.parametrize("retried", [False, True])
def test_tasks_of_a_workflow_have_the_names_of_the_pipeline(retried: bool) -> None:
    flow = Workflow(retried=retried).task("prepare", "Skipped").task("train-backbone", "Succeeded", attempts=2)
    first, second = flow.item("for-loop-1", 0), flow.item("for-loop-1", 1)
    flow.task("train", "Running", group=first).task("train", "Failed", "OOMKilled (exit code 137)", group=second)
    flow.driver("select", "Failed", "input parameter seed type mismatch").driver(
        "evaluate", "Pending", "Unschedulable: x"
    )
    found = {task.name: task for task in tasks_of_workflow(flow.manifest())}
    assert {name: task.state for name, task in found.items()} == {
        "prepare": "CACHED",
        "train-backbone": "SUCCEEDED",
        "for-loop-1[0]/train": "RUNNING",
        "for-loop-1[1]/train": "FAILED",
        "select": "FAILED",
        "evaluate": "PENDING",
    }
    assert found["train-backbone"].attempts == 2
    assert found["train-backbone"].pod == flow.pod("train-backbone")
    assert found["for-loop-1[1]/train"].message == "OOMKilled (exit code 137)"
    assert found["select"].message == "input parameter seed type mismatch"
    assert found["prepare"].pod == ""
    assert {task.namespace for task in found.values()} == {"kubeflow"}


def test_compressed_nodes_of_a_large_workflow_are_read() -> None:
    manifest = Workflow().task("prepare", "Succeeded").manifest()
    expected = tasks_of_workflow(manifest)
    packed = gzip.compress(json.dumps(manifest["status"].pop("nodes")).encode())
    manifest["status"]["compressedNodes"] = base64.b64encode(packed).decode()
    assert tasks_of_workflow(manifest) == expected != []


def test_a_task_whose_driver_alone_has_ended_is_not_shown() -> None:
    assert tasks_of_workflow(Workflow().driver("prepare", "Succeeded").manifest()) == []
    assert tasks_of_workflow({"metadata": {"name": "x"}, "status": {"nodes": None}}) == []


def test_names_of_pods_in_their_old_form() -> None:
    flow = Workflow().task("prepare", "Running")
    manifest = flow.manifest()
    manifest["metadata"]["annotations"] = {"workflows.argoproj.io/pod-name-format": "v1"}
    (task,) = tasks_of_workflow(manifest)
    assert task.pod in flow.nodes


@pytest.mark.parametrize(
    ("history", "state"),
    [
        (["PENDING", "RUNNING", "FAILED"], "FAILED"),
        (["PENDING", "RUNNING", "CANCELING", "FAILED"], "CANCELED"),
        (["RUNNING", "CANCELING", "FAILED", "RUNNING", "FAILED"], "FAILED"),
        (["RUNNING", "CANCELED"], "CANCELED"),
        ([], "PENDING"),
    ],
)
def test_a_terminated_run_is_canceled_though_it_failed(history: list[str], state: str) -> None:
    reply = {"run_id": "x", "state": history[-1] if history else "", "state_history": [{"state": s} for s in history]}
    assert Run.of_reply(reply).state == state


def test_attempts_are_no_tasks_of_their_own_in_the_current_api() -> None:
    names = ("root", "root(0)", "prepare-driver(0)", "prepare", "prepare(0)", "executor(0)", "iteration-item(0)")
    details = [{"display_name": name, "state": "SUCCEEDED"} for name in names]
    assert Run.of_reply({"run_details": {"task_details": details}}).tasks == (Task("prepare", "SUCCEEDED"),)


@pytest.mark.parametrize(
    "reply",
    [
        {"state_history": "x", "run_details": [], "plugins_output": 3, "error": "x"},
        {
            "state_history": [1, None],
            "run_details": {"task_details": {"a": 1}},
            "plugins_output": {"a": {"entries": 1}},
        },
        {"run_details": {"task_details": [None, {"display_name": None, "state": 3}]}, "plugins_output": {"a": None}},
    ],
)
def test_parts_of_a_reply_that_have_the_wrong_type_are_left_out(reply: dict[str, Any]) -> None:
    run = Run.of_reply({"run_id": "x", "state": "RUNNING", **reply})
    assert (run.state, run.error, dict(run.links)) == ("RUNNING", "", {})


def test_links_of_plugins_and_the_error_of_a_run() -> None:
    entries = {"run_url": {"value": "https://mlflow/#/runs/1"}, "experiment": {"value": "7"}}
    run = Run.of_reply(
        {
            "run_id": "x",
            "state": "FAILED",
            "state_history": [{"state": "FAILED", "error": {"code": 13, "message": "no nodes"}}],
            "plugins_output": {"mlflow": {"entries": entries}},
            "run_details": {"task_details": [{"display_name": "prepare", "state": "FAILED"}, {"display_name": "root"}]},
        }
    )
    assert (run.error, run.links, run.tasks) == (
        "no nodes",
        {"mlflow": "https://mlflow/#/runs/1"},
        (Task("prepare", "FAILED"),),
    )


def test_a_task_is_found_by_the_end_of_its_name() -> None:
    tasks = [Task("prepare", "CACHED"), Task("a[0]/train", "FAILED", pod="p"), Task("b[0]/train", "PENDING")]
    assert find_task(tasks, "a[0]/train").pod == "p"
    for name, says in (
        ("train", r"several of this name; expected one of a\[0\]/train, b\[0\]/train"),
        ("nope", "none of this name; expected one of prepare, "),
        ("prepare", "from Kubeflow's cache"),
        ("b[0]/train", "has no pod yet"),
    ):
        with pytest.raises(LhcnetError, match=says):
            find_task(tasks, name)
    with pytest.raises(LhcnetError, match="the run has not begun"):
        find_task([], "prepare")
