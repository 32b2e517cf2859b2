"""The steps called directly, without tracking: what they write, and what they refuse."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from support.web import Answer, serve

from lhcnet import steps
from lhcnet.config import Config, Data, Stage
from lhcnet.data.store import open_store
from lhcnet.errors import LhcnetError
from lhcnet.saved import SavedModel, open_model


def test_prepare_writes_two_stores_and_a_report(faces_csv: Path, tmp_path: Path) -> None:
    result = steps.prepare(
        tmp_path / "trainval", tmp_path / "test", tmp_path / "report.json", data=Data(source=str(faces_csv))
    )
    trainval, test = open_store(tmp_path / "trainval"), open_store(tmp_path / "test")
    assert trainval.digest == test.digest == result.digest
    assert (len(trainval.split("train")[1]), len(trainval.split("validation")[1])) == (319, 40)
    assert json.loads((tmp_path / "report.json").read_text()) == result.to_dict()
    with pytest.raises(LhcnetError, match="has no split test"):
        trainval.split("test")


def test_prepare_of_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text("emotion,pixels,Usage\n0,1 2 3,Training\n")
    with pytest.raises(LhcnetError, match=r"raw\.csv"):
        steps.prepare(
            tmp_path / "a", tmp_path / "b", tmp_path / "report.json", data=Data(source=str(tmp_path / "raw.csv"))
        )
    assert [p.name for p in tmp_path.iterdir()] == ["raw.csv"]


def test_prepare_fetches_a_source_checks_its_version_and_records_it(
    faces_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = [tmp_path / "out" / name for name in ("trainval", "test", "report.json")]
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # away: the journal keeps all entries
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with serve() as web:
        data = Data(source=web.put("/faces.csv", Answer(faces_csv.read_bytes(), headers={"ETag": '"first"'})))
        with pytest.raises(LhcnetError, match=r"found etag:first, expected etag:other"):
            steps.prepare(*outputs, data=data, source_version="etag:other")
        result = steps.prepare(*outputs, data=data, execution="remote")
    assert result.digest == steps.prepare(*outputs, data=Data(source=str(faces_csv))).digest
    assert list((tmp_path / "temporary").iterdir()) == []
    files = [file for file in (tmp_path / "journal").rglob("*") if file.is_file()]
    entries = "".join(file.read_text(errors="replace") for file in files)
    assert 'data.source_version": "etag:first"' in entries
    assert entries.count(data.source) >= 2  # parameters and data set


def test_a_trained_model_carries_its_provenance(backbone: SavedModel, stores: tuple[Path, Path]) -> None:
    p = backbone.info.provenance
    assert (p.id, p.set, p.stage, p.seed, p.start) == ("backbone/stage1", "backbone", 1, 0, "none")
    assert p.data == open_store(stores[0]).digest
    assert backbone.metrics.status == "trained"
    assert backbone.metrics.train_loss is not None
    assert [row.epoch for row in backbone.history] == [0, 1, 2]


def test_the_start_decides_the_set(
    backbone: SavedModel, stores: tuple[Path, Path], tiny: Config, context: steps.RunContext, tmp_path: Path
) -> None:
    settings = {"stage_number": 4, "stage": tiny.stage4, "seed": 7, "context": context}
    a = steps.train_stage(stores[0], backbone.path, tmp_path / "a", **settings)
    assert (a.id, a.info.provenance.start) == ("A/seed-7", backbone.weights_digest())
    for set_, wanted in (("B", "B/wide"), ("C", "C/wide/seed-7")):
        inserted = steps.insert_lhc(
            backbone.path,
            tmp_path / f"in{set_}",
            variant=tiny.variant("wide"),
            set_=set_,
            seed=7,
        )
        trained = steps.train_stage(stores[0], inserted.path, tmp_path / set_, **settings)
        assert trained.id == wanted
        assert trained.info.architecture.modules == tiny.variants["wide"]


def test_insertion_keeps_the_host_and_refuses_a_second_time(backbone: SavedModel, tiny: Config, tmp_path: Path) -> None:
    first = steps.insert_lhc(backbone.path, tmp_path / "one", variant=tiny.variant("wide"), set_="B", seed=1)
    before, after = backbone.network().state_dict(), first.network().state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert len(after) > len(before)
    with pytest.raises(LhcnetError, match="has attention modules already"):
        steps.insert_lhc(first.path, tmp_path / "two", variant=tiny.variant("wide"), set_="B", seed=1)
    assert not (tmp_path / "two").exists()


def test_a_diverged_seed_is_rejected_and_the_pipeline_continues(
    backbone: SavedModel,
    stores: tuple[Path, Path],
    tiny: Config,
    context: steps.RunContext,
    faces_csv: Path,
    tmp_path: Path,
) -> None:
    inserted = steps.insert_lhc(backbone.path, tmp_path / "in", variant=tiny.variant("narrow"), set_="B", seed=0)
    exploding = Stage(learning_rate=1e30, batch_size=32, epochs=2)
    settings = {"stage_number": 4, "seed": 0, "context": context}
    bad = steps.train_stage(stores[0], inserted.path, tmp_path / "bad", stage=exploding, **settings)
    assert bad.metrics.status == "diverged"

    other = steps.insert_lhc(backbone.path, tmp_path / "in2", variant=tiny.variant("wide"), set_="B", seed=0)
    good = steps.train_stage(stores[0], other.path, tmp_path / "good", stage=tiny.stage4, **settings)
    report = steps.select(
        [bad.path, good.path], [backbone.path], tmp_path / "selection.json", loss_factor=9.0, chosen=tmp_path / "chosen"
    )
    assert report.chosen == "B/wide"
    rejected = next(e for e in report.entries if not e.kept)
    assert rejected.id == "B/narrow"
    assert "diverged" in rejected.reason
    assert open_model(tmp_path / "chosen").weights_digest() == good.weights_digest()

    scored = steps.evaluate(
        [bad.path, good.path],
        tmp_path / "selection.json",
        *stores,
        tmp_path / "evaluation",
        evaluation=tiny.evaluation,
        context=context,
    )
    assert [m.id for m in scored.models] == ["B/wide"]
    assert scored.models[0].test_tta is not None
    assert scored.models[0].test_tta.views == 60
    assert scored.models[0].temperature is not None
    helpful = steps.evaluate(
        [good.path],
        tmp_path / "selection.json",
        *stores,
        tmp_path / "helpful",
        evaluation=tiny.evaluation.model_copy(update={"views": "helpful"}),
        context=context,
        chosen=tmp_path / "scored",
    ).models[0]
    choice, copied = helpful.view_choice, open_model(tmp_path / "scored")
    assert choice is not None
    assert helpful.validation_tta is not None
    assert helpful.test_tta is not None
    assert (helpful.validation, helpful.test) == (scored.models[0].validation, scored.models[0].test)
    assert helpful.validation_tta.accuracy >= helpful.validation.accuracy
    assert helpful.validation_tta.views == helpful.test_tta.views == choice.views
    assert choice.paper.accuracy == pytest.approx(scored.models[0].validation_tta.accuracy)  # the same 60 views
    assert copied.info.fitted is not None
    assert (copied.temperature, copied.temperature_tta) == (helpful.temperature, helpful.temperature_tta)
    assert copied.info.fitted.tta_families == choice.families
    assert copied.weights_digest() == good.weights_digest()

    data_report = tmp_path / "data_report.json"
    steps.prepare(tmp_path / "trainval", tmp_path / "test", data_report, data=Data(source=str(faces_csv)))
    summary = steps.compare(
        tmp_path / "selection.json", tmp_path / "evaluation", tmp_path / "report", data_report=data_report
    )
    assert (summary.kept, summary.rejected) == (1, 1)
    for file in ("report.md", "report.html", "models.csv"):
        assert "B/narrow" in (tmp_path / "report" / file).read_text(), file
    statistics = json.loads((tmp_path / "report" / "statistics.json").read_text())
    assert any("no model of set A was kept" in text for text in statistics["untested"])


def test_training_on_other_data_than_the_start_is_refused(
    backbone: SavedModel, tiny: Config, context: steps.RunContext, tmp_path: Path
) -> None:
    from lhcnet.data.drawn_faces import draw
    from lhcnet.data.store import write_stores

    write_stores(draw(400, seed=99), tmp_path / "other", tmp_path / "test")
    with pytest.raises(LhcnetError, match="was trained on data"):
        steps.train_stage(
            tmp_path / "other",
            backbone.path,
            tmp_path / "out",
            stage_number=2,
            stage=tiny.stage2,
            seed=0,
            context=context,
        )
    assert not (tmp_path / "out").exists()


def test_a_diverged_start_is_refused(
    backbone: SavedModel, stores: tuple[Path, Path], tiny: Config, context: steps.RunContext, tmp_path: Path
) -> None:
    metrics = json.loads((backbone.path / "metrics.json").read_text())
    shutil.copytree(backbone.path, tmp_path / "diverged")
    (tmp_path / "diverged" / "metrics.json").write_text(json.dumps(metrics | {"status": "diverged", "reason": "NaN"}))
    with pytest.raises(LhcnetError, match="its training diverged"):
        steps.train_stage(
            stores[0],
            tmp_path / "diverged",
            tmp_path / "out",
            stage_number=2,
            stage=tiny.stage2,
            seed=0,
            context=context,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weights", ["nowhere.h5", "here.h5"])
def test_named_weights_are_never_replaced_by_a_random_start(
    weights: str,
    stores: tuple[Path, Path],
    tiny: Config,
    context: steps.RunContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.h5").write_bytes(b"weights")
    network = tiny.network.model_copy(update={"weights": weights})
    with pytest.raises(LhcnetError, match=r"network\.weights: .*\.h5"):
        steps.train_backbone(stores[0], tmp_path / "out", network=network, stage=tiny.stage1, seed=0, context=context)
    assert not (tmp_path / "out").exists()
