"""Commands for runs on a cluster: status, wait, logs, terminate, retry, reconcile, check."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from support.argo_workflow import Workflow
from support.kubeflow_server import Handler, KubeflowServer, html, sends

from lhcnet.errors import LhcnetError
from pipeline import record, watch
from pipeline.backend import Backend
from pipeline.connection import Connection

from .conftest import SOURCE, Command

UNSCHEDULABLE = "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu."


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, Any]]]:
    """The calls of `lhcnet.tracking.reconcile.close_execution`, which stands for MLflow here."""
    calls: list[tuple[str, str, dict[str, Any]]] = []

    def close_execution(run: str, status: str, **details: Any) -> SimpleNamespace:
        calls.append((run, status, details))
        return SimpleNamespace(executions=("demo-1-2",), status="KILLED", killed=("train/A",), cached=("prepare",))

    monkeypatch.setattr(record, "close_execution", close_execution)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    return calls


def test_status_shows_tasks_and_reasons(server: KubeflowServer, command: Command) -> None:
    run = server.add_run("RUNNING")
    flow = Workflow().task("prepare", "Skipped").task("train", "Pending", UNSCHEDULABLE)
    server.workflows[run] = flow.manifest()
    assert command("status", run).stdout.splitlines() == [
        f"demo ({run}): RUNNING",
        "  prepare: CACHED",
        f"  train: PENDING: no node has enough free cpu: it waits until there is; lower what the tasks ask for "
        f"({UNSCHEDULABLE})",
        f"Kubeflow: {server.url}/#/runs/details/{run}",
    ]


def test_status_without_the_workflow_shows_the_states_alone(server: KubeflowServer, command: Command) -> None:
    names = ("root", "root-driver", "prepare", "prepare-driver", "executor", "for-loop-1", "iteration-item-driver")
    details = [{"display_name": name, "state": "FAILED"} for name in names]
    run = server.add_run("FAILED", run_details={"task_details": details})
    for fault in (None, html, sends("", 404), sends("{}"), sends('{"pipeline_runtime": {"workflow_manifest": "{"}}')):
        server.faults = {"GET /apis/v1beta1": fault} if fault else {}
        assert command("status", run).stdout.splitlines()[1:-1] == ["  prepare: FAILED", "  for-loop-1: FAILED"]


def test_status_asks_the_user_interface_for_events(command: Command) -> None:
    with KubeflowServer(user_interface=True) as server:
        run = server.add_run("RUNNING")
        flow = Workflow().task("train", "Pending", "ContainerCreating")
        server.workflows[run] = flow.manifest()
        server.events[flow.pod("train")] = [
            {"type": "Normal", "reason": "Scheduled", "message": "assigned"},
            {"type": "Warning", "reason": "FailedMount", "message": 'secret "ca" not found'},
        ]
        shown = command("status", run, "--host", server.url).stdout
        assert "train: PENDING: the secret ca is missing in the namespace" in shown
        server.faults = {"GET /k8s": html}
        assert "  train: PENDING\n" in command("status", run, "--host", server.url).stdout


def test_wait_shows_each_change_once_and_ends_with_the_status(server: KubeflowServer, command: Command) -> None:
    run = server.add_run("PENDING")
    started = Workflow().task("prepare", "Running").manifest()
    waiting = Workflow().task("prepare", "Succeeded").task("train", "Pending", UNSCHEDULABLE).manifest()
    ended = Workflow().task("prepare", "Succeeded").task("train", "Succeeded", attempts=2).manifest()
    server.script[run] = [{}, {}, {"workflow": started, "state": "RUNNING"}, {}, {"workflow": waiting}, {}, {}]
    server.script[run].append({"workflow": ended, "state": "SUCCEEDED"})
    result = command("wait", run)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        "prepare: RUNNING",
        "prepare: SUCCEEDED",
        "train: PENDING: no node has enough free cpu: it waits until there is; lower what the tasks ask for",
        "train: SUCCEEDED, attempt 2",
        "demo",
    ]
    assert lines[-1].endswith("SUCCEEDED")


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (["RUNNING", "SUCCEEDED"], 0),
        (["SKIPPED"], 0),
        (["RUNNING", "FAILED"], 1),
        (["RUNNING", "CANCELING", "CANCELED"], 3),
        (["RUNNING", "CANCELING", "FAILED"], 3),
        (["RUNNING", "PAUSED", "RUNNING", "SUCCEEDED"], 0),
        (["A_NEW_STATE", "SUCCEEDED"], 0),
    ],
)
def test_the_exit_status_of_wait(states: list[str], status: int, server: KubeflowServer, command: Command) -> None:
    run = server.add_run("PENDING")
    server.script[run] = [{"state": state} for state in states]
    assert command("wait", run).exit_code == status


def test_wait_stops_after_its_timeout(server: KubeflowServer, command: Command) -> None:
    run = server.add_run("RUNNING")
    result = command("wait", run, "--timeout", "0.001")
    assert result.exit_code == 4
    assert "still RUNNING after 0.001 s; it goes on without this command" in result.stdout


def test_wait_bears_a_back_end_that_is_away_for_a_while(server: KubeflowServer, command: Command) -> None:
    run = server.add_run("RUNNING")
    looks = [0]

    def away(handler: Handler) -> None:
        looks[0] += 1
        if looks[0] in (2, 3, 5):
            return handler.send(503, "upstream connect error", "text/plain")
        if looks[0] > 5:
            server.runs[run]["state"] = "SUCCEEDED"
        return server.answer(handler)

    server.faults = {f"GET /apis/v2beta1/runs/{run}": away}
    result = command("wait", run)
    assert result.exit_code == 0
    assert result.stdout.count("answered 503: upstream connect error; asking again for up to 600 s") == 2


@pytest.mark.parametrize(
    ("fault", "options", "says"),
    [
        (sends("", 503), ["--patience", "0"], "answered 503"),
        (sends("Unauthorized", 401, "text/plain"), [], "wants credentials (401"),
        (html, [], "a login page"),
        (sends('{"message": "Run not found"}', 404), [], "does not have it (404"),
    ],
)
def test_wait_ends_where_the_back_end_is_lost(
    fault: Any, options: list[str], says: str, server: KubeflowServer, command: Command
) -> None:
    run = server.add_run("RUNNING")
    looks = [0]

    def then_lost(handler: Handler) -> None:
        looks[0] += 1
        (server.answer if looks[0] == 1 else fault)(handler)

    server.faults = {f"GET /apis/v2beta1/runs/{run}": then_lost}
    result = command("wait", run, *options)
    assert result.exit_code == 5
    assert says in result.stdout
    assert result.stdout.endswith("; the run goes on without this command\n")


@pytest.mark.parametrize("user_interface", [False, True])
def test_logs_come_from_the_api_server_or_from_the_user_interface(user_interface: bool, command: Command) -> None:
    with KubeflowServer(user_interface=user_interface) as server:
        run = server.add_run("RUNNING")
        flow = Workflow()
        flow.task("prepare", "Skipped").task("train", "Failed", attempts=2, group=flow.item("for-loop-1", 3))
        server.workflows[run] = flow.manifest()
        server.logs[flow.pod("train")] = "epoch 1\n{not json}\n"
        for name in ("train", "for-loop-1[3]/train"):
            result = command("logs", run, name, "--host", server.url)
            assert (result.exit_code, result.stdout) == (0, "epoch 1\n{not json}\n")
        assert "none of this name" in str(command("logs", run, "nope", "--host", server.url).exception)
        assert "Kubeflow's cache" in str(command("logs", run, "prepare", "--host", server.url).exception)
        server.logs.clear()
        gone = str(command("logs", run, "train", "--host", server.url).exception)
        assert f"hands out no log of pod {flow.pod('train')}, which may be gone" in gone
        assert f"kubectl logs -n kubeflow {flow.pod('train')}" in gone


def test_terminate_ends_the_run_and_closes_its_record(
    server: KubeflowServer, command: Command, closed: list[tuple[str, str, dict[str, Any]]]
) -> None:
    run = server.add_run("RUNNING")
    result = command("terminate", run)
    assert result.exit_code == 0, result.output
    assert [call for call in server.calls() if call.startswith("POST")] == ["POST /apis/v2beta1/runs/ID:terminate"]
    assert result.stdout.splitlines() == [
        f"demo ({run}): CANCELED",
        "demo-1-2: KILLED",
        "  train/A: was still open, closed as KILLED",
        "  prepare: from Kubeflow's cache, entered",
    ]
    link = f"{server.url}/#/runs/details/{run}"
    assert closed == [(run, "CANCELED", {"failed_task": "", "error": "", "links": {"kubeflow": link}})]
    assert command("terminate", run).exit_code == 0  # once more: it has ended, and is closed again
    assert server.calls().count("POST /apis/v2beta1/runs/ID:terminate") == 1
    assert len(closed) == 2


def test_terminate_without_mlflow_terminates_all_the_same(
    server: KubeflowServer, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = server.add_run("RUNNING")
    result = command("terminate", run)
    assert "MLFLOW_TRACKING_URI is not set" in str(result.exception)
    assert server.runs[run]["state"] == "FAILED"
    assert "CANCELED" in result.stdout


def test_a_run_whose_pods_do_not_end_keeps_its_record(
    server: KubeflowServer, command: Command, closed: list[tuple[str, str, dict[str, Any]]]
) -> None:
    run = server.add_run("RUNNING")
    server.faults = {f"POST /apis/v2beta1/runs/{run}:terminate": sends("{}")}
    result = command("terminate", run, "--seconds", "0.05")
    assert "is RUNNING, its record is still written" in str(result.exception)
    assert closed == []


def test_reconcile_hands_the_failed_task_to_the_record(
    server: KubeflowServer, command: Command, closed: list[tuple[str, str, dict[str, Any]]]
) -> None:
    run = server.add_run("FAILED")
    flow = Workflow().task("prepare", "Succeeded").task("train", "Failed", "OOMKilled (exit code 137)")
    server.workflows[run] = flow.manifest()
    assert command("reconcile", run).exit_code == 0
    ((_, status, details),) = closed
    assert (status, details["failed_task"]) == ("FAILED", "train")
    assert (
        details["error"]
        == "out of memory: raise the memory limit of its step, or lower batch_size (OOMKilled (exit code 137))"
    )


def test_reconcile_leaves_a_run_alone_that_goes_on(
    server: KubeflowServer, command: Command, closed: list[tuple[str, str, dict[str, Any]]]
) -> None:
    run = server.add_run("RUNNING")
    assert "expected a run that has ended" in str(command("reconcile", run).exception)
    assert closed == []


def test_retry_repeats_a_failed_run_and_refuses_others(server: KubeflowServer, command: Command) -> None:
    run = server.add_run("FAILED")
    assert "its failed tasks run again" in command("retry", run).stdout
    assert server.runs[run]["state"] == "RUNNING"
    refused = command("retry", run)
    assert isinstance(refused.exception, LhcnetError)
    assert "is RUNNING; expected one that failed or was terminated" in str(refused.exception)
    server.runs[run]["state"] = "FAILED"
    server.faults = {".*:retry": sends('{"message": "workflow cannot be retried", "code": 3}', 400)}
    assert "answered 400: workflow cannot be retried" in str(command("retry", run).exception)


def test_ids_cannot_leave_their_place_in_an_address(server: KubeflowServer) -> None:
    backend = Backend(Connection(server.url))
    with pytest.raises(LhcnetError, match="no Kubeflow Pipelines API at this address"):
        backend.run("../experiments")
    assert server.requests[-1].path == "/apis/v2beta1/runs/..%2Fexperiments"


def test_check_asks_the_endpoint_too(server: KubeflowServer, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[str] = []

    def check_pipeline(config: Any, cluster: Any, *, standalone: bool) -> SimpleNamespace:
        assert config.data.source in (SOURCE, "data/raw.zip")
        lines = [f"{cluster.image} {standalone}", *problems]
        return SimpleNamespace(lines=lambda: lines, problems=tuple(problems), back_end=(2, 16))

    module = ModuleType("pipeline.check")
    module.check_pipeline = check_pipeline  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipeline.check", module)
    options = ["check", "--profile", "demo", "--cluster", "cluster.yaml", "--source", SOURCE]
    result = command(*options)
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        ["registry.example/lhcnet:1.0 False", f"endpoint {server.url}: answers, and its version will do"],
    )
    server.tag = "2.15.0"
    assert "is Kubeflow Pipelines 2.15.0; expected at least 2.16" in str(command(*options).exception)
    server.tag = "unknown"
    assert "does not say its version" in command(*options).stdout
    unreachable = command(*options[:-1], "data/raw.zip")
    assert unreachable.exit_code == 1
    assert (
        "problem: data.source: data/raw.zip is a path on this machine, which a cluster cannot read"
        in unreachable.stdout
    )
    problems.append("problem: x")
    assert command(*options).exit_code == 1


def test_exit_statuses_are_distinct() -> None:
    statuses = [watch.SUCCEEDED, watch.FAILED, watch.CANCELED, watch.TIMED_OUT, watch.LOST]
    assert len({*statuses, 2, 70, 130}) == len(statuses) + 3
