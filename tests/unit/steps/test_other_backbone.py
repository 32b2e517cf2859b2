"""The whole flow with a network of timm as the backbone, by direct calls of the steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.drivers import run_steps
from support.host import BACKBONE, LAYERS, MODULE, SETTINGS
from typer.testing import CliRunner

from components.train_backbone import train_backbone
from lhcnet import steps
from lhcnet.cli import app
from lhcnet.config import Config, parse
from lhcnet.data.drawn_faces import draw, write_csv
from lhcnet.errors import LhcnetError
from lhcnet.model_record import Architecture
from lhcnet.models.host import HostNetwork
from lhcnet.models.lhcnet import control_weights
from lhcnet.profiles import profile, to_yaml
from lhcnet.saved import open_model, save
from lhcnet.serving.package import REQUIREMENTS, requirements
from lhcnet.steps import supervised
from lhcnet.steps.supervised import Ended, plain, typed

ONE_EPOCH = {f"stage{n}.epochs": 1 for n in (1, 2, 3, 4)} | {"control.training.epochs": 1}


def settings(**changes: Any) -> Config:
    tiny = {"compute.threads": 1, "standalone.variant": "wide", "analysis.images": 10, "seeds.a": [0], "seeds.c": [1]}
    return profile("demo", SETTINGS | ONE_EPOCH | tiny | changes)


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    write_csv(draw(240, seed=1), folder / "faces.csv")
    run_steps(settings(**{"data.source": str(folder / "faces.csv"), "variants": {"wide": [MODULE] * 4}}), folder)
    return folder


def test_every_set_is_trained_and_says_what_it_is(flow: Path) -> None:
    plain, b, c = (open_model(flow / path) for path in ("a/seed-0", "b/wide", "c/seed-1"))
    assert isinstance(plain.network(), HostNetwork)
    assert plain.info.architecture.to_dict() == {
        "backbone": BACKBONE,
        "layers": list(LAYERS),
        "input_size": 32,
        "dropout": 0.2,
        "bn_momentum": 0.1,
        "modules": None,
        "control": False,
    }
    for saved in (b, c):
        assert saved.info.architecture.has_lhc
        assert saved.network().slots == ("LHC1", "LHC2", "LHC3", "LHC4")
        assert saved.info.provenance.start != plain.info.provenance.start
    start = open_model(flow / "backbone" / "stage3").network().state_dict()
    inserted = open_model(flow / "inserted" / "b" / "wide").network().state_dict()
    assert all(torch.equal(inserted[name], tensor) for name, tensor in start.items())
    assert sorted(set(inserted) - set(start))[0].startswith("attention.0.lhc.")


def test_control_trains_its_four_weights_alone(flow: Path) -> None:
    controlled = steps.control_models.open_controlled(flow / "control")
    assert controlled
    for saved in controlled:
        of = open_model(flow / ("b/wide" if saved.id.endswith("B/wide") else "c/seed-1")).network().state_dict()
        network = saved.network()
        assert len(control_weights(network)) == 4
        state = network.state_dict()
        assert set(state) - set(of) == {f"attention.{i}.w" for i in range(4)}
        assert all(torch.equal(state[name], tensor) for name, tensor in of.items())


def test_analysis_switches_four_modules(flow: Path, tmp_path: Path) -> None:
    config = settings()
    context = steps.RunContext(compute=config.compute)
    more = {"analysis": config.analysis, "evaluation": config.evaluation, "context": context}
    steps.analyse(flow / "b" / "wide", flow / "trainval", tmp_path / "out", **more)
    report = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert report["necessity"]["heads"] == [1, 1, 1, 1]
    assert [one["slot"] for one in report["modules"]] == ["LHC1", "LHC2", "LHC3", "LHC4"]


def test_scores_and_report_name_the_backbone(flow: Path) -> None:
    scores = np.load(flow / "evaluation" / "predictions.npz")
    assert np.isfinite(scores["A/seed-0/test"]).all()
    assert scores["A/seed-0/test_tta"].shape == scores["A/seed-0/test"].shape
    page = (flow / "report" / "report.html").read_text()
    assert f"The backbone is {BACKBONE}, not the paper" in page


def test_a_saved_model_opens_again_with_the_same_outputs(flow: Path, tmp_path: Path) -> None:
    saved = open_model(flow / "b" / "wide")
    network, images = saved.network(), 255 * torch.rand(2, 3, 32, 32)
    state = torch.get_rng_state()
    save(tmp_path / "again", network, saved.info, saved.metrics, saved.history)
    again = open_model(tmp_path / "again")
    assert again.weights_digest() == saved.weights_digest()
    with torch.no_grad():
        assert torch.equal(again.network()(images), network(images))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_gives_the_same_bytes_again(flow: Path, tmp_path: Path) -> None:
    config, context = settings(), steps.RunContext(compute=settings().compute)
    torch.manual_seed(99)
    again = steps.train_backbone(
        flow / "trainval", tmp_path / "again", network=config.network, stage=config.stage1, seed=0, context=context
    )
    assert again.weights_digest() == open_model(flow / "backbone" / "stage1").weights_digest()


def test_command_and_component_give_the_same_bytes(flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What DVC runs, and the component as Kubeflow calls it, but for the process that its training has there."""

    def in_this_process(_: supervised.Supervisor, step: Callable[..., object], given: dict[str, Any]) -> Ended:
        step(**typed(step, json.loads(json.dumps(plain(step, given)))))
        return Ended()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("LHCNET_EXECUTION", "demo-1")
    monkeypatch.setattr(steps, "start_task", lambda **_: None)
    monkeypatch.setattr(supervised.Supervisor, "_call", in_this_process)
    config, data = settings(), flow / "trainval"
    Path("params.yaml").write_text(to_yaml(config))
    CliRunner().invoke(app, ["start-weights", "start"], catch_exceptions=False)
    train = ["train", str(data), "command", "--stage", "1", "--start-weights", "start"]
    CliRunner().invoke(app, train, catch_exceptions=False)
    shutil.rmtree("journal")
    artifacts = {
        name: SimpleNamespace(path=str(tmp_path / name), metadata={}) for name in ("model", "facts", "metrics")
    }
    train_backbone.python_func(
        trainval=SimpleNamespace(path=str(data)),
        start_weights=SimpleNamespace(path="start"),
        network=config.network.to_dict(),
        stage=config.stage1.to_dict(),
        seed=config.seeds.backbone,
        context=steps.task_settings(config),
        code="",
        **artifacts,
    )
    expected = open_model(flow / "backbone" / "stage1").weights_digest()
    assert [open_model(tmp_path / name).weights_digest() for name in ("command", "model")] == [expected] * 2


def test_the_served_model_requires_timm(flow: Path) -> None:
    architecture = open_model(flow / "a" / "seed-0").info.architecture
    assert requirements(architecture) == (*REQUIREMENTS, "timm", "torchvision")
    assert requirements(Architecture.of(profile("demo").network)) == REQUIREMENTS
    torchvision = {"backbone": "torchvision:resnet18", "layers": ("layer1",)}
    assert requirements(architecture.model_copy(update=torchvision)) == (*REQUIREMENTS, "torchvision")


def test_a_variant_with_another_number_of_modules_is_one_sentence(flow: Path, tmp_path: Path) -> None:
    five = settings(variants={"wide": [MODULE] * 5})
    with pytest.raises(LhcnetError, match=r"variants\.wide: has 5 modules, but .*test_efficientnet has 4 slots, after"):
        steps.insert_lhc(flow / "backbone" / "stage3", tmp_path / "out", variant=five.variant("wide"), set_="B", seed=0)


def check(config: Config, folder: Path) -> tuple[int, str]:
    (folder / "params.yaml").write_text(to_yaml(config))
    done = CliRunner().invoke(app, ["check", "--params", str(folder / "params.yaml")])
    return done.exit_code, str(done.exception) if done.exception else done.output


def test_check_prints_the_layers_and_tries_the_variants(tmp_path: Path) -> None:
    status, output = check(settings(), tmp_path)
    assert status == 0
    assert output.splitlines()[1:3] == [
        "lhc1: after blocks.0, 16 channels of 16x16",
        "lhc2: after blocks.1, 24 channels of 8x8",
    ]
    status, output = check(settings(variants={"wide": [MODULE] * 3 + [MODULE | {"heads": 3}]}), tmp_path)
    assert status != 0
    assert output.startswith("variants.wide: LHC4: heads=3 does not divide H*W = 2*2 = 4")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"depths": [1, 1, 1, 1]}, "depths: is a size of lhcnet, and timm:test_efficientnet has its own"),
        ({"head": [8]}, "head: is a size of lhcnet"),
        ({"backbone": "timm:hf-hub:someone/network"}, "network.backbone: .*should match pattern"),
        ({"backbone": "resnet18"}, "network.backbone: .*should match pattern"),
        ({"backbone": "lhcnet", "layers": ["stages.0"]}, "layers: lhcnet has five slots of its own"),
        ({"layers": ["blocks.0", "blocks.0"]}, "layers: expected names that differ"),
        ({"layers": ["blocks.0", "blocks.1"]}, r"variants\.wide: expected lhc1, lhc2, one for each of network\.layers"),
    ],
)
def test_settings_that_do_not_go_together_are_one_sentence(network: dict[str, Any], message: str) -> None:
    with pytest.raises(LhcnetError, match=message):
        settings(network=SETTINGS["network"] | network)


def test_variants_of_lhcnet_have_five_modules() -> None:
    with pytest.raises(
        LhcnetError, match=r"variants\.wide: expected the five slots .*, lhc5, not lhc1, lhc2, lhc3, lhc4"
    ):
        profile("demo", {"variants": {"wide": [MODULE] * 4}, "standalone.variant": "wide"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": []}, "layers: required key is missing"),
        ({"widths": [4, 4, 8, 8]}, "widths: does not belong to the backbone timm:test_efficientnet"),
        ({"modules": [MODULE] * 5}, "modules: expected 4, one for each slot of the backbone, not 5"),
    ],
)
def test_a_record_that_cannot_be_built_is_refused(flow: Path, change: dict[str, Any], message: str) -> None:
    values = open_model(flow / "a" / "seed-0").info.architecture.to_dict()
    assert parse(Architecture, values, "model.json").to_dict() == values
    with pytest.raises(LhcnetError, match=message):
        parse(Architecture, values | change, "model.json")
