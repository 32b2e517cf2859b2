"""Names and sources in the record: of runs, parameters, metrics and data sets, and what made a run."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from lhcnet.config import PLAIN
from lhcnet.data.fer2013 import OFFICIAL_COUNTS, TRAIN, VALIDATION
from lhcnet.errors import LhcnetError
from lhcnet.saved import open_model
from lhcnet.tracking.journal import Execution, journaled
from lhcnet.tracking.names import curve, data_set_name, kept_metrics, plan_params, run_name, training_params
from lhcnet.tracking.source import source_tags
from lhcnet.tracking.system import INTERVAL, SWITCH, system_metrics


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("prepare", "prepare"),
        ("select/ABC", "select ABC"),
        ("train/backbone/stage1", "backbone stage 1"),
        ("train/A/seed-0", "A seed 0"),
        ("train/B/table2", "B table2"),
        ("train/C/table2/seed-1", "C seed 1 table2"),
        ("train/LHC-NetC/C/table2/seed-1", "LHC-NetC of C seed 1 table2"),
        (f"train/standalone/{PLAIN}/seed-0/stage2", "ResNet34v2 seed 0 stage 2"),
        ("train/standalone/table2/seed-0/stage1", "LHC-Net table2 seed 0 stage 1"),
    ],
)
def test_runs_have_names_for_people(step: str, name: str) -> None:
    assert run_name(step) == name


def test_parameters_of_a_training_are_flat_and_typed(direct: Path) -> None:
    """Nested sections become keys with a point where they are logged; no value is a list of modules."""
    lhc, plain = (open_model(direct / name).info for name in ("b/wide", "a/seed-0"))
    found = training_params(lhc)
    assert (found["set"], found["stage"], found["seed"], found["variant"]) == ("B", 4, lhc.provenance.seed, "wide")
    assert lhc.architecture.modules is not None
    assert found["lhc1"] == lhc.architecture.modules[0].to_dict()
    assert "modules" not in found["network"]
    assert training_params(plain)["variant"] == "none"
    assert not [name for name in training_params(plain) if name.startswith("lhc")]


def test_parameters_of_an_execution_say_all_its_models(direct: Path) -> None:
    models = [open_model(direct / name).info for name in ("backbone/stage1", "a/seed-0", "b/wide", "b/narrow")]
    found = plan_params(models)
    assert found["variants"] == "narrow, wide"
    assert found["stage1"] == models[0].provenance.to_dict()["training"]
    assert found["seeds"]["a"] == "0"


def test_a_metric_has_one_meaning(direct: Path) -> None:
    """The kept weights' figures and the curve have different prefixes, so sorting by one never ranks by the other."""
    saved = open_model(direct / "a" / "seed-0")
    kept, points = kept_metrics(saved.metrics), [curve(row) for row in saved.history]
    assert kept["val/accuracy"] == saved.metrics.val_accuracy
    assert (
        points[saved.metrics.best_epoch]["epoch/val_accuracy"] == saved.history[saved.metrics.best_epoch].val_accuracy
    )
    assert {name.partition("/")[0] for name in kept} <= {"val", "train", "fit", "attention"}
    assert {name.partition("/")[0] for row in points for name in row} == {"epoch"}


def test_drawn_faces_are_not_called_fer2013() -> None:
    counts = OFFICIAL_COUNTS[[TRAIN, VALIDATION]].sum(axis=0)
    labels = np.repeat(np.arange(7, dtype=np.uint8), counts)
    images = np.broadcast_to(np.arange(4, dtype=np.uint8).reshape(1, 2, 2), (len(labels), 2, 2)).copy()
    assert data_set_name(images, labels) == "faces, not FER2013"  # the same numbers, but no blank image
    images[17] = 0
    assert data_set_name(images, labels) == "FER2013"
    assert data_set_name(images[1:], labels[1:]) == "faces, not FER2013"


def test_what_made_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("LHCNET_COMMIT", "LHCNET_IMAGE", "DVC_STAGE", "LHCNET_KUBEFLOW_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOGNAME", "anna")
    monkeypatch.chdir(tmp_path)
    assert source_tags().keys() == {"mlflow.user", "mlflow.source.name", "mlflow.source.type"}
    assert source_tags()["mlflow.user"] == "anna"

    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    Path("file").write_text("one")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert source_tags()["mlflow.source.git.commit"] == commit
    assert "mlflow.source.git.dirty" not in source_tags()
    Path("file").write_text("two")
    assert source_tags()["mlflow.source.git.dirty"] == "true"
    monkeypatch.setenv("DVC_STAGE", "train")
    assert source_tags()["dvc_revision"] == commit

    monkeypatch.setenv("LHCNET_COMMIT", "c" * 40)  # of the image
    monkeypatch.setenv("LHCNET_IMAGE", "registry.example/lhcnet@sha256:0")
    found = source_tags()
    assert (found["mlflow.source.git.commit"], found["image"]) == ("c" * 40, "registry.example/lhcnet@sha256:0")
    assert "mlflow.source.git.dirty" not in found


def test_a_user_id_without_a_name_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 1_999_999_999)
    assert "mlflow.user" not in source_tags()


def test_system_metrics_are_logged_behind_the_switch(tracking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    monkeypatch.setenv(INTERVAL, "0.05")
    for switch, expected in (("false", False), ("true", True)):
        monkeypatch.setenv(SWITCH, switch)
        with journaled(Execution(f"x-{switch}", "d" * 64), "prepare", tags={}) as run, system_metrics(run):
            time.sleep(0.5)
        files = "".join(file.read_text() for file in run.journal.folder.glob("*.jsonl"))
        assert ("system/cpu_utilization_percentage" in files) is expected


@pytest.mark.parametrize("interval", ["0", "-1", "often", "nan", "inf"])
def test_an_interval_that_is_none_is_refused(interval: str, tracking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "true")
    monkeypatch.setenv(INTERVAL, interval)
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    with (
        journaled(Execution("x", "d" * 64), "prepare", tags={}) as run,
        pytest.raises(LhcnetError, match=f"{INTERVAL}={interval}: expected a number of seconds above 0"),
        system_metrics(run),
    ):
        pass
