"""Settings of a cluster: validation, defaults by step, and what they become in the compiled pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lhcnet.errors import LhcnetError
from lhcnet.profiles import profile
from pipeline.cluster import STEPS, Cluster, Local, Resources, back_end_needed, load_cluster, step_of
from pipeline.compile import compiled


def cluster(**values: Any) -> Cluster:
    return Cluster.model_validate(values, strict=False)


def tasks(settings: Cluster, name: str = "paper") -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """(container, settings for Kubernetes) of each executor."""
    ir, platform = compiled(profile(name), settings)
    kubernetes = (platform or {}).get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {})
    return {
        label.removeprefix("exec-"): (executor["container"], kubernetes.get("executors", {}).get(label, {}))
        for label, executor in ir["deploymentSpec"]["executors"].items()
        if "container" in executor
    }


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpuss: 1\n", "gpuss: unknown key"),
        ("resources: {training: {memory: 1G}}\n", "resources.training"),
        ("resources: {train: {memory: 1GB}}\n", "resources.train.memory"),
        ("resources: {train: {cpu: '1', cpu_request: '2'}}\n", "cpu_request: 2 is more than the limit cpu: 1"),
        ("time_limits: {train: 12}\n", "time_limits.train"),
        ("time_limits: {train: 12 hours}\n", "time_limits.train"),
        ("retry_window: ''\n", "retry_window"),
        ("run_as_user: -1\n", "run_as_user"),
        ("pull_secrets: [Registry]\n", "pull_secrets.0"),
        ("node_affinity: {zone: []}\n", "node_affinity.zone"),
        ("budget: 0\n", "budget"),
        ("env: {LHCNET_KUBEFLOW_RUN: x}\n", "LHCNET_KUBEFLOW_RUN is set by the pipeline itself"),
    ],
)
def test_wrong_settings_are_refused_by_name(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(LhcnetError) as error:
        load_cluster(file)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "cpu", "memory", "cpu_request", "memory_request"),
    [
        ({}, "2", "8Gi", "1", "2Gi"),
        ({"memory": "32G"}, "2", "32G", "1", "2Gi"),
        ({"memory": "1G", "cpu": "500m"}, "500m", "1G", "500m", "1G"),  # a request is never above the limit
        ({"memory_request": "16G", "cpu_request": "3"}, "3", "16G", "3", "16G"),
    ],
)
def test_resources_are_the_settings_over_the_defaults(
    given: dict[str, str], cpu: str, memory: str, cpu_request: str, memory_request: str
) -> None:
    expected = Resources(cpu=cpu, memory=memory, cpu_request=cpu_request, memory_request=memory_request)
    assert cluster(resources={"train": given}).resources_of("train") == expected


def test_every_component_belongs_to_a_step() -> None:
    assert {step_of(name) for name in ("train", "train-2", "train_backbone", "train_standalone", "train-best")} == {
        "train"
    }
    assert {step_of(name) for name in ("insert_lhc", "insert-best-2")} == {"insert"}
    assert step_of("compare-standalone") == "compare_standalone"
    assert [step_of(step) for step in STEPS] == list(STEPS)
    with pytest.raises(ValueError, match="no step of this name"):
        step_of("trai")


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 8, 25, 100])
@pytest.mark.parametrize(("a", "other"), [(10, 15), (1, 1), (1, 15), (15, 1)])
def test_loops_that_run_at_the_same_time_share_the_budget(budget: int, a: int, other: int) -> None:
    shares = Cluster(budget=budget).shares(a, other)
    assert min(shares) >= 1
    assert sum(shares) == max(2, budget)


def test_each_task_asks_for_what_its_step_needs() -> None:
    found = tasks(cluster(gpus=2, resources={"prepare": {"memory": "3Gi"}}))
    assert found["prepare"][0]["resources"]["resourceMemoryLimit"] == "3Gi"
    assert found["select"][0]["resources"]["resourceMemoryRequest"] == "512Mi"
    assert found["compare"][0]["resources"]["resourceMemoryRequest"] == "1Gi"
    assert found["train-backbone"][0]["resources"]["resourceMemoryLimit"] == "8Gi"
    assert found["train-backbone"][0]["resources"]["resourceCpuRequest"] == "1"
    assert found["evaluate"][0]["resources"]["accelerator"]["resourceCount"] == "2"


def test_a_task_writes_to_one_folder_without_a_volume_and_to_the_volume_with_one() -> None:
    for container, kubernetes in tasks(cluster(env={"HOME": "/home/me"})).values():
        names = environment(container)
        assert names["HOME"] == "/home/me"  # the user's own value counts
        assert names["TMPDIR"] == "/scratch"
        assert names["LHCNET_JOURNAL"] == "/scratch/journal"
        assert names["LHCNET_CHECKPOINTS"] == "/scratch/checkpoints"
        assert kubernetes["emptyDirMounts"] == [{"volumeName": "scratch", "mountPath": "/scratch"}]
        assert kubernetes["fieldPathAsEnv"] == [
            {"name": "LHCNET_KUBEFLOW_RUN", "fieldPath": "metadata.labels['pipeline/runid']"}
        ]
        assert "pvcMount" not in kubernetes
    for container, kubernetes in tasks(cluster(checkpoints="unfinished")).values():
        names = environment(container)
        assert (names["HOME"], names["TMPDIR"]) == ("/scratch", "/scratch")
        assert (names["LHCNET_JOURNAL"], names["LHCNET_CHECKPOINTS"]) == ("/checkpoints/journal", "/checkpoints")
        assert kubernetes["pvcMount"][0]["mountPath"] == "/checkpoints"


def test_the_local_runner_gets_neither_volumes_nor_resources() -> None:
    ir, platform = compiled(profile("demo"), Local(deadline="1h", time_limits={"train": "1m"}, run_as_user=1))
    assert platform is None
    for executor in ir["deploymentSpec"]["executors"].values():
        if "container" in executor:
            assert "resources" not in executor["container"]
            assert {"HOME", "TMPDIR", "LHCNET_KUBEFLOW_RUN"} & set(environment(executor["container"])) == set()


def test_a_training_is_told_its_time_limit_and_its_pod_has_a_later_one() -> None:
    found = tasks(cluster(time_limits={"train": "12h", "prepare": "30m"}))
    assert environment(found["train"][0])["LHCNET_TIME_LIMIT"] == "43200"
    assert found["train"][1]["activeDeadlineSeconds"] == str(43200 + 3600)  # and moving the models
    assert found["prepare"][1]["activeDeadlineSeconds"] == "1800"
    assert "LHCNET_TIME_LIMIT" not in environment(found["prepare"][0])
    assert "activeDeadlineSeconds" not in found["evaluate"][1]


def test_retries_go_on_longer_than_an_hour_after_the_first_attempt() -> None:
    ir, _ = compiled(profile("paper"), cluster(retries=3, retry_window="20d"))
    groups = [ir["root"], *(component for component in ir["components"].values() if "dag" in component)]
    policies = [
        task["retryPolicy"] for group in groups for task in group["dag"]["tasks"].values() if "retryPolicy" in task
    ]
    assert len(policies) >= 12
    assert {policy["backoffMaxDuration"] for policy in policies} == {f"{20 * 86400}s"}
    assert {policy["maxRetryCount"] for policy in policies} == {3}


def test_the_deadline_is_one_of_the_whole_run() -> None:
    _, platform = compiled(profile("demo"), cluster(deadline="2d"))
    assert platform is not None
    assert platform["platforms"]["kubernetes"]["pipelineConfig"] == {"activeDeadlineSeconds": 2 * 86400}


def test_identity_and_placement() -> None:
    found = tasks(
        cluster(
            run_as_user=1234,
            run_as_group=0,
            pull_secrets=["registry"],
            labels={"kueue.x-k8s.io/queue-name": "gpus"},
            node_affinity={"zone": ["a", "b"], "arch": ["amd64"]},
            node_selector={"pool": "gpu"},
            shm="1Gi",
        )
    )
    for name, (_, kubernetes) in found.items():
        assert kubernetes["securityContext"] == {"runAsUser": "1234", "runAsGroup": "0", "runAsNonRoot": True}
        assert kubernetes["imagePullSecret"][0]["secretName"] == "registry"
        assert kubernetes["podMetadata"] == {"labels": {"kueue.x-k8s.io/queue-name": "gpus"}}
        (term,) = kubernetes["nodeAffinity"]  # one term: all of its expressions must hold
        assert [one["key"] for one in term["matchExpressions"]] == ["zone", "arch"]
        on_gpu = name.startswith(("train", "control", "evaluate", "analyse"))
        assert ("nodeSelector" in kubernetes) == on_gpu, name
        shm = {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "1Gi"}
        assert (shm in kubernetes["emptyDirMounts"]) == on_gpu, name
    assert "runAsNonRoot" not in tasks(cluster(run_as_user=0))["prepare"][1]["securityContext"]


@pytest.mark.parametrize(
    ("values", "version"), [({}, (2, 14)), ({"run_as_group": 0}, (2, 16)), ({"deadline": "1h"}, (2, 17))]
)
def test_the_oldest_back_end_follows_from_the_settings(values: dict[str, Any], version: tuple[int, int]) -> None:
    assert back_end_needed(cluster(**values)) == version


def test_a_variable_with_a_value_is_no_key_of_the_secret_too() -> None:
    settings = cluster(secret="lhcnet", env={"AWS_ENDPOINT_URL": "http://store:9000"})
    for container, kubernetes in tasks(settings, "demo").values():
        keys = {key["envVar"] for secret in kubernetes["secretAsEnv"] for key in secret["keyToEnv"]}
        assert "AWS_SECRET_ACCESS_KEY" in keys
        assert not keys & set(environment(container))  # Kubernetes refuses such a pod
