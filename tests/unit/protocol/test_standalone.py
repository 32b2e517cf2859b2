"""LHC-Net straight through stages 1-3, beside a ResNet34v2 with the same data seeds."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from lhcnet import steps
from lhcnet.config import PLAIN, Config
from lhcnet.errors import LhcnetError
from lhcnet.protocol.standalone import StandaloneReport
from lhcnet.saved import SavedModel
from lhcnet.versioned import read_versioned


@pytest.fixture(scope="module")
def trained(stores: tuple[Path, Path], tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> list[SavedModel]:
    """Both networks after each of the stages."""
    at = tmp_path_factory.mktemp("standalone")
    found = []
    for name in (PLAIN, "wide"):
        settings = {"seed": 5, "context": steps.RunContext(compute=tiny.compute)}
        first, *later = tiny.standalone_stages
        network = {"network": tiny.network, "variant": None if name == PLAIN else tiny.variant(name)}
        saved = steps.train_standalone(stores[0], at / f"{name}1", stage=first, **network, **settings)
        found.append(saved)
        for number, stage in enumerate(later, 2):
            out = at / f"{name}{number}"
            saved = steps.train_stage(stores[0], saved.path, out, stage_number=number, stage=stage, **settings)
            found.append(saved)
    return found


def test_both_start_from_one_backbone_and_keep_their_names(trained: list[SavedModel], tiny: Config) -> None:
    ids = [saved.id for saved in trained]
    assert ids == [f"standalone/{name}/seed-5/stage{n}" for name in (PLAIN, "wide") for n in (1, 2, 3)]
    assert [saved.info.architecture.modules for saved in trained[3:]] == [tiny.variants["wide"]] * 3
    assert [saved.info.provenance.training for saved in trained[:3]] == list(tiny.standalone_stages)
    assert [stage.patience for stage in tiny.standalone_stages] == list(tiny.standalone.patience)
    # the same seed draws the same backbone with and without modules, so that only the modules differ at the start
    plain = trained[0].info.architecture.build(seed=5).state_dict()
    with_lhc = trained[3].info.architecture.build(seed=5).state_dict()
    assert all(torch.equal(tensor, with_lhc[name]) for name, tensor in plain.items())


def test_comparison_after_every_stage(
    trained: list[SavedModel], stores: tuple[Path, Path], tiny: Config, tmp_path: Path
) -> None:
    report = steps.compare_standalone(
        [saved.path for saved in trained],
        *stores,
        tmp_path / "report",
        evaluation=tiny.evaluation,
        context=steps.RunContext(compute=tiny.compute),
    )
    assert [(pair.stage, pair.seed) for pair in report.pairs] == [(1, 5), (2, 5), (3, 5)]
    by_id = {model.record.id: model for model in report.models}
    for pair in report.pairs:
        first, second = (by_id[f"standalone/{name}/seed-5/stage{pair.stage}"].test for name in ("wide", PLAIN))
        assert pair.test.difference == pytest.approx(first.accuracy - second.accuracy)
    with (tmp_path / "report" / "standalone.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    page = (tmp_path / "report" / "report.html").read_text()
    assert all(f"Stage {pair.stage}, seed {pair.seed}: " in page for pair in report.pairs)
    assert read_versioned(StandaloneReport, tmp_path / "report" / "standalone.json") == report


def test_models_of_the_sets_are_refused(
    trained: list[SavedModel], stores: tuple[Path, Path], tiny: Config, tmp_path: Path
) -> None:
    context = steps.RunContext(compute=tiny.compute)
    other = steps.train_backbone(
        stores[0], tmp_path / "b", network=tiny.network, stage=tiny.stage1, seed=5, context=context
    )
    with pytest.raises(LhcnetError, match="expected models of the stand-alone pipeline, not backbone/stage1"):
        steps.compare_standalone([other.path], *stores, tmp_path / "out", evaluation=tiny.evaluation, context=context)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ([0, 1, 2], "expected models of two networks"),
        ([3, 4, 5], "expected models of two networks"),
        ([0, 4], "expected both networks after the same stage"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_it_is_scored(
    trained: list[SavedModel], stores: tuple[Path, Path], tiny: Config, tmp_path: Path, which: list[int], expected: str
) -> None:
    models = [trained[i].path for i in which]
    context = steps.RunContext(compute=tiny.compute)
    with pytest.raises(LhcnetError, match=expected):
        steps.compare_standalone(models, *stores, tmp_path / "out", evaluation=tiny.evaluation, context=context)
    assert not (tmp_path / "out").exists()
