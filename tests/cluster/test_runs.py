"""Runs of the pipeline as pods on a real Kubeflow back end, and what happens to them."""

from __future__ import annotations

import os
import random
import subprocess

import pytest
from support.real_cluster import LONG, RealCluster, upload

from lhcnet.profiles import profile

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2 * LONG)]

STAGE1 = "train-backbone"
STAGE1_RUN = "backbone stage 1"
SET_A = "for-loop-2[0]/train-3"  # training of the first seed of set A


def new_seed() -> str:
    """A setting that Kubeflow's cache has no training for; preparation may come from the cache."""
    return f"seeds.backbone={random.randrange(1, 10**6)}"


def changes(*settings: str) -> list[str]:
    """Options of `submit` for settings."""
    return [word for setting in settings for word in ("--set", setting)]


def test_the_demo_from_submission_to_registry(cluster: RealCluster, demo: str) -> None:
    shown = cluster.lhcnet("status", demo).stdout
    assert ": SUCCEEDED" in shown.splitlines()[0]
    assert "FAILED" not in shown
    record = cluster.record(demo)
    assert record.parent.info.status == "FINISHED"
    assert set(record.statuses().values()) == {"FINISHED"}
    config = profile("demo")
    for name in (
        *("prepare", "select B", "select ABC", "evaluate", "analyse", "compare", "register"),
        *(STAGE1_RUN, "backbone stage 3"),
        *(f"A seed {seed}" for seed in config.seeds.a),
        *(f"B {variant}" for variant in config.variants),
    ):
        assert name in record.steps
    assert len([name for name in record.steps if name.startswith("C ")]) == len(config.seeds.c)
    assert record.parent.data.metrics["chosen/test_accuracy"] > 1 / 7
    champion = cluster.mlflow.get_model_version_by_alias(config.registry.model, "champion")
    chosen = next(run for run in record.steps.values() if run.info.run_id == champion.run_id)
    assert chosen.data.tags["weights"] == champion.tags["weights"]


def test_the_source_is_read_from_a_bucket_that_is_not_the_pipeline_roots(cluster: RealCluster, demo: str) -> None:
    found = cluster.record(demo).steps["prepare"].data.params
    assert found["data.source"] == cluster.source
    assert found["data.source_version"].startswith("etag:")


def test_a_pod_deleted_in_mid_training_resumes_in_the_next(with_pods: RealCluster) -> None:
    cluster = with_pods
    run_id = cluster.submit(*changes(new_seed(), "checkpoints.seconds=1", "stage1.epochs=30", "stage1.patience=30"))
    first = cluster.wait_for_log(run_id, STAGE1, "epoch 3:")
    cluster.kubectl("delete", "pod", first.pod, "--grace-period=0", "--force")
    cluster.wait_for_log(run_id, STAGE1, "resuming at epoch")
    cluster.wait_for_task(run_id, STAGE1, ["SUCCEEDED"])
    record = cluster.record(run_id)
    last, dead = record.steps[STAGE1_RUN], record.steps[f"{STAGE1_RUN} (attempt 1)"]
    assert (dead.info.status, last.info.status) == ("KILLED", "FINISHED")
    assert last.data.tags["continues"] == dead.info.run_id
    assert dead.data.tags["continued_by"] == last.info.run_id
    assert cluster.points(last, "epoch/val_accuracy") == list(range(len(cluster.points(last, "epoch/val_accuracy"))))
    cluster.end(run_id)


def test_a_second_submission_takes_all_from_the_cache_and_has_a_record_of_its_own(
    cluster: RealCluster, demo: str
) -> None:
    run_id = cluster.submit()
    assert cluster.lhcnet("wait", run_id).returncode == 0
    states = {name: task.state for name, task in cluster.tasks(run_id).items()}
    ran = {name.rpartition("/")[2] for name, state in states.items() if state != "CACHED"}
    assert ran == {"register", "finish"}
    first, second = cluster.record(demo), cluster.record(run_id)
    assert second.parent.info.run_id != first.parent.info.run_id
    assert second.parent.info.status == "FINISHED"
    assert set(second.steps) == set(first.steps)
    for name, run in second.steps.items():
        if name != "register":
            assert run.data.tags["cached"] == "true"
            assert run.data.tags["original_run"] == first.steps[name].info.run_id
    name = "A seed 0"
    assert second.steps[name].data.metrics["epoch/val_accuracy"] == first.steps[name].data.metrics["epoch/val_accuracy"]


def test_two_runs_at_once_with_the_same_settings_have_two_records(cluster: RealCluster) -> None:
    seed = new_seed()
    runs = [cluster.submit(*changes(seed, "stage1.epochs=4")) for _ in range(2)]
    for run_id in runs:
        cluster.wait_for_task(run_id, STAGE1, ["SUCCEEDED"])
    records = [cluster.record_with(run_id, STAGE1_RUN) for run_id in runs]
    assert records[0].parent.info.run_id != records[1].parent.info.run_id
    for record in records:
        assert record.parent.info.status == "RUNNING"
        assert record.steps[STAGE1_RUN].info.status == "FINISHED"
        assert cluster.points(record.steps[STAGE1_RUN], "epoch/val_accuracy") == [0, 1, 2, 3, 4]  # 0: before the first
    for run_id in runs:
        cluster.end(run_id)


def test_a_terminated_run_is_closed_in_the_record(with_pods: RealCluster) -> None:
    cluster = with_pods
    run_id = cluster.submit(*changes(new_seed(), "stage1.epochs=100", "stage1.patience=100"))
    cluster.wait_for_log(run_id, STAGE1, "epoch 1:")
    early = cluster.lhcnet("reconcile", run_id)
    assert early.returncode == 1
    assert "its record is still written" in early.stderr

    without = cluster.lhcnet("terminate", run_id, record=False)
    assert without.returncode == 1
    assert "lhcnet pipeline reconcile" in without.stderr
    assert cluster.lhcnet("wait", run_id).returncode == 3
    for _ in range(2):  # twice changes nothing
        assert cluster.lhcnet("reconcile", run_id).returncode == 0
        record = cluster.record(run_id)
        assert record.parent.info.status == "KILLED"
        assert record.steps[STAGE1_RUN].info.status == "KILLED"
        assert record.parent.data.tags["kubeflow"].endswith(run_id)


def test_a_seed_that_dies_for_good_fails_only_itself(with_pods: RealCluster, demo: str) -> None:
    cluster, new = with_pods, random.randrange(100, 10**6)
    run_id = cluster.submit(*changes(f"seeds.a=[{new}, 0]"))  # all other models come from the demo, through the cache
    pod = cluster.wait_for_log(run_id, SET_A, f"A/seed-{new}: ").pod
    assert len(cluster.kill_training(pod, times=2)) == 2  # the training, and its repetition
    assert cluster.lhcnet("wait", run_id).returncode == 0
    log = cluster.log(run_id, SET_A)
    assert "it is repeated once, from its checkpoint" in log
    assert f"A/seed-{new}: crashed (its process ended with signal SIGKILL); it has no weights" in log
    assert f"1 of 6 models are missing: A/seed-{new}" in " ".join(cluster.log(run_id, "select").split())
    record = cluster.record(run_id)
    lost = record.steps[f"A seed {new}"]
    assert (lost.info.status, lost.data.tags["status"]) == ("FAILED", "crashed")
    assert record.parent.info.status == "FINISHED"
    assert record.steps["A seed 0"].data.tags["cached"] == "true"
    again = cluster.submit(*changes(f"seeds.a=[{new}, 0]"))  # the lost training alone is repeated
    assert cluster.wait_for_task(again, SET_A, ["SUCCEEDED", "CACHED"]).state == "SUCCEEDED"
    assert cluster.lhcnet("wait", again).returncode == 0
    assert cluster.tasks(again)[SET_A.replace("[0]", "[1]")].state == "CACHED"
    assert cluster.record(again).steps[f"A seed {new}"].data.tags["status"] == "trained"


def test_a_failed_run_is_repeated_from_where_it_failed(with_pods: RealCluster) -> None:
    cluster = with_pods
    run_id = cluster.submit(*changes(new_seed(), "checkpoints.seconds=1", "stage1.epochs=30", "stage1.patience=30"))
    pod = cluster.wait_for_log(run_id, STAGE1, "epoch 2:").pod
    assert cluster.kill_training(pod, step=True)
    assert cluster.lhcnet("wait", run_id).returncode == 1
    failed = cluster.record(run_id)
    assert failed.parent.info.status == "FAILED"
    assert failed.parent.data.tags["failed_task"] == STAGE1_RUN
    prepared = cluster.tasks(run_id)["prepare"]
    assert cluster.lhcnet("retry", run_id).returncode == 0
    cluster.wait_for_log(run_id, STAGE1, "resuming at epoch")
    cluster.wait_for_task(run_id, STAGE1, ["SUCCEEDED"])
    assert cluster.tasks(run_id)["prepare"] == prepared
    record = cluster.record_with(run_id, STAGE1_RUN)
    assert record.parent.info.status == "RUNNING"
    assert record.steps[f"{STAGE1_RUN} (attempt 1)"].info.status == "KILLED"
    assert record.steps[STAGE1_RUN].info.status == "FINISHED"
    cluster.end(run_id)


def test_mlflow_away_and_back_loses_no_record(with_pods: RealCluster) -> None:
    cluster = with_pods
    stop, start = (os.environ.get(f"LHCNET_CLUSTER_MLFLOW_{name}") for name in ("STOP", "START"))
    if not (stop and start):
        pytest.skip("NOT TESTED ON A REAL BACK END: expected LHCNET_CLUSTER_MLFLOW_STOP and _START (shell commands)")
    epochs = 12
    run_id = cluster.submit(*changes(new_seed(), f"stage1.epochs={epochs}", f"stage1.patience={epochs}"))
    cluster.wait_for_log(run_id, STAGE1, "epoch 1:")
    subprocess.run(stop, shell=True, check=True, timeout=300)
    try:
        cluster.wait_for_task(run_id, STAGE1, ["SUCCEEDED"])
    finally:
        subprocess.run(start, shell=True, check=True, timeout=300)
    cluster.wait_for_task(run_id, "train", ["SUCCEEDED"])  # stage 2 brings what stage 1 could not write
    record = cluster.record_with(run_id, STAGE1_RUN)
    assert record.steps[STAGE1_RUN].info.status == "FINISHED"
    assert cluster.points(record.steps[STAGE1_RUN], "epoch/val_accuracy") == list(range(epochs + 1))
    cluster.end(run_id)


def test_other_bytes_under_the_same_address_are_not_taken_from_the_cache(cluster: RealCluster) -> None:
    name = f"changing-{random.randrange(10**9)}.zip"
    states = []
    for seed in (1, 2, 1):
        source = upload(cluster.folder, name, 400, seed)
        run_id = cluster.submit(source=source)
        states.append(cluster.wait_for_task(run_id, "prepare", ["SUCCEEDED", "CACHED"]).state)
        cluster.end(run_id)
    assert states == ["SUCCEEDED", "SUCCEEDED", "CACHED"]


def test_the_stand_alone_pipeline(cluster: RealCluster) -> None:
    run_id = cluster.submit("--standalone", *changes("stage1.epochs=2", "stage2.epochs=1"))
    assert cluster.lhcnet("wait", run_id).returncode == 0
    record = cluster.record(run_id)
    assert record.parent.info.status == "FINISHED"
    assert set(record.statuses().values()) == {"FINISHED"}
    assert "compare-standalone" in record.steps
