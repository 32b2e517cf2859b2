"""The steps called directly, without tracking: what they write, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lhcnet import steps
from lhcnet.config import Config, Data, Stage
from lhcnet.data.store import open_store
from lhcnet.errors import LhcnetError
from lhcnet.saved import SavedModel, open_model


@pytest.fixture(scope="module")
def backbone(stores: tuple[Path, Path], tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    out = tmp_path_factory.mktemp("steps") / "stage1"
    return steps.train(stores[0], out, number=1, stage=tiny.stage1, seed=0, compute=tiny.compute, network=tiny.network)


def test_prepare_writes_two_stores_and_a_report(faces_csv: Path, tmp_path: Path) -> None:
    result = steps.prepare(
        tmp_path / "trainval", tmp_path / "test", tmp_path / "report.json", data=Data(source=str(faces_csv))
    )
    trainval, test = open_store(tmp_path / "trainval"), open_store(tmp_path / "test")
    assert trainval.digest == test.digest == result["digest"]
    assert (len(trainval.split("train")[1]), len(trainval.split("validation")[1])) == (319, 40)
    assert json.loads((tmp_path / "report.json").read_text()) == result
    with pytest.raises(LhcnetError, match="has no split test"):
        trainval.split("test")


def test_prepare_of_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text("emotion,pixels,Usage\n0,1 2 3,Training\n")
    with pytest.raises(LhcnetError, match=r"raw\.csv"):
        steps.prepare(
            tmp_path / "a", tmp_path / "b", tmp_path / "report.json", data=Data(source=str(tmp_path / "raw.csv"))
        )
    assert [p.name for p in tmp_path.iterdir()] == ["raw.csv"]


def test_training_says_where_a_model_comes_from(backbone: SavedModel, stores: tuple[Path, Path]) -> None:
    p = backbone.info.provenance
    assert (p.id, p.set, p.stage, p.seed, p.start) == ("backbone/stage1", "backbone", 1, 0, "none")
    assert p.data == open_store(stores[0]).digest
    assert backbone.metrics.status == "trained"
    assert backbone.metrics.train_loss is not None
    assert [row.epoch for row in backbone.history] == [0, 1, 2]


def test_sets_are_told_apart_by_their_start(
    backbone: SavedModel, stores: tuple[Path, Path], tiny: Config, tmp_path: Path
) -> None:
    a = steps.train(
        stores[0], tmp_path / "a", number=4, stage=tiny.stage4, seed=7, compute=tiny.compute, start=backbone.path
    )
    assert (a.id, a.info.provenance.start) == ("A/seed-7", backbone.weights_digest())
    for set_, wanted in (("B", "B/wide"), ("C", "C/wide/seed-7")):
        inserted = steps.insert_lhc(
            backbone.path,
            tmp_path / f"in{set_}",
            variant=tiny.variant("wide"),
            set_=set_,
            seed=7,
        )
        trained = steps.train(
            stores[0],
            tmp_path / set_,
            number=4,
            stage=tiny.stage4,
            seed=7,
            compute=tiny.compute,
            start=inserted.path,
        )
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


def test_a_diverged_seed_is_rejected_and_the_pipeline_goes_on(
    backbone: SavedModel, stores: tuple[Path, Path], tiny: Config, faces_csv: Path, tmp_path: Path
) -> None:
    inserted = steps.insert_lhc(backbone.path, tmp_path / "in", variant=tiny.variant("narrow"), set_="B", seed=0)
    exploding = Stage(learning_rate=1e30, batch_size=32, epochs=2)
    common = {"number": 4, "seed": 0, "compute": tiny.compute}
    bad = steps.train(stores[0], tmp_path / "bad", stage=exploding, start=inserted.path, **common)
    assert bad.metrics.status == "diverged"

    other = steps.insert_lhc(backbone.path, tmp_path / "in2", variant=tiny.variant("wide"), set_="B", seed=0)
    good = steps.train(stores[0], tmp_path / "good", stage=tiny.stage4, start=other.path, **common)
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
        compute=tiny.compute,
    )
    assert [m.id for m in scored.models] == ["B/wide"]
    assert scored.models[0].test_tta is not None
    assert scored.models[0].test_tta.views == 60
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


def test_training_on_other_data_than_the_start_is_refused(backbone: SavedModel, tiny: Config, tmp_path: Path) -> None:
    from lhcnet.data.drawn_faces import draw
    from lhcnet.data.store import write_stores

    write_stores(draw(400, seed=99), tmp_path / "other", tmp_path / "test")
    with pytest.raises(LhcnetError, match="was trained on data"):
        steps.train(
            tmp_path / "other",
            tmp_path / "out",
            number=2,
            stage=tiny.stage2,
            seed=0,
            compute=tiny.compute,
            start=backbone.path,
        )
    assert not (tmp_path / "out").exists()


def test_a_stage_wants_the_start_that_belongs_to_it(
    backbone: SavedModel, stores: tuple[Path, Path], tiny: Config, tmp_path: Path
) -> None:
    common = {"stage": tiny.stage2, "seed": 0, "compute": tiny.compute}
    with pytest.raises(LhcnetError, match="stage 2: expected"):
        steps.train(stores[0], tmp_path / "out", number=2, network=tiny.network, **common)
    with pytest.raises(LhcnetError, match="stage 1: expected"):
        steps.train(stores[0], tmp_path / "out", number=1, start=backbone.path, **common)
    metrics = json.loads((backbone.path / "metrics.json").read_text())
    shutil.copytree(backbone.path, tmp_path / "diverged")
    (tmp_path / "diverged" / "metrics.json").write_text(json.dumps(metrics | {"status": "diverged", "reason": "NaN"}))
    with pytest.raises(LhcnetError, match="its training diverged"):
        steps.train(stores[0], tmp_path / "out", number=2, start=tmp_path / "diverged", **common)


@pytest.mark.parametrize("weights", ["nowhere.h5", "here.h5"])
def test_named_weights_are_never_replaced_by_a_random_start(
    weights: str, stores: tuple[Path, Path], tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.h5").write_bytes(b"weights")
    network = tiny.network.model_copy(update={"weights": weights})
    with pytest.raises(LhcnetError, match=r"network\.weights: .*\.h5"):
        steps.train(
            stores[0], tmp_path / "out", number=1, stage=tiny.stage1, seed=0, compute=tiny.compute, network=network
        )
    assert not (tmp_path / "out").exists()
