"""A real Kubeflow back end for the tests in tests/cluster: commands as a user gives them, pods, and the record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import boto3
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from lhcnet.data.drawn_faces import draw, write_zip
from lhcnet.io.yaml import read_yaml
from pipeline.backend import Backend
from pipeline.connection import Connection
from pipeline.runs import Task
from support.drivers import ROOT

LONG = 3600.0  # seconds that a run may take on a small machine
KILL_TRAINING = """
import os, pathlib, re, signal, sys, time
whole = sys.argv[2] == "with its step"
killed, deadline = set(), time.monotonic() + 120  # the name below is in two parts, or this process would kill itself
while len(killed) < int(sys.argv[1]) and time.monotonic() < deadline:
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"lhcnet.steps." + b"child" in command and folder.name not in killed:
            step = int(re.search(r"PPid:\\s+(\\d+)", (folder / "status").read_text())[1])
            os.kill(step if whole else int(folder.name), signal.SIGKILL)
            killed.add(folder.name)
    time.sleep(0.05)
print(*sorted(killed))
"""


@dataclass(frozen=True)
class Record:
    """The record of a Kubeflow run in MLflow: its parent run, and the runs of its steps by name."""

    parent: MlflowRun
    steps: Mapping[str, MlflowRun]

    def statuses(self) -> dict[str, str]:
        return {name: str(run.info.status) for name, run in self.steps.items()}


@dataclass
class RealCluster:
    """A back end.

    Args:
        host: KF_PIPELINES_ENDPOINT.
        settings: cluster settings (YAML) that work there.
        tracking: address of its MLflow as this machine reaches it.
        source: URI of FER2013, or of drawn faces.
        folder: for files of the tests.
        namespace: of the pods.
    """

    host: str
    settings: Path
    tracking: str
    source: str
    folder: Path
    namespace: str = "kubeflow"
    started: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backend = Backend(Connection.from_environment(self.host, os.environ.get("KF_PIPELINES_NAMESPACE")))
        self.mlflow = MlflowClient(self.tracking)

    def lhcnet(self, *arguments: str, record: bool = True, seconds: float = LONG) -> subprocess.CompletedProcess[str]:
        """Run `lhcnet pipeline ...` as a user does; with `record`, MLFLOW_TRACKING_URI is set."""
        env = {**os.environ, "KF_PIPELINES_ENDPOINT": self.host, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
        if record:
            env["MLFLOW_TRACKING_URI"] = self.tracking
        command = [sys.executable, "-m", "pipeline", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=seconds)
        # pytest shows it where a test fails, and with -s
        print(f"$ lhcnet pipeline {' '.join(arguments)}\n{done.stdout}{done.stderr}[exit status {done.returncode}]\n")
        return done

    def cluster_file(self, **changes: object) -> Path:
        """The cluster settings with changes, as JSON, which is YAML too."""
        values = read_yaml(self.settings.read_text(encoding="utf-8"), str(self.settings))
        for key, value in changes.items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
        file = self.folder / f"cluster-{len(list(self.folder.iterdir()))}.yaml"
        file.write_text(json.dumps(values), encoding="utf-8")
        return file

    def submit(self, *options: str, settings: Path | None = None, source: str = "") -> str:
        """Submit a run of the profile demo; returns its id."""
        done = self.lhcnet(
            "submit",
            *("--profile", "demo", "--cluster", str(settings or self.settings), "--source", source or self.source),
            *options,
        )
        assert done.returncode == 0, done.stderr
        (run_id,) = done.stdout.split()
        self.started.append(run_id)
        return run_id

    def tasks(self, run_id: str) -> dict[str, Task]:
        """Tasks of a run by the last part of their names, those in loops by name and position."""
        tasks = self.backend.tasks(self.backend.run(run_id))
        return {task.name.removeprefix("exit-handler-1/"): task for task in tasks}

    def wait_for_task(self, run_id: str, name: str, states: Sequence[str], seconds: float = LONG) -> Task:
        """Wait until a task has one of these states; the run must not end before."""

        def found() -> Task | None:
            task = self.tasks(run_id).get(name)
            if task and task.state in states:
                return task
            run = self.backend.run(run_id)
            assert not run.ended, f"{run.state}: {self.backend.explain(self.backend.tasks(run))}"
            return None

        return until(found, f"{name} of {run_id} is {' or '.join(states)}", seconds)

    def wait_for_log(self, run_id: str, name: str, text: str, seconds: float = LONG) -> Task:
        """Wait until the log of a running task has a text."""
        return until(
            lambda: ((task := self.tasks(run_id).get(name)) and text in self.log(run_id, name) and task) or None,
            f"{text!r} in the log of {name} of {run_id}",
            seconds,
        )

    def log(self, run_id: str, name: str) -> str:
        """Log of the newest pod of a task so far, "" as long as there is none."""
        task = self.tasks(run_id).get(name)
        try:
            return self.kubectl("logs", task.pod, "--container", "main") if task and task.pod else ""
        except AssertionError:  # its container has not started
            return ""

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl in the namespace of the pods."""
        command = ["kubectl", "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def kill_training(self, pod: str, times: int = 1, *, step: bool = False) -> list[str]:
        """Kill the process of the training in a pod, as the kernel does, and each that takes its place.

        With `step`, the process of the step is killed in its stead, which ends the pod.
        """
        program = ["python", "-c", KILL_TRAINING, str(times), "with its step" if step else "alone"]
        return self.kubectl("exec", pod, "--container", "main", "--", *program).split()

    def record(self, run_id: str) -> Record:
        """The record of a run; there must be exactly one."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "lhcnet")
        experiment = self.mlflow.get_experiment_by_name(name)
        assert experiment is not None, f"MLflow at {self.tracking} has no experiment {name}"
        found = self.mlflow.search_runs([experiment.experiment_id], f"tags.kubeflow_run = '{run_id}'")
        (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
        steps = self.mlflow.search_runs(
            [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", max_results=1000
        )
        return Record(parent, {str(run.info.run_name): run for run in steps})

    def record_with(self, run_id: str, step: str, seconds: float = 300.0) -> Record:
        """The record of a run as soon as a step is FINISHED in it; a busy MLflow has it only after its task."""
        deadline = time.monotonic() + seconds
        while True:
            record = self.record(run_id)
            if record.statuses().get(step) == "FINISHED" or time.monotonic() > deadline:
                return record
            time.sleep(5)

    def points(self, run: MlflowRun, metric: str) -> list[int]:
        """Steps (epochs) of all points of a metric."""
        return [point.step for point in self.mlflow.get_metric_history(run.info.run_id, metric)]

    def end(self, run_id: str) -> subprocess.CompletedProcess[str]:
        """Terminate a run that has shown what it should."""
        return self.lhcnet("terminate", run_id)


def until(found: Callable[[], Task | None], what: str, seconds: float, pause: float = 3.0) -> Task:
    """Ask until there is an answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(pause)
    raise AssertionError(f"after {seconds:g} s still not: {what}")


def upload(folder: Path, name: str, images: int, seed: int) -> str:
    """Store drawn faces in the bucket, which is made if it is not there; returns their URI."""
    file, bucket = folder / name, os.environ["LHCNET_CLUSTER_BUCKET"]
    write_zip(draw(images, seed=seed), file)
    store = boto3.client("s3")
    if bucket not in [row["Name"] for row in store.list_buckets()["Buckets"]]:
        store.create_bucket(Bucket=bucket)
    store.upload_file(str(file), bucket, name)
    return f"s3://{bucket}/{name}"
