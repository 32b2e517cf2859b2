"""Every component through its Python function: the artifacts of direct calls in, the same bytes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from support.components import Started, function
from support.drivers import assert_same_analysis, assert_same_files, digest

from lhcnet import steps
from lhcnet.code_version import STEP_MODULES
from lhcnet.config import Config
from lhcnet.data.fer2013 import CLASSES
from lhcnet.data.remote import source_version
from lhcnet.errors import LhcnetError
from lhcnet.protocol.selection import read_selection
from lhcnet.saved import FACTS_FOLDER, open_facts, open_model
from lhcnet.steps import task_settings

CODE = "0" * 64


def assert_started(started: Started, times: int = 1) -> None:
    """Each task names its step and hands on the digest of the code that the pipeline was compiled for."""
    assert len(started) == times
    for arguments in started:
        assert arguments["step"] in STEP_MODULES
        assert arguments["code"] == CODE


class Artifacts:
    """Artifacts of a pipeline as kfp gives them to a component: inputs of the direct run, outputs in `out`."""

    def __init__(self, direct: Path, out: Path) -> None:
        self._direct, self._out = direct, out

    def model(self, name: str) -> dsl.Model:
        return dsl.Model(uri=str(self._direct / name))

    def models(self, *names: str) -> list[dsl.Model]:
        return [self.model(name) for name in names]

    def facts(self, *names: str) -> list[dsl.Artifact]:
        """Facts of models of the direct run, as a training component writes them."""
        made = [self._out / "facts-of" / name for name in names]
        for name, folder in zip(names, made, strict=True):
            folder.parent.mkdir(parents=True, exist_ok=True)
            open_model(self._direct / name).save_facts(folder)
        return [dsl.Artifact(uri=str(folder)) for folder in made]

    def dataset(self, name: str) -> dsl.Dataset:
        return dsl.Dataset(uri=str(self._direct / name))

    def file(self, name: str) -> dsl.Artifact:
        return dsl.Artifact(uri=str(self._direct / name))

    def output(self, name: str, kind: type[dsl.Artifact] = dsl.Artifact) -> Any:
        return kind(uri=str(self._out / name))


def assert_facts(facts: dsl.Artifact, model: dsl.Model) -> None:
    """Facts are the record of the model, without its weights."""
    assert {file.name for file in Path(facts.path).iterdir()} == set(FACTS_FOLDER.files)
    assert open_facts(Path(facts.path)).record() == open_model(Path(model.path)).record()


@pytest.fixture
def artifacts(direct: Path, tmp_path: Path) -> Artifacts:
    return Artifacts(direct, tmp_path)


@pytest.fixture
def weights(artifacts: Artifacts, one_seed: Config) -> dsl.Artifact:
    """Start weights of the configuration; the direct run looked for them itself."""
    made = artifacts.output("start")
    steps.start_weights(Path(made.path), network=one_seed.network)
    return made


def test_prepare(artifacts: Artifacts, direct: Path, one_seed: Config, started: Started, tmp_path: Path) -> None:
    trainval, test = (artifacts.output(name, dsl.Dataset) for name in ("trainval", "test"))
    report = artifacts.output("report.json")
    settings = {
        "source": one_seed.data.source,
        "source_version": source_version(one_seed.data.source),
        "data": one_seed.data.to_dict(),
        "code": CODE,
    }
    function("prepare")(**settings, trainval=trainval, test=test, report=report)
    for name in ("trainval", "test"):
        assert_same_files(tmp_path / name, direct / name)
    assert trainval.metadata["digest"] == test.metadata["digest"] == json.loads(Path(report.path).read_text())["digest"]
    assert_started(started)


def test_start_weights(artifacts: Artifacts, one_seed: Config, weights: dsl.Artifact, started: Started) -> None:
    out = artifacts.output("weights")
    function("start_weights")(network=one_seed.network.to_dict(), code=CODE, weights=out)
    assert_same_files(Path(out.path), Path(weights.path))
    assert out.metadata == {"backbone": "lhcnet", "weights": "none"}
    assert_started(started)


def test_train_backbone(
    artifacts: Artifacts, direct: Path, one_seed: Config, weights: dsl.Artifact, started: Started
) -> None:
    model, facts = artifacts.output("model", dsl.Model), artifacts.output("facts")
    metrics = artifacts.output("metrics", dsl.Metrics)
    function("train_backbone")(
        trainval=artifacts.dataset("trainval"),
        start_weights=weights,
        network=one_seed.network.to_dict(),
        stage=one_seed.stage1.to_dict(),
        seed=one_seed.seeds.backbone,
        context=task_settings(one_seed),
        code=CODE,
        model=model,
        facts=facts,
        metrics=metrics,
    )
    assert_same_files(Path(model.path), direct / "backbone" / "stage1")
    assert (model.metadata["id"], model.metadata["status"]) == ("backbone/stage1", "trained")
    assert metrics.metadata["val/accuracy"] == open_model(Path(model.path)).metrics.val_accuracy
    assert_facts(facts, model)
    assert_started(started)


def test_train(artifacts: Artifacts, direct: Path, one_seed: Config, started: Started) -> None:
    model, facts = artifacts.output("model", dsl.Model), artifacts.output("facts")
    metrics = artifacts.output("metrics", dsl.Metrics)
    function("train")(
        trainval=artifacts.dataset("trainval"),
        start=artifacts.model("inserted/c/seed-1"),
        stage_number=4,
        stage=one_seed.stage4.to_dict(),
        seed=1,
        context=task_settings(one_seed),
        code=CODE,
        model=model,
        facts=facts,
        metrics=metrics,
    )
    assert_same_files(Path(model.path), direct / "c" / "seed-1")
    assert model.metadata["id"] == open_model(direct / "c" / "seed-1").id
    assert metrics.metadata["val/accuracy"] == open_model(Path(model.path)).metrics.val_accuracy
    assert_facts(facts, model)
    assert_started(started)


def test_train_best(artifacts: Artifacts, direct: Path, one_seed: Config, started: Started) -> None:
    """The same bytes as `insert_lhc` and `train` one after the other."""
    model, facts = artifacts.output("model", dsl.Model), artifacts.output("facts")
    metrics = artifacts.output("metrics", dsl.Metrics)
    best = artifacts.output("best.json")
    variant = one_seed.variant(read_selection(direct / "best_of_b.json").chosen_variant)
    Path(best.path).write_text(json.dumps(variant.to_dict()))
    function("train_best")(
        trainval=artifacts.dataset("trainval"),
        backbone=artifacts.model("backbone/stage3"),
        best=best,
        stage=one_seed.stage4.to_dict(),
        seed=1,
        context=task_settings(one_seed),
        code=CODE,
        model=model,
        facts=facts,
        metrics=metrics,
    )
    assert_same_files(Path(model.path), direct / "c" / "seed-1")
    assert model.metadata["display_name"] == open_model(direct / "c" / "seed-1").id
    assert_facts(facts, model)
    assert_started(started)


def test_train_standalone(
    artifacts: Artifacts, direct: Path, one_seed: Config, weights: dsl.Artifact, started: Started
) -> None:
    for variant, name in (({}, "resnet34v2"), (one_seed.variant("wide").to_dict(), "wide")):
        model, facts = artifacts.output(name, dsl.Model), artifacts.output(f"{name}-facts")
        metrics = artifacts.output("metrics", dsl.Metrics)
        function("train_standalone")(
            trainval=artifacts.dataset("trainval"),
            start_weights=weights,
            network=one_seed.network.to_dict(),
            variant=variant,
            stage=one_seed.standalone_stages[0].to_dict(),
            seed=5,
            context=task_settings(one_seed),
            code=CODE,
            model=model,
            facts=facts,
            metrics=metrics,
        )
        assert model.metadata["id"] == f"standalone/{name}/seed-5/stage1"
        assert open_model(Path(model.path)).info.architecture.has_lhc == bool(variant)
        assert_facts(facts, model)
    assert_started(started, 2)


def test_insert_lhc(artifacts: Artifacts, direct: Path, one_seed: Config, started: Started) -> None:
    inserted = artifacts.output("inserted", dsl.Model)
    variant = one_seed.variant("wide").to_dict()
    start = artifacts.model("backbone/stage3")
    function("insert_lhc")(model=start, variant=variant, seed=one_seed.seeds.b, code=CODE, inserted=inserted)
    assert_same_files(Path(inserted.path), direct / "inserted" / "b" / "wide")
    assert inserted.metadata["seed"] == one_seed.seeds.b
    assert_started(started)


def test_best_of_b(artifacts: Artifacts, direct: Path, one_seed: Config, started: Started) -> None:
    selection, best = artifacts.output("selection.json"), artifacts.output("best.json")
    settings: dict[str, Any] = {
        "facts": artifacts.facts("b/wide", "b/narrow"),
        "start": artifacts.facts("backbone/stage3")[0],
        "loss_factor": one_seed.selection.loss_factor,
        "minimum": one_seed.selection.minimum.to_dict(),
        "code": CODE,
        "selection": selection,
        "best": best,
    }
    variants = {name: one_seed.variant(name).to_dict() for name in one_seed.variants}
    function("best_of_b")(variants=[{"variant": v, "attempt": 0} for v in variants.values()], **settings)
    assert Path(selection.path).read_bytes() == (direct / "best_of_b.json").read_bytes()
    assert json.loads(Path(best.path).read_text()) == variants.pop(
        read_selection(direct / "best_of_b.json").chosen_variant
    )
    assert_started(started)
    with pytest.raises(LhcnetError, match="there is no variant"):
        function("best_of_b")(variants=[{"variant": v, "attempt": 0} for v in variants.values()], **settings)


def test_select(artifacts: Artifacts, direct: Path, one_seed: Config, started: Started) -> None:
    """Facts give the selection of the models themselves."""
    selection = artifacts.output("selection.json")
    stage1, stage2, start = artifacts.facts(*(f"backbone/stage{number}" for number in (1, 2, 3)))
    function("select")(
        set_a=artifacts.facts("a/seed-0"),
        set_b=artifacts.facts("b/wide", "b/narrow"),
        set_c=artifacts.facts("c/seed-1"),
        stage1=stage1,
        stage2=stage2,
        start=start,
        loss_factor=one_seed.selection.loss_factor,
        minimum=one_seed.selection.minimum.to_dict(),
        code=CODE,
        selection=selection,
    )
    assert Path(selection.path).read_bytes() == (direct / "selection.json").read_bytes()
    assert selection.metadata["chosen"] == open_model(direct / "chosen").id
    assert_started(started)


def test_control(artifacts: Artifacts, direct: Path, one_seed: Config, started: Started) -> None:
    models = artifacts.output("control")
    function("control")(
        set_b=artifacts.models("b/wide", "b/narrow"),
        set_c=artifacts.models("c/seed-1"),
        selection=artifacts.file("selection.json"),
        trainval=artifacts.dataset("trainval"),
        settings=one_seed.control.to_dict(),
        context=task_settings(one_seed),
        code=CODE,
        models=models,
    )
    names = json.loads((direct / "control" / "control.json").read_text())["models"]
    for name in names:
        assert_same_files(Path(models.path) / name, direct / "control" / name)
    assert sorted(models.metadata) == sorted(open_model(direct / "control" / name).id for name in names)
    assert len(names) > 0
    assert_started(started)


def test_evaluate(artifacts: Artifacts, direct: Path, one_seed: Config, started: Started) -> None:
    scores, metrics = artifacts.output("scores"), artifacts.output("metrics", dsl.Metrics)
    chosen = artifacts.output("chosen", dsl.Model)
    confusion = artifacts.output("confusion", dsl.ClassificationMetrics)
    function("evaluate")(
        set_a=artifacts.models("a/seed-0"),
        set_b=artifacts.models("b/wide", "b/narrow"),
        set_c=artifacts.models("c/seed-1"),
        control=artifacts.file("control"),
        selection=artifacts.file("selection.json"),
        trainval=artifacts.dataset("trainval"),
        test=artifacts.dataset("test"),
        evaluation=one_seed.evaluation.to_dict(),
        context=task_settings(one_seed),
        code=CODE,
        scores=scores,
        chosen=chosen,
        metrics=metrics,
        confusion=confusion,
    )
    written = Path(scores.path) / "evaluation.json"
    assert written.read_bytes() == (direct / "evaluation" / "evaluation.json").read_bytes()
    accuracy = metrics.metadata["test/accuracy"]
    assert 0 < accuracy < 1
    assert_same_files(Path(chosen.path), direct / "chosen")
    assert chosen.metadata["id"] == open_model(direct / "chosen").id
    shown = confusion.metadata["confusionMatrix"]
    rows = [row["row"] for row in shown["rows"]]
    assert [spec["displayName"] for spec in shown["annotationSpecs"]] == list(CLASSES)
    scored = json.loads(written.read_text())["models"]
    (n,) = {model["test"]["n"] for model in scored}
    assert sum(map(sum, rows)) == n
    assert sum(row[i] for i, row in enumerate(rows)) / n == accuracy
    assert_started(started)


def test_analyse(artifacts: Artifacts, direct: Path, one_seed: Config, started: Started) -> None:
    results = artifacts.output("results")
    function("analyse")(
        model=artifacts.model("chosen"),
        trainval=artifacts.dataset("trainval"),
        analysis=one_seed.analysis.to_dict(),
        evaluation=one_seed.evaluation.to_dict(),
        context=task_settings(one_seed),
        code=CODE,
        results=results,
    )
    assert_same_analysis(Path(results.path), direct / "analysis")
    assert_started(started)


def test_compare(artifacts: Artifacts, direct: Path, started: Started) -> None:
    report, tables, page = (
        artifacts.output("report"),
        artifacts.output("tables.md", dsl.Markdown),
        artifacts.output("page.html", dsl.HTML),
    )
    returned = function("compare")(
        selection=artifacts.file("selection.json"),
        scores=artifacts.file("evaluation"),
        analysis=artifacts.file("analysis"),
        data_report=artifacts.file("data_report.json"),
        code=CODE,
        report=report,
        tables=tables,
        page=page,
    )
    assert returned == digest(direct / "report")
    assert Path(tables.path).read_bytes() == (Path(report.path) / "report.md").read_bytes()
    assert Path(page.path).read_bytes() == (Path(report.path) / "report.html").read_bytes()
    assert_started(started)


def test_compare_standalone(
    artifacts: Artifacts,
    one_seed: Config,
    context: steps.RunContext,
    started: Started,
    tmp_path: Path,
    direct: Path,
) -> None:
    trained = []
    for variant, name in ((None, "plain"), (one_seed.variant("wide"), "wide")):
        out = tmp_path / name
        settings = {"stage": one_seed.standalone_stages[0], "seed": 5, "context": context}
        steps.train_standalone(direct / "trainval", out, network=one_seed.network, variant=variant, **settings)
        trained.append(dsl.Model(uri=str(out)))
    report, page = artifacts.output("report"), artifacts.output("page.html", dsl.HTML)
    function("compare_standalone")(
        stage1=trained,
        stage2=[],
        stage3=[],
        trainval=artifacts.dataset("trainval"),
        test=artifacts.dataset("test"),
        evaluation=one_seed.evaluation.to_dict(),
        context=task_settings(one_seed),
        code=CODE,
        report=report,
        page=page,
    )
    compared = json.loads((Path(report.path) / "standalone.json").read_text())
    assert [pair["stage"] for pair in compared["pairs"]] == [1]
    assert Path(page.path).read_bytes() == (Path(report.path) / "report.html").read_bytes()
    assert_started(started)


def test_register(artifacts: Artifacts, tracking: str, started: Started) -> None:
    registered = artifacts.output("registered.json")
    version = function("register")(
        chosen=artifacts.model("chosen"),
        scores=artifacts.file("evaluation"),
        report=artifacts.file("report"),
        data_report=artifacts.file("data_report.json"),
        name="faces",
        champion="not_worse",
        registered=registered,
    )
    written = json.loads(Path(registered.path).read_text())
    assert (version, written["version"], written["alias"]) == (1, 1, "champion")
    assert started == [{}]  # never from the cache, so it needs no digest
