"""The record in MLflow: a real sqlite store."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest

from lhcnet import steps
from lhcnet.config import Config, Registry
from lhcnet.data.audit import audit
from lhcnet.data.drawn_faces import draw
from lhcnet.errors import LhcnetError
from lhcnet.io.files import write_json
from lhcnet.protocol.confidence import scaled
from lhcnet.saved import open_model
from lhcnet.tracking.delivery import deliver
from lhcnet.tracking.folder import pending_journals
from lhcnet.tracking.journal import Execution, journal_root, journaled
from lhcnet.tracking.mlflow_runs import KEY, ExecutionRuns
from lhcnet.tracking.store import open_client

EXECUTION = Execution("demo-1234", "d" * 64)


def runs(client: mlflow.MlflowClient) -> dict[str, mlflow.entities.Run]:
    experiment = client.get_experiment_by_name("lhcnet")
    return {run.data.tags[KEY]: run for run in client.search_runs([experiment.experiment_id])}


def test_one_parent_and_a_child_a_step(tracking: str) -> None:
    for step in ("train/A/seed-0", "train/A/seed-1"):
        with journaled(EXECUTION, step, tags={"seed": step[-1]}) as run:
            run.params({"stage": {"batch_size": 32}})
            for epoch in range(3):
                run.metrics({"val_accuracy": 0.1 * epoch, "train_loss": None, "note": "text"}, step=epoch)
    client, _ = open_client()
    found = runs(client)
    assert set(found) == {EXECUTION.key, f"{EXECUTION.key}/train/A/seed-0", f"{EXECUTION.key}/train/A/seed-1"}
    one = found[f"{EXECUTION.key}/train/A/seed-0"]
    assert one.data.tags["mlflow.parentRunId"] == found[EXECUTION.key].info.run_id
    assert one.data.params == {"stage.batch_size": "32"}
    assert one.info.status == "FINISHED"
    assert [p.value for p in client.get_metric_history(one.info.run_id, "val_accuracy")] == [0.0, 0.1, 0.2]
    assert "train_loss" not in one.data.metrics


def test_a_step_that_runs_again_replaces_its_run_and_additions_reopen_it(tracking: str) -> None:
    for value in (0.1, 0.2):
        with journaled(EXECUTION, "train/B/x", tags={}) as run:
            run.metrics({"val_accuracy": value}, step=0)
    client, _ = open_client()
    ended = runs(client)[f"{EXECUTION.key}/train/B/x"].info.end_time
    for _ in range(2):
        with journaled(EXECUTION, "select", tags={}) as run:
            run.other("train/B/x", {"kept": True}).metrics({"test_accuracy": 0.7})
    found = runs(client)
    assert found[f"{EXECUTION.key}/train/B/x"].info.end_time == ended
    assert len(found) == 3
    run_id = found[f"{EXECUTION.key}/train/B/x"].info.run_id
    assert [p.value for p in client.get_metric_history(run_id, "val_accuracy")] == [0.2]
    assert [p.value for p in client.get_metric_history(run_id, "test_accuracy")] == [0.7]
    assert found[f"{EXECUTION.key}/train/B/x"].data.tags["kept"] == "True"


def test_a_failed_step_says_so(tracking: str) -> None:
    with pytest.raises(ZeroDivisionError), journaled(EXECUTION, "prepare", tags={}):
        raise ZeroDivisionError
    client, _ = open_client()
    assert {run.info.status for run in runs(client).values()} == {"FAILED"}


def test_an_injected_run_is_adopted_and_left_open(tracking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client, experiment = open_client()
    injected = client.create_run(experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", injected.info.run_id)
    with journaled(EXECUTION, "train/A/seed-0", tags={"set": "A"}) as run:
        run.metrics({"val_accuracy": 0.5}, step=0)
    with pytest.raises(ZeroDivisionError), journaled(EXECUTION, "train/A/seed-0", tags={}):
        raise ZeroDivisionError
    found = client.get_run(injected.info.run_id)
    assert found.info.status == "RUNNING"
    assert found.data.metrics == {"val_accuracy": 0.5}
    assert found.data.tags["set"] == "A"
    assert len(client.search_runs([experiment])) == 1


def test_verdicts_reach_the_models_and_not_the_adopted_run(
    tracking: str, stores: tuple[Path, Path], tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = {"context": steps.RunContext(compute=tiny.compute, execution="kf"), "seed": 0}
    start = steps.train_backbone(stores[0], tmp_path / "s", stage=tiny.stage1, network=tiny.network, **common)
    models = []
    for name in tiny.variants:
        inserted = steps.insert_lhc(start.path, tmp_path / f"i{name}", variant=tiny.variant(name), set_="B", seed=0)
        models.append(
            steps.train_stage(
                stores[0], inserted.path, tmp_path / name, stage_number=4, stage=tiny.stage4, **common
            ).path
        )
    client, experiment = open_client()
    injected = client.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", injected)
    steps.select(models, [start.path], tmp_path / "selection.json", loss_factor=9.0, execution="kf")
    assert "kept" not in client.get_run(injected).data.tags
    assert client.get_run(injected).info.status == "RUNNING"
    key = Execution("kf", start.info.provenance.data).key
    for name in tiny.variants:
        assert runs(client)[f"{key}/train/B/{name}"].data.tags["kept"] == "yes"


def test_all_rejected_is_in_the_record_before_it_is_an_error(
    tracking: str, stores: tuple[Path, Path], tiny: Config, tmp_path: Path
) -> None:
    common = {"context": steps.RunContext(compute=tiny.compute, execution="strict"), "seed": 0}
    start = steps.train_backbone(stores[0], tmp_path / "s", stage=tiny.stage1, network=tiny.network, **common)
    inserted = steps.insert_lhc(start.path, tmp_path / "i", variant=tiny.variant("wide"), set_="B", seed=0)
    model = steps.train_stage(stores[0], inserted.path, tmp_path / "b", stage_number=4, stage=tiny.stage4, **common)
    with pytest.raises(LhcnetError, match="no network with LHC was kept"):
        steps.select([model.path], [start.path], tmp_path / "selection.json", loss_factor=1e-6, execution="strict")
    assert not (tmp_path / "selection.json").exists()
    client, _ = open_client()
    key = Execution("strict", start.info.provenance.data).key
    found = runs(client)
    assert found[f"{key}/train/B/wide"].data.tags["kept"] == "no"
    assert " >= limit " in found[f"{key}/train/B/wide"].data.tags["reason"]
    assert found[key].info.status == "FAILED"


def test_of_two_parents_made_at_once_the_first_stays(
    tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, experiment = open_client()
    first = client.create_run(experiment, tags={KEY: EXECUTION.key}, start_time=1)
    # our first search came before the other machine's run was there
    find, found = ExecutionRuns.find, iter([None])
    monkeypatch.setattr(ExecutionRuns, "find", lambda self, step: next(found, find(self, step)))
    runs = ExecutionRuns(client, experiment, EXECUTION.key, "journal", tmp_path / "lock")
    assert runs.parent(at=2).info.run_id == first.info.run_id
    assert len(client.search_runs([experiment])) == 1


def test_a_run_that_was_made_without_an_answer_is_deleted(
    tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server took the request of a journal, but its answer did not arrive: the journal makes the run again."""
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    with journaled(EXECUTION, "prepare", tags={}):
        pass
    (journal,) = pending_journals(journal_root())
    client, experiment = open_client()
    ours, others = (
        ExecutionRuns(client, experiment, EXECUTION.key, name, tmp_path / "lock") for name in (journal.name, "other")
    )
    parent = ours.parent(at=1).info.run_id
    lost = ours.make("select", 1, parent).info.run_id
    of_another_journal = others.make("x", 1, parent).info.run_id
    deliver(journal)
    steps_of = {run.info.run_id: run.data.tags[KEY] for run in client.search_runs([experiment])}
    assert lost not in steps_of
    assert {parent, of_another_journal} < set(steps_of)
    assert sorted(steps_of.values()) == [EXECUTION.key, f"{EXECUTION.key}/prepare", f"{EXECUTION.key}/x"]


def test_the_default_store_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    client, experiment = open_client()
    assert sqlite3.connect(tmp_path / "mlflow.db").execute("select count(*) from experiments").fetchone()[0] >= 1
    assert client.get_experiment(experiment).artifact_location == (tmp_path / "mlartifacts").as_uri()


def test_a_model_from_a_cache_gets_its_record_under_the_new_execution(
    tracking: str, stores: tuple[Path, Path], tiny: Config, tmp_path: Path
) -> None:
    old, new = (steps.RunContext(compute=tiny.compute, execution=name) for name in ("old", "new"))
    start = steps.train_backbone(
        stores[0], tmp_path / "stage1", network=tiny.network, stage=tiny.stage1, seed=0, context=old
    )
    inserted = steps.insert_lhc(start.path, tmp_path / "in", variant=tiny.variant("wide"), set_="B", seed=0)
    model = steps.train_stage(
        stores[0], inserted.path, tmp_path / "b", stage_number=4, stage=tiny.stage4, seed=0, context=new
    )
    for _ in range(2):
        steps.select([model.path], [start.path], tmp_path / "selection.json", loss_factor=9.0, execution="new")
    client, _ = open_client()
    key = Execution("new", start.info.provenance.data).key
    assert pending_journals(journal_root()) == []
    found = runs(client)
    reused = found[f"{key}/train/backbone/stage1"]
    original = found[f"{Execution('old', start.info.provenance.data).key}/train/backbone/stage1"]
    assert original.data.tags["weights"] == start.weights_digest()
    assert reused.data.tags["restored"] == "from files"
    assert (reused.data.tags["cached"], reused.data.tags["original_run"]) == ("true", original.info.run_id)
    assert original.info.run_id in reused.data.tags["mlflow.note.content"]
    assert reused.data.metrics["val/accuracy"] == original.data.metrics["val/accuracy"]
    curve = client.get_metric_history(reused.info.run_id, "epoch/val_accuracy")
    assert [p.step for p in curve] == [row.epoch for row in start.history]
    assert found[f"{key}/train/B/wide"].data.tags["kept"] == "yes"
    assert {k.removeprefix(key) for k in found if k.startswith(key)} == {
        "",
        "/select/B",
        "/train/B/wide",
        "/train/backbone/stage1",
    }


def test_the_champion_loads_in_a_fresh_process_and_predicts(
    tracking: str, stores: tuple[Path, Path], tiny: Config, tmp_path: Path
) -> None:
    args = {"context": steps.RunContext(compute=tiny.compute), "seed": 0}
    start = steps.train_backbone(stores[0], tmp_path / "s", stage=tiny.stage1, network=tiny.network, **args)
    inserted = steps.insert_lhc(start.path, tmp_path / "i", variant=tiny.variant("narrow"), set_="B", seed=0)
    model = steps.train_stage(stores[0], inserted.path, tmp_path / "b", stage_number=4, stage=tiny.stage4, **args)
    steps.select([model.path], [start.path], tmp_path / "sel.json", loss_factor=9.0, chosen=tmp_path / "chosen")
    steps.evaluate(
        [model.path],
        tmp_path / "sel.json",
        *stores,
        tmp_path / "ev",
        evaluation=tiny.evaluation,
        context=steps.RunContext(compute=tiny.compute, execution="demo"),
    )
    arguments = (tmp_path / "chosen", tmp_path / "ev")
    write_json(tmp_path / "data.json", audit(draw(400, seed=1)).to_dict())
    more = {"data_report": tmp_path / "data.json", "registry": Registry(model="faces"), "execution": "demo"}
    with pytest.MonkeyPatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(LhcnetError, match=r"MLflow at http://127\.0\.0\.1:9") as error:
            steps.register(*arguments, tmp_path / "r.json", **more)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "r.json").exists()
    first = steps.register(*arguments, tmp_path / "r.json", **more)
    again = steps.register(*arguments, tmp_path / "r.json", **more)
    assert (first["version"], again["version"]) == (1, 1)
    assert json.loads((tmp_path / "r.json").read_text())["alias"] == "champion"

    client, _ = open_client()
    version = client.get_model_version_by_alias("faces", "champion")
    source = client.get_run(version.run_id)
    assert source.info.lifecycle_stage == "active"
    assert source.info.status == "FINISHED"
    assert source.data.tags[KEY].endswith("/train/B/narrow")
    assert source.data.tags["weights"] == model.weights_digest()
    logged = client.get_logged_model(version.source.removeprefix("models:/"))
    assert logged.experiment_id == source.info.experiment_id
    assert logged.artifact_location.startswith((tmp_path / "mlartifacts").as_uri())
    assert "400 images that are not FER2013" in version.description
    assert version.tags["gate"] == "champion: the first version; there was no champion to compare with"
    got = Path(mlflow.artifacts.download_artifacts("models:/faces@champion", dst_path=str(tmp_path / "got")))
    card = (got / "artifacts" / "MODEL_CARD.md").read_text()
    assert card.startswith("# faces: ResNet10v2 with LHC modules")
    temperature = open_model(got / "artifacts" / "model").temperature
    assert f"Confidence: temperature {temperature:.3f}, fitted on validation" in card
    assert open_model(tmp_path / "chosen").temperature is None  # selection fits nothing
    described = mlflow.models.Model.load(str(got))
    assert described.signature is not None
    assert described.signature.outputs.input_names()[0] == "label"
    assert described.saved_input_example_info is not None
    assert version.tags["weights"] == model.weights_digest()
    assert "test_accuracy" in version.tags

    with np.load(tmp_path / "ev" / "predictions.npz") as saved:
        expected = saved["B/narrow/test"][:5]
    np.save(tmp_path / "images.npy", np.load(stores[1] / "images.npy")[:5])
    program = f"""
import mlflow, numpy as np
mlflow.set_tracking_uri({tracking!r})
model = mlflow.pyfunc.load_model("models:/faces@champion")
out = model.predict({{"image": np.load({str(tmp_path / "images.npy")!r})}})
np.save({str(tmp_path / "out.npy")!r}, out.iloc[:, 1:].to_numpy())
print(",".join(out.columns))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "label,anger,disgust,fear,happiness,sadness,surprise,neutral"
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), scaled(expected, temperature), atol=1e-5)
