"""Removal of what old runs left: what is in use, young, registered or not ours stays."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lhcnet.cli import app
from lhcnet.errors import LhcnetError
from lhcnet.steps.clean_root import old_runs
from lhcnet.tracking.clean import before
from lhcnet.tracking.folder import ENTRIES
from lhcnet.tracking.journal import Execution, Journal, journaled
from lhcnet.tracking.mlflow_runs import KEY
from lhcnet.tracking.store import open_client
from lhcnet.training.checkpoint import Checkpoint, Progress

OLD = time.time() - 40 * 86_400
RUN = "aaaaaaaa-1111-2222-3333-444444444444"
MODEL = json.dumps({"schema_version": 1, "architecture": {}, "provenance": {}})


def age(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (OLD, OLD))


def clean(*arguments: str) -> tuple[str, int]:
    """(printed, number of things) of the command."""
    result = CliRunner().invoke(app, ["tracking", "clean", "--older-than", "30d", *arguments])
    assert result.exit_code == 0, result.output
    match = re.search(r"remov\w+: (\d+), [\d,]+ bytes", result.stdout)
    assert match, result.stdout
    return result.stdout, int(match[1])


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "volume" / "journal"))
    monkeypatch.setenv("LHCNET_CHECKPOINTS", str(tmp_path / "volume"))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")


def test_old_journals_and_times_go_and_those_of_running_steps_stay(tmp_path: Path) -> None:
    execution = Execution("demo", "d" * 64)
    for _ in range(2):
        with journaled(execution, "prepare", tags={}):
            pass
    running = Journal(execution, "train/A/seed-0")
    root = running.folder.parent
    old, young = sorted(path for path in root.iterdir() if "prepare" in path.name)
    times = root.parent / "timings"
    for name, content in (("ours", {"step": "x", "seconds": 1, "ended": 2}), ("foreign", {"a": 1})):
        (times / name).mkdir(parents=True)
        (times / name / "x.json").write_text(json.dumps(content))
        age(times / name / "x.json")
    foreign = root / "notes"
    foreign.mkdir()
    (foreign / ENTRIES).write_text("mine\n")
    age(old / ENTRIES, running.folder / ENTRIES, foreign / ENTRIES)
    printed, count = clean()
    assert (count, "Nothing was removed" in printed, old.exists()) == (2, True, True)
    assert clean("--apply")[1] == 2
    assert [path.exists() for path in (old, young, running.folder, foreign)] == [False, True, True, True]
    assert [path.name for path in times.iterdir()] == ["foreign"]
    assert clean("--apply")[1] == 0
    running.close("FINISHED")


def test_old_checkpoints_go_and_those_in_use_stay(tmp_path: Path) -> None:
    made = [Checkpoint(tmp_path / "volume", "A/seed-0", {"x": str(i)}, seconds=0) for i in range(3)]
    for kept in made:
        kept.write({"x": torch.zeros(10)}, Progress(epoch=1, batches=1, best_epoch=0, history=()))
    old, used, young = (kept.path for kept in made)
    foreign = tmp_path / "volume" / f"weights-{'0' * 16}.safetensors"
    foreign.write_bytes((2).to_bytes(8, "little") + b"{}")
    age(old, used, foreign)
    with made[1].held():
        printed, _ = clean("--apply")
    assert str(old) in printed
    assert [path.exists() for path in (old, used, young, foreign)] == [False, True, True, True]
    assert clean("--apply")[1] == 1


def test_artifacts_of_ended_runs_go_and_those_of_registered_models_stay(tracking: str, tmp_path: Path) -> None:
    client, experiment = open_client()
    (tmp_path / "report.csv").write_text("a,b\n")
    names = ("finished", "deleted", "young", "running", "registered", "foreign")
    runs = {}
    for name in names:
        tags = {} if name == "foreign" else {KEY: f"demo/{name}"}
        runs[name] = client.create_run(experiment, tags=tags).info.run_id
        client.log_artifact(runs[name], str(tmp_path / "report.csv"), "tables")
        if name != "running":
            client.set_terminated(runs[name], end_time=int((time.time() if name == "young" else OLD) * 1000))
    client.delete_run(runs["deleted"])
    client.create_registered_model("faces")
    client.create_model_version("faces", "file:///x", run_id=runs["registered"])
    assert clean()[1] == 2
    printed, count = clean("--apply")
    assert (count, "8 bytes" in printed) == (2, True)
    kept = {name for name in names if client.list_artifacts(runs[name])}
    assert kept == {"young", "running", "registered", "foreign"}
    assert "artifacts_removed" in client.get_run(runs["finished"]).data.tags


def make_root(root: Path) -> dict[str, Path]:
    """A pipeline root with runs of ours and of others; all files are old but those of `young`."""
    runs = {
        "old": root / "lhcnet" / RUN,
        "young": root / "lhcnet" / RUN.replace("a", "b"),
        "not ours": root / "lhcnet" / RUN.replace("a", "c"),
        "other pipeline": root / "taxi" / RUN,
        "local": root / "2026-01-02-030405-67",
    }
    for name, run in runs.items():
        model = run / "train" / "1" / "model"
        model.mkdir(parents=True)
        (model / "model.json").write_text("{}" if name == "not ours" else MODEL)
        if name != "young":
            age(model / "model.json")
    return runs


def test_old_runs_below_a_folder(tmp_path: Path) -> None:
    runs = make_root(tmp_path / "root")
    arguments = ("--pipeline-root", str(tmp_path / "root"))
    assert clean(*arguments)[1] == 2
    assert clean(*arguments, "--apply")[1] == 2
    assert {name for name, run in runs.items() if run.exists()} == {"young", "not ours", "other pipeline"}


class Bucket:
    """The calls of boto3's client, on the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_paginator(self, _: str) -> Bucket:
        return self

    def paginate(self, Bucket: str, Prefix: str) -> list[dict[str, Any]]:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        keys = [(f"v2/{path.relative_to(self.folder)}", path.stat()) for path in files]
        entries = [
            {"Key": key, "Size": state.st_size, "LastModified": datetime.fromtimestamp(state.st_mtime, UTC)}
            for key, state in keys
            if key.startswith(Prefix)
        ]
        return [{"Contents": [entry]} for entry in entries] or [{}]

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        return {"Body": io.BytesIO((self.folder / Key.removeprefix("v2/")).read_bytes())}

    def delete_objects(self, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:
        for entry in Delete["Objects"]:
            (self.folder / entry["Key"].removeprefix("v2/")).unlink()
        return {}


def test_old_runs_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = make_root(tmp_path / "root")
    client = Bucket(tmp_path / "root")
    monkeypatch.setitem(sys.modules, "boto3", SimpleNamespace(client=lambda *_, **__: client))
    assert clean("--pipeline-root", "s3://mlpipeline/v2/", "--apply")[1] == 1
    gone = {name for name, run in runs.items() if not any(path.is_file() for path in run.rglob("*"))}
    assert gone == {"old"}


@pytest.mark.parametrize("option", ["--journal", "--checkpoints"])
def test_a_folder_that_does_not_exist_is_not_clean(option: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["tracking", "clean", "--older-than", "1d", option, str(tmp_path / "none")])
    assert "none: there is no such folder" in str(done.exception)


def test_what_cannot_be_cleaned_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(LhcnetError, match="--older-than soon: expected a number and h, d or w"):
        before("soon")
    with pytest.raises(LhcnetError, match=r"expected a folder or s3://BUCKET/PREFIX"):
        list(old_runs("gs://bucket", 0))
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(LhcnetError, match=r"expected boto3 to be installed"):
        list(old_runs("s3://bucket", 0))
