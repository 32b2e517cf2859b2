"""Every component through its Python function: the artifacts of direct calls in, the same bytes out."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from support.drivers import ROOT, assert_same_analysis, assert_same_files, digest

from lhcnet import steps
from lhcnet.config import Config
from lhcnet.data.remote import source_version
from lhcnet.protocol.selection import read_selection
from lhcnet.saved import open_model
from lhcnet.steps import task_settings

NAMES = sorted(file.stem for file in (ROOT / "components").glob("*.py") if file.stem != "__init__")
HELPERS = {"RunContext", "model_metadata", "model_metrics", "start_task", "task_settings"}
STEPS = set(steps.__all__) - HELPERS


def function(name: str) -> Callable[..., Any]:
    """Python function of the component `name`."""
    found: Callable[..., Any] = getattr(import_module(f"components.{name}"), name).python_func
    return found


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """One entry for each task that set up its process; this process stays as it is. MLflow gets nothing."""
    monkeypatch.setenv("LHCNET_EXECUTION", "components")
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    calls: list[None] = []
    monkeypatch.setattr(steps, "start_task", lambda: calls.append(None))
    return calls


class Artifacts:
    """Artifacts of a pipeline as kfp gives them to a component: inputs of the direct run, outputs in `out`."""

    def __init__(self, direct: Path, out: Path) -> None:
        self._direct, self._out = direct, out

    def model(self, name: str) -> dsl.Model:
        return dsl.Model(uri=str(self._direct / name))

    def models(self, *names: str) -> list[dsl.Model]:
        return [self.model(name) for name in names]

    def dataset(self, name: str) -> dsl.Dataset:
        return dsl.Dataset(uri=str(self._direct / name))

    def file(self, name: str) -> dsl.Artifact:
        return dsl.Artifact(uri=str(self._direct / name))

    def output(self, name: str, kind: type[dsl.Artifact] = dsl.Artifact) -> Any:
        return kind(uri=str(self._out / name))


@pytest.fixture
def artifacts(direct: Path, tmp_path: Path) -> Artifacts:
    return Artifacts(direct, tmp_path)


def test_prepare(artifacts: Artifacts, direct: Path, one_seed: Config, started: list[None], tmp_path: Path) -> None:
    trainval, test = (artifacts.output(name, dsl.Dataset) for name in ("trainval", "test"))
    report = artifacts.output("report.json")
    function("prepare")(
        source=one_seed.data.source,
        source_version=source_version(one_seed.data.source),
        data=one_seed.data.to_dict(),
        trainval=trainval,
        test=test,
        report=report,
    )
    for name in ("trainval", "test"):
        assert_same_files(tmp_path / name, direct / name)
    assert trainval.metadata["digest"] == test.metadata["digest"] == json.loads(Path(report.path).read_text())["digest"]
    assert len(started) == 1


def test_train_backbone(artifacts: Artifacts, direct: Path, one_seed: Config, started: list[None]) -> None:
    model, metrics = artifacts.output("model", dsl.Model), artifacts.output("metrics", dsl.Metrics)
    function("train_backbone")(
        trainval=artifacts.dataset("trainval"),
        network=one_seed.network.to_dict(),
        stage=one_seed.stage1.to_dict(),
        seed=one_seed.seeds.backbone,
        context=task_settings(one_seed),
        model=model,
        metrics=metrics,
    )
    assert_same_files(Path(model.path), direct / "backbone" / "stage1")
    assert (model.metadata["id"], model.metadata["status"]) == ("backbone/stage1", "trained")
    assert metrics.metadata["val_accuracy"] == open_model(Path(model.path)).metrics.val_accuracy
    assert len(started) == 1


def test_train(artifacts: Artifacts, direct: Path, one_seed: Config, started: list[None]) -> None:
    model, metrics = artifacts.output("model", dsl.Model), artifacts.output("metrics", dsl.Metrics)
    function("train")(
        trainval=artifacts.dataset("trainval"),
        start=artifacts.model("inserted/c/seed-1"),
        stage_number=4,
        stage=one_seed.stage4.to_dict(),
        seed=1,
        context=task_settings(one_seed),
        model=model,
        metrics=metrics,
    )
    assert_same_files(Path(model.path), direct / "c" / "seed-1")
    assert model.metadata["id"] == open_model(direct / "c" / "seed-1").id
    assert metrics.metadata["val_accuracy"] == open_model(Path(model.path)).metrics.val_accuracy
    assert len(started) == 1


def test_train_standalone(artifacts: Artifacts, direct: Path, one_seed: Config, started: list[None]) -> None:
    for variant, name in (({}, "resnet34v2"), (one_seed.variant("wide").to_dict(), "wide")):
        model, metrics = artifacts.output(name, dsl.Model), artifacts.output("metrics", dsl.Metrics)
        function("train_standalone")(
            trainval=artifacts.dataset("trainval"),
            network=one_seed.network.to_dict(),
            variant=variant,
            stage=one_seed.standalone_stages[0].to_dict(),
            seed=5,
            context=task_settings(one_seed),
            model=model,
            metrics=metrics,
        )
        assert model.metadata["id"] == f"standalone/{name}/seed-5/stage1"
        assert open_model(Path(model.path)).info.architecture.has_lhc == bool(variant)
    assert len(started) == 2


def test_insert_lhc(artifacts: Artifacts, direct: Path, one_seed: Config, started: list[None]) -> None:
    inserted = artifacts.output("inserted", dsl.Model)
    variant = one_seed.variant("wide").to_dict()
    start = artifacts.model("backbone/stage3")
    function("insert_lhc")(model=start, variant=variant, seed=one_seed.seeds.b, inserted=inserted)
    assert_same_files(Path(inserted.path), direct / "inserted" / "b" / "wide")
    assert inserted.metadata["seed"] == one_seed.seeds.b
    assert len(started) == 1


def test_best_of_b_and_insert_best(artifacts: Artifacts, direct: Path, one_seed: Config, started: list[None]) -> None:
    selection, best, inserted = (
        artifacts.output("selection.json"),
        artifacts.output("best.json"),
        artifacts.output("inserted", dsl.Model),
    )
    function("best_of_b")(
        models=artifacts.models("b/wide", "b/narrow"),
        start=artifacts.model("backbone/stage3"),
        variants=[one_seed.variant(name).to_dict() for name in one_seed.variants],
        loss_factor=one_seed.selection.loss_factor,
        selection=selection,
        best=best,
    )
    assert Path(selection.path).read_bytes() == (direct / "best_of_b.json").read_bytes()
    assert best.metadata["name"] == read_selection(direct / "best_of_b.json").chosen_variant
    function("insert_best")(model=artifacts.model("backbone/stage3"), best=best, seed=1, inserted=inserted)
    assert_same_files(Path(inserted.path), direct / "inserted" / "c" / "seed-1")
    assert len(started) == 2


def test_select(artifacts: Artifacts, direct: Path, one_seed: Config, started: list[None]) -> None:
    selection, chosen = artifacts.output("selection.json"), artifacts.output("chosen", dsl.Model)
    function("select")(
        set_a=artifacts.models("a/seed-0"),
        set_b=artifacts.models("b/wide", "b/narrow"),
        set_c=artifacts.models("c/seed-1"),
        stage1=artifacts.model("backbone/stage1"),
        stage2=artifacts.model("backbone/stage2"),
        start=artifacts.model("backbone/stage3"),
        loss_factor=one_seed.selection.loss_factor,
        selection=selection,
        chosen=chosen,
    )
    assert Path(selection.path).read_bytes() == (direct / "selection.json").read_bytes()
    assert_same_files(Path(chosen.path), direct / "chosen")
    assert chosen.metadata["id"] == open_model(direct / "chosen").id
    assert len(started) == 1


def test_control(artifacts: Artifacts, direct: Path, one_seed: Config, started: list[None]) -> None:
    models = artifacts.output("control")
    function("control")(
        set_b=artifacts.models("b/wide", "b/narrow"),
        set_c=artifacts.models("c/seed-1"),
        selection=artifacts.file("selection.json"),
        trainval=artifacts.dataset("trainval"),
        settings=one_seed.control.to_dict(),
        context=task_settings(one_seed),
        models=models,
    )
    names = json.loads((direct / "control" / "control.json").read_text())["models"]
    for name in names:
        assert_same_files(Path(models.path) / name, direct / "control" / name)
    assert sorted(models.metadata) == sorted(open_model(direct / "control" / name).id for name in names)
    assert len(names) > 0
    assert len(started) == 1


def test_evaluate(artifacts: Artifacts, direct: Path, one_seed: Config, started: list[None]) -> None:
    scores, metrics = artifacts.output("scores"), artifacts.output("metrics", dsl.Metrics)
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
        scores=scores,
        metrics=metrics,
    )
    written = Path(scores.path) / "evaluation.json"
    assert written.read_bytes() == (direct / "evaluation" / "evaluation.json").read_bytes()
    assert 0 < metrics.metadata["test_accuracy"] < 1
    assert len(started) == 1


def test_analyse(artifacts: Artifacts, direct: Path, one_seed: Config, started: list[None]) -> None:
    results = artifacts.output("results")
    function("analyse")(
        model=artifacts.model("chosen"),
        trainval=artifacts.dataset("trainval"),
        analysis=one_seed.analysis.to_dict(),
        evaluation=one_seed.evaluation.to_dict(),
        context=task_settings(one_seed),
        results=results,
    )
    assert_same_analysis(Path(results.path), direct / "analysis")
    assert len(started) == 1


def test_compare(artifacts: Artifacts, direct: Path, started: list[None]) -> None:
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
        report=report,
        tables=tables,
        page=page,
    )
    assert returned == digest(direct / "report")
    assert Path(tables.path).read_bytes() == (Path(report.path) / "report.md").read_bytes()
    assert Path(page.path).read_bytes() == (Path(report.path) / "report.html").read_bytes()
    assert len(started) == 1


def test_compare_standalone(
    artifacts: Artifacts, one_seed: Config, context: steps.RunContext, started: list[None], tmp_path: Path, direct: Path
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
        report=report,
        page=page,
    )
    compared = json.loads((Path(report.path) / "standalone.json").read_text())
    assert [pair["stage"] for pair in compared["pairs"]] == [1]
    assert Path(page.path).read_bytes() == (Path(report.path) / "report.html").read_bytes()
    assert len(started) == 1


def test_register(artifacts: Artifacts, tracking: str, started: list[None]) -> None:
    registered = artifacts.output("registered.json")
    version = function("register")(
        chosen=artifacts.model("chosen"),
        scores=artifacts.file("evaluation"),
        report=artifacts.file("report"),
        name="faces",
        registered=registered,
    )
    written = json.loads(Path(registered.path).read_text())
    assert (version, written["version"], written["alias"]) == (1, 1, "champion")
    assert len(started) == 1


def test_every_component_has_a_test() -> None:
    tested = {part for name in globals() for part in name.removeprefix("test_").split("_and_")}
    assert set(NAMES) - tested == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_component_calls_one_step_and_computes_nothing(name: str) -> None:
    tree = ast.parse((ROOT / "components" / f"{name}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert imported <= {"components", "kfp", "lhcnet", "lhcnet.io.files", "json", "os", "pathlib", "shutil"}
    called = [
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in STEPS
    ]
    assert len(called) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_kubeflow_ui_describes_every_argument(name: str) -> None:
    spec = getattr(import_module(f"components.{name}"), name).component_spec
    described = {**(spec.inputs or {}), **(spec.outputs or {})}
    lines = [line.strip() for line in (function(name).__doc__ or "").splitlines()]
    assert spec.description
    undescribed = {key for key in described if not any(line.startswith(f"{key}: ") for line in lines)}
    assert undescribed <= {"Output"}  # the returned value
