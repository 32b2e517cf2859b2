"""The record of runs in Kubeflow: its name, attempts, injected runs, the cache, the end. A real sqlite store."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Run

from lhcnet import steps
from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from lhcnet.tracking.delivery import deliver
from lhcnet.tracking.folder import pending_journals
from lhcnet.tracking.handover import hand_over_journals, take_over_journals
from lhcnet.tracking.journal import Execution, journal_root, journaled
from lhcnet.tracking.lost import lost_trainings
from lhcnet.tracking.mlflow_runs import KEY
from lhcnet.tracking.reconcile import close_execution, mlflow_status
from lhcnet.tracking.replay import replay
from lhcnet.tracking.source import NOTE
from lhcnet.tracking.store import open_client
from lhcnet.training.checkpoint import Preempted

RUN, OTHER_RUN = "aaaaaaaa-1111-2222-3333-444444444444", "bbbbbbbb-1111-2222-3333-444444444444"
DATA = "d" * 64
STEP, NAME = "train/A/seed-0", "A seed 0"  # and the name of its run


@pytest.fixture
def in_pod(tracking: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the environment of a task of a Kubeflow run."""

    def enter(run: str = RUN, pod: str = "pod-1") -> None:
        monkeypatch.setenv("LHCNET_EXECUTION", "demo-1234")
        monkeypatch.setenv("LHCNET_KUBEFLOW_RUN", run)
        monkeypatch.setenv("KFP_POD_NAME", pod)

    enter()
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")  # no writer process
    monkeypatch.setattr(sys.modules["lhcnet.steps.finish"], "deliver", deliver)  # in this process
    return enter


def one_step(step: str = STEP, epochs: int = 3, **tags: object) -> None:
    """A step that ends, and whose record is written."""
    with journaled(Execution(steps.execution_name_of_task(), DATA), step, tags={"set": "A"}) as run:
        run.params({"threads": os.environ.get("THREADS", "1")})
        for epoch in range(epochs):
            run.metrics({"val_accuracy": 0.1 * epoch}, step=epoch)
        run.tags(tags)
    write()


def kill_a_step() -> None:
    """A process logs two epochs of the step and is then killed, as a pod is."""
    child = os.fork()
    if child == 0:
        with journaled(Execution(steps.execution_name_of_task(), DATA), STEP, tags={"set": "A"}) as run:
            run.params({"threads": "1"})
            for epoch in range(2):
                run.metrics({"val_accuracy": 0.1 * epoch}, step=epoch)
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def preempted_step() -> None:
    """A training that SIGTERM ends after an epoch."""
    with journaled(Execution(steps.execution_name_of_task(), DATA), STEP, tags={"set": "A"}) as run:
        run.metrics({"val_accuracy": 0.1}, step=0)
        raise Preempted


def write() -> None:
    """What the writer process does, in this process."""
    assert [one.lacking for one in replay(journal_root()) if one.lacking] == []


def all_runs() -> list[Run]:
    client, experiment = open_client()
    return list(client.search_runs([experiment]))


def recorded() -> dict[str, Run]:
    """Name in MLflow -> run."""
    return {run.info.run_name: run for run in all_runs()}


def steps_of(run: str) -> dict[str, Run]:
    """Step -> run, of the execution of a Kubeflow run."""
    prefix = f"demo-1234-{run[:8]}-dddddddd"
    keys = {run.data.tags[KEY]: run for run in all_runs()}
    return {key.removeprefix(prefix): found for key, found in keys.items() if key.startswith(prefix)}


def history(run: Run) -> list[tuple[int, float]]:
    points = open_client()[0].get_metric_history(run.info.run_id, "val_accuracy")
    return [(point.step, point.value) for point in points]


def test_two_runs_of_the_same_settings_have_two_records(in_pod: Callable[..., None]) -> None:
    for run in (RUN, OTHER_RUN):
        in_pod(run, f"pod-of-{run[0]}")
        one_step()
    for run in (RUN, OTHER_RUN):
        found = steps_of(run)
        assert set(found) == {"", f"/{STEP}"}
        assert found[""].data.tags["kubeflow_run"] == run
        child = found[f"/{STEP}"]
        assert child.data.tags["mlflow.parentRunId"] == found[""].info.run_id
        assert (child.data.tags["kubeflow_run"], child.data.tags["pod"]) == (run, f"pod-of-{run[0]}")


def test_outside_of_kubeflow_the_execution_has_the_name_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LHCNET_KUBEFLOW_RUN", raising=False)
    monkeypatch.setenv("LHCNET_EXECUTION", "demo-1234")
    assert steps.execution_name_of_task() == "demo-1234"


def test_a_pod_without_an_address_of_mlflow_is_an_error_before_the_work(
    in_pod: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Config
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    settings = {"compute": tiny.compute.to_dict(), "checkpoints": tiny.checkpoints.to_dict()}
    with pytest.raises(LhcnetError, match=r"MLFLOW_TRACKING_URI is not set in this pod.* expected the address"):
        steps.RunContext.of_task(settings)
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)  # the back end injects the run
    assert steps.RunContext.of_task(settings).execution == "demo-1234-aaaaaaaa"


@pytest.mark.parametrize("journal_survives", [True, False])
def test_a_new_attempt_closes_the_dead_one_and_continues_it(
    journal_survives: bool, in_pod: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if journal_survives:  # on the volume, not written by its dead pod
        kill_a_step()
        assert len(pending_journals(journal_root())) == 1
    else:  # the pod's own disk is gone, and MLflow has what was written until then
        client, experiment = open_client()
        key = "demo-1234-aaaaaaaa-dddddddd"
        parent = client.create_run(experiment, tags={KEY: key, "kubeflow_run": RUN}).info.run_id
        tags = {KEY: f"{key}/{STEP}", "lhcnet.journal": "n00000001-20200101-000000-x-00000000"}
        dead = client.create_run(experiment, tags=tags | {"mlflow.parentRunId": parent}, run_name=STEP)
        client.log_metric(dead.info.run_id, "val_accuracy", 0.0, step=0)
        client.log_metric(dead.info.run_id, "val_accuracy", 0.1, step=1)
    in_pod(RUN, "pod-2")
    one_step()
    found = recorded()
    dead_run, new = found[f"{NAME} (attempt 1)"], found[NAME]
    assert (dead_run.info.status, new.info.status) == ("KILLED", "FINISHED")
    assert new.data.tags["continues"] == dead_run.info.run_id
    assert dead_run.data.tags["continued_by"] == new.info.run_id
    assert (new.data.tags["attempt"], new.data.tags["pod"]) == ("2", "pod-2")
    assert [step for step, _ in history(dead_run)] == [0, 1]
    assert [step for step, _ in history(new)] == [0, 1, 2]
    with journaled(Execution(steps.execution_name_of_task(), DATA), "select/A", tags={}) as run:
        run.other(STEP, {"kept": True})
    write()
    assert recorded()[NAME].data.tags["kept"] == "True"  # what is added reaches the last attempt
    assert steps_of(RUN)[""].info.status == "RUNNING"  # a killed attempt does not end the run


def test_an_attempt_that_sigterm_ended_is_killed_not_failed(in_pod: Callable[..., None]) -> None:
    with pytest.raises(Preempted):
        preempted_step()
    write()
    assert recorded()[NAME].info.status == "KILLED"
    one_step()
    found = recorded()
    assert found[f"{NAME} (attempt 1)"].info.status == "KILLED"
    assert found[NAME].data.tags["continues"] == found[f"{NAME} (attempt 1)"].info.run_id


def test_a_third_attempt_continues_the_second(in_pod: Callable[..., None]) -> None:
    for _ in range(2):
        kill_a_step()
    one_step()
    found = recorded()
    names = [f"{NAME} (attempt 1)", f"{NAME} (attempt 2)", NAME]
    assert [found[name].info.status for name in names] == ["KILLED", "KILLED", "FINISHED"]
    assert found[NAME].data.tags["continues"] == found[names[1]].info.run_id
    assert found[names[1]].data.tags["continues"] == found[names[0]].info.run_id


def test_an_injected_run_has_the_points_of_each_epoch_once(
    in_pod: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The back end gives each attempt the same run; the second resumes, and logs the earlier epochs again."""
    client, experiment = open_client()
    injected = client.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", injected)
    kill_a_step()
    monkeypatch.setenv("THREADS", "2")  # a parameter that differs is not an error
    one_step(epochs=4)
    run = client.get_run(injected)
    assert history(run) == [(epoch, pytest.approx(0.1 * epoch)) for epoch in range(4)]
    assert run.info.status == "RUNNING"
    assert run.data.params["threads"] == "1"


def test_the_end_closes_what_is_open_and_names_the_failed_task(in_pod: Callable[..., None]) -> None:
    kill_a_step()
    links = {"kubeflow": "https://kubeflow.example/runs/1"}
    for _ in range(2):
        steps.finish("FAILED", failed_task="train-2", error="exit status 1", links=links)
        found = steps_of(RUN)
        assert found[f"/{STEP}"].info.status == "KILLED"
        parent = found[""]
        assert parent.info.status == "FAILED"
        tags = parent.data.tags
        assert (tags["failed_task"], tags["error"], tags["kubeflow"]) == ("train-2", "exit status 1", links["kubeflow"])
        assert "train-2" in tags["mlflow.note.content"]
    assert pending_journals(journal_root()) == []
    one_step()  # `lhcnet pipeline retry`
    assert steps_of(RUN)[""].info.status == "RUNNING"
    steps.finish("SUCCEEDED")
    parent = steps_of(RUN)[""]
    assert parent.info.status == "FINISHED"
    assert "failed_task" not in parent.data.tags
    assert "failed" not in parent.data.tags["mlflow.note.content"]


def test_a_record_is_closed_from_outside_by_the_id_of_the_run(in_pod: Callable[..., None]) -> None:
    client, experiment = open_client()
    key = "demo-1234-aaaaaaaa-dddddddd"
    parent = client.create_run(experiment, tags={KEY: key, "kubeflow_run": RUN}).info.run_id
    open_step = client.create_run(experiment, tags={"mlflow.parentRunId": parent}, run_name=STEP).info.run_id
    other = client.create_run(experiment, tags={KEY: "x", "kubeflow_run": OTHER_RUN}).info.run_id
    closed = close_execution(RUN, "CANCELED")
    assert (closed.executions, closed.status, closed.killed) == ((key,), "KILLED", (STEP,))
    assert close_execution(RUN, "FAILED").status == "KILLED"  # what Kubeflow says of a terminated run
    assert [client.get_run(id_).info.status for id_ in (parent, open_step, other)] == ["KILLED", "KILLED", "RUNNING"]
    assert close_execution("cccccccc", "FAILED").executions == ()
    words = {
        "SUCCEEDED": "FINISHED",
        "Cancelled": "KILLED",
        "FAILED": "FAILED",
        "SKIPPED": "FAILED",
        "UNKNOWN": "UNKNOWN",
    }
    assert {word: mlflow_status(word) for word in words} == words


def test_a_terminated_run_names_no_failed_task(in_pod: Callable[..., None]) -> None:
    one_step()
    steps.finish("FAILED", failed_task="train", error="Step exceeded its deadline")  # what its exit handler is told
    close_execution(RUN, "CANCELED")
    tags = steps_of(RUN)[""].data.tags
    assert steps_of(RUN)[""].info.status == "KILLED"
    assert "failed_task" not in tags
    assert "error" not in tags


def test_where_kubeflow_knows_no_status_the_record_decides(in_pod: Callable[..., None]) -> None:
    one_step("prepare", epochs=0)
    with pytest.raises(ZeroDivisionError), journaled(Execution("demo-1234-aaaaaaaa", DATA), "evaluate", tags={}):
        raise ZeroDivisionError
    with (
        pytest.raises(ZeroDivisionError),
        journaled(Execution("demo-1234-aaaaaaaa", DATA), "train/B/x", tags={"status": "crashed"}),
    ):
        raise ZeroDivisionError
    steps.finish("UNKNOWN")
    parent = steps_of(RUN)[""]
    assert (parent.info.status, parent.data.tags["failed_task"]) == ("FAILED", "evaluate")
    with journaled(Execution("demo-1234-aaaaaaaa", DATA), "register", tags={}) as run:
        run.end_parent()
    steps.finish("UNKNOWN")
    parent = steps_of(RUN)[""]
    assert (parent.info.status, "failed_task" in parent.data.tags) == ("FINISHED", False)


def test_an_mlflow_that_is_away_does_not_fail_the_exit_handler(
    in_pod: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "1")
    steps.finish("SUCCEEDED")
    assert "`lhcnet pipeline reconcile` closes it" in caplog.text


def test_steps_from_the_cache_are_entered_with_the_original_and_its_metrics(in_pod: Callable[..., None]) -> None:
    one_step("prepare", epochs=0)
    one_step(STEP)
    one_step("select/A", epochs=0, chosen="A/seed-0")
    steps.finish("SUCCEEDED")
    originals = steps_of(RUN)
    in_pod(OTHER_RUN)
    one_step("register", epochs=0)
    for _ in range(2):
        steps.finish("SUCCEEDED")
        found = steps_of(OTHER_RUN)
        assert set(found) == {"", "/prepare", f"/{STEP}", "/select/A", "/register"}
    assert "cached" not in found["/register"].data.tags
    cached, original = found[f"/{STEP}"], originals[f"/{STEP}"]
    assert cached.data.tags["cached"] == "true"
    assert cached.data.tags["original_run"] == original.info.run_id
    assert original.info.run_id in cached.data.tags["mlflow.note.content"]
    assert (cached.data.metrics, cached.data.params) == (original.data.metrics, original.data.params)
    assert cached.data.tags["mlflow.parentRunId"] == found[""].info.run_id
    third = "cccccccc-1111"
    in_pod(third)  # everything is from the cache, of a run that had it from the cache
    steps.finish("SUCCEEDED")
    again = steps_of(third)
    assert again[f"/{STEP}"].data.tags["original_run"] == original.info.run_id
    assert again[""].info.status == "FINISHED"


def test_what_cached_steps_gave_to_the_execution_is_taken_over(in_pod: Callable[..., None]) -> None:
    """Parameters, figures and the note of `compare`; the links are the run's own."""
    with journaled(Execution(steps.execution_name_of_task(), DATA), "compare", tags={}) as run:
        run.parent().params({"data": {"source": "faces.zip"}})
        run.parent().metrics({"summary/difference": 0.01, "chosen/test_accuracy": 0.7})
        run.parent().tags({"chosen": "C/seed-1", NOTE: "- chosen: C/seed-1"})
    write()
    steps.finish("SUCCEEDED", links={"Kubeflow": "http://kfp.example/1"})
    for run_id in (OTHER_RUN, "cccccccc-1111"):
        in_pod(run_id)
        one_step("register", epochs=0)
        for _ in range(2):
            steps.finish("SUCCEEDED", links={"Kubeflow": "http://kfp.example/2"})
            parent = steps_of(run_id)[""]
            assert parent.data.params == {"data.source": "faces.zip"}
            assert parent.data.metrics["summary/difference"] == 0.01
            assert parent.data.metrics["chosen/test_accuracy"] == 0.7
            assert parent.data.tags["chosen"] == "C/seed-1"
            assert parent.data.tags[NOTE] == "- chosen: C/seed-1\n\n[Kubeflow](http://kfp.example/2)"


def test_trainings_that_a_select_did_not_use_are_not_of_this_run(in_pod: Callable[..., None]) -> None:
    one_step(STEP)
    one_step("prepare", epochs=0)
    steps.finish("SUCCEEDED")
    in_pod(OTHER_RUN)
    one_step("select/A", epochs=0)  # it ran here, with other seeds
    steps.finish("SUCCEEDED")
    assert set(steps_of(OTHER_RUN)) == {"", "/prepare", "/select/A"}


def test_trainings_that_ended_early_are_counted_once_a_run(in_pod: Callable[..., None]) -> None:
    """Not those of other settings, nor those that were repeated in the same run, nor those that only diverged."""
    one_step(status="crashed")
    one_step("train/B/wide", status="diverged")
    one_step("train/C/wide/seed-1", status="time limit")
    in_pod(OTHER_RUN)
    one_step(status="out of memory")
    assert lost_trainings("demo-1234") == {"A/seed-0": 2, "C/wide/seed-1": 1}
    assert lost_trainings("demo-123") == lost_trainings("paper-1234") == {}


def test_a_training_that_was_repeated_in_its_run_is_not_lost(in_pod: Callable[..., None]) -> None:
    kill_a_step()
    one_step(status="trained")
    assert lost_trainings("demo-1234") == {}


def test_a_journal_leaves_its_pod_with_the_facts(
    in_pod: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow was away until the end of the training, and no volume keeps the journal."""
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "first-pod"))
    with journaled(Execution(steps.execution_name_of_task(), DATA), STEP, tags={"set": "A"}) as run:
        run.metrics({"val_accuracy": 0.5}, step=0)
    hand_over_journals(tmp_path / "facts")
    shutil.rmtree(tmp_path / "first-pod")
    assert all_runs() == []

    in_pod(pod="pod-2")
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "second-pod"))
    for _ in range(2):  # two steps read these facts
        take_over_journals([tmp_path / "facts", tmp_path / "no facts"])
        one_step("select/ABC")
        (trained,) = [run for run in all_runs() if run.data.tags[KEY].endswith(STEP)]
        assert (trained.info.status, trained.data.metrics) == ("FINISHED", {"val_accuracy": 0.5})
        assert pending_journals(journal_root()) == []


def test_only_the_ended_steps_of_this_pod_hand_their_journals_over(in_pod: Callable[..., None], tmp_path: Path) -> None:
    execution = Execution(steps.execution_name_of_task(), DATA)
    with journaled(execution, STEP, tags={}):
        pass
    in_pod(pod="pod-2")
    with journaled(execution, "train/A/seed-1", tags={}):
        hand_over_journals(tmp_path / "facts")
    assert not (tmp_path / "facts").exists()
    hand_over_journals(tmp_path / "facts")
    assert [folder.name.split("-")[-4:-1] for folder in (tmp_path / "facts" / "journal").iterdir()] == [
        ["A", "seed", "1"]
    ]
