"""LHC-NetC: only the five weights of the residual sums are trained, from kept LHC-Nets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from kfp import dsl
from support.drivers import assert_same_files

from components.control import control as component
from lhcnet import steps
from lhcnet.config import Config, Control, Stage
from lhcnet.errors import LhcnetError
from lhcnet.models.lhcnet import CONTROL_START, control_weights
from lhcnet.saved import SavedModel, open_model
from lhcnet.steps import task_settings

Selected = tuple[list[Path], Path]


@pytest.fixture(scope="module")
def selected(
    stores: tuple[Path, Path], tiny: Config, context: steps.RunContext, tmp_path_factory: pytest.TempPathFactory
) -> Selected:
    """(models of A and B, their selection)."""
    at = tmp_path_factory.mktemp("selected")
    settings = {"seed": 3, "context": context}
    start = at / "start"
    steps.train_backbone(stores[0], start, network=tiny.network, stage=tiny.stage1, **settings)
    starts = {"a": start}
    for name in tiny.variants:
        starts[name] = at / f"in-{name}"
        steps.insert_lhc(start, starts[name], variant=tiny.variant(name), set_="B", seed=3)
    models = [
        steps.train_stage(stores[0], path, at / name, stage_number=4, stage=tiny.stage4, **settings).path
        for name, path in starts.items()
    ]
    steps.select(models, [start], at / "selection.json", loss_factor=9.0)
    return models, at / "selection.json"


def run(selected: Selected, stores: tuple[Path, Path], tiny: Config, out: Path, **changes: object) -> list[SavedModel]:
    control = Control(training=Stage(optimizer="adam", learning_rate=0.1, epochs=2)).model_copy(update=changes)
    return steps.control(*selected, stores[0], out, control=control, context=steps.RunContext(compute=tiny.compute))


def test_only_the_five_weights_move(
    selected: Selected, stores: tuple[Path, Path], tiny: Config, tmp_path: Path
) -> None:
    (trained,) = run(selected, stores, tiny, tmp_path / "control", models="chosen")
    begun = next(model for path in selected[0] if f"LHC-NetC/{(model := open_model(path)).id}" == trained.id)
    assert trained.info.provenance.start == begun.weights_digest()
    assert (trained.info.provenance.set, trained.info.provenance.stage) == ("control", 5)
    before, after = begun.network().state_dict(), trained.network().state_dict()
    assert {name for name in after if name not in before} == {f"attention.{i}.w" for i in range(5)}
    for name, tensor in before.items():  # BatchNorm's moving statistics among them
        assert torch.equal(tensor, after[name]), name
    # the start counts as epoch 0: it is kept unless an epoch was better on validation
    best = max(trained.history, key=lambda row: row.val_accuracy)  # of equal ones, the first
    assert trained.metrics.best_epoch == best.epoch
    assert (control_weights(trained.network()) != CONTROL_START) == (best.epoch > 0)


def test_an_epoch_moves_every_one_of_them(stores: tuple[Path, Path], tiny: Config) -> None:
    from lhcnet.data.store import open_store
    from lhcnet.models.lhcnet import add_control, freeze_all_but_control
    from lhcnet.runtime import open_device
    from lhcnet.saved import Architecture
    from lhcnet.training.loop import DataSplit, train_epoch
    from lhcnet.training.optimizer import make_optimizer
    from lhcnet.training.state import EpochTotals

    architecture = Architecture.of(tiny.network).model_copy(update={"modules": tiny.variants["wide"]})
    network = freeze_all_but_control(add_control(architecture.build(seed=1)))
    split = DataSplit(*open_store(stores[0]).split("train"))
    images, labels = torch.from_numpy(split.images[:64].copy()), torch.from_numpy(split.labels[:64].astype("int64"))
    stage = Stage(optimizer="adam", learning_rate=0.01, batch_size=32)
    optimizer = make_optimizer(network, stage)
    train_epoch(
        network,
        optimizer,
        images,
        labels,
        stage=stage,
        seed="0/5/1",
        input_size=32,
        device=open_device(tiny.compute),
        totals=EpochTotals.zero(torch.device("cpu")),
    )
    moved = [w != start for w, start in zip(control_weights(network), CONTROL_START, strict=True)]
    assert moved == [True] * 5


def test_kept_takes_every_network_with_lhc_and_none_takes_nothing(
    selected: Selected, stores: tuple[Path, Path], tiny: Config, context: steps.RunContext, tmp_path: Path
) -> None:
    trained = run(selected, stores, tiny, tmp_path / "kept", models="kept")
    assert [model.id for model in trained] == ["LHC-NetC/B/narrow", "LHC-NetC/B/wide"]
    assert run(selected, stores, tiny, tmp_path / "none", models="none") == []

    scored = steps.evaluate(
        *selected,
        *stores,
        tmp_path / "evaluation",
        evaluation=tiny.evaluation,
        context=context,
        control=tmp_path / "kept",
    )
    assert [one.record.id for one in scored.control] == [model.id for model in trained]
    best = max(trained, key=lambda model: (model.metrics.val_accuracy, -model.metrics.val_loss))
    assert scored.chosen_control == best.id
    found = next(one for one in scored.control if one.record.id == best.id)
    assert found.w == control_weights(best.network())
    assert found.of == best.id.removeprefix("LHC-NetC/")
    assert found.record.weights == best.weights_digest()
    assert scored.model(best.id).test_tta is not None
    without = steps.evaluate(
        *selected,
        *stores,
        tmp_path / "without",
        evaluation=tiny.evaluation,
        context=context,
        control=tmp_path / "none",
    )
    assert without.chosen_control is None


def test_missing_models_are_named(selected: Selected, stores: tuple[Path, Path], tiny: Config, tmp_path: Path) -> None:
    models = [path for path in selected[0] if path.name != "wide"]
    with pytest.raises(LhcnetError, match="missing from the input: B/wide"):
        run((models, selected[1]), stores, tiny, tmp_path / "out", models="kept")
    assert not (tmp_path / "out").exists()


KILLED = """
import functools, os, signal, sys
if "lhcnet.steps.child" in sys.orig_argv:
    import lhcnet.steps.control as module  # the module: the package has the step under this name
    module = sys.modules["lhcnet.steps.control"]
    step = module.train_control

    @functools.wraps(step)
    def faulty(**arguments):
        if arguments["start"].name == "narrow":
            os.kill(os.getpid(), signal.SIGKILL)
        return step(**arguments)

    module.train_control = faulty
"""


def test_an_lhc_netc_whose_training_dies_fails_only_itself(
    selected: Selected,
    stores: tuple[Path, Path],
    tiny: Config,
    context: steps.RunContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("LHCNET_EXECUTION", "control")
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    monkeypatch.setattr(steps, "start_task", lambda *_, **__: None)
    settings = Control(models="kept", training=Stage(optimizer="adam", learning_rate=0.1, epochs=2))
    models = dsl.Artifact(uri=str(tmp_path / "control"))
    component.python_func(
        set_b=[dsl.Model(uri=str(path)) for path in selected[0]],
        set_c=[],
        selection=dsl.Artifact(uri=str(selected[1])),
        trainval=dsl.Dataset(uri=str(stores[0])),
        settings=settings.to_dict(),
        context=task_settings(tiny) | {"checkpoints": {"folder": str(tmp_path / "checkpoints"), "seconds": 0.0}},
        code="",
        models=models,
    )
    assert models.metadata["LHC-NetC/B/narrow"] == "crashed"
    assert list((tmp_path / "checkpoints").iterdir()) == []
    (alone,) = [m for m in run(selected, stores, tiny, tmp_path / "alone", models="kept") if m.id.endswith("wide")]
    folder = next(path for path in Path(models.path).iterdir() if path.is_dir() and open_model(path).id == alone.id)
    assert_same_files(folder, alone.path)

    scored = steps.evaluate(
        *selected, *stores, tmp_path / "ev", evaluation=tiny.evaluation, context=context, control=Path(models.path)
    )
    assert [one.record.id for one in scored.control] == [alone.id]
    assert scored.control_missing == {"LHC-NetC/B/narrow": "crashed: its process ended with signal SIGKILL"}
