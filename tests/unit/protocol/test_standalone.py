"""LHC-Net straight through stages 1-3, beside a ResNet34v2 with the same data seeds."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from lhcnet import steps
from lhcnet.config import PLAIN, Config
from lhcnet.data.store import open_store
from lhcnet.errors import LhcnetError
from lhcnet.protocol.standalone import StandaloneReport
from lhcnet.saved import SavedModel, open_model
from lhcnet.versioned import read_versioned


@pytest.fixture(scope="module")
def trained(stores: tuple[Path, Path], tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> list[SavedModel]:
    """Both networks after each of the stages."""
    at = tmp_path_factory.mktemp("standalone")
    found = []
    for name in (PLAIN, "wide"):
        start = None
        for number, stage in enumerate(tiny.standalone_stages, 1):
            first = {"network": tiny.network, "variant": None if name == PLAIN else tiny.variant(name)}
            saved = steps.train(
                stores[0],
                at / f"{name}{number}",
                number=number,
                stage=stage,
                seed=5,
                compute=tiny.compute,
                standalone=True,
                start=start,
                **(first if number == 1 else {}),
            )
            found.append(saved)
            start = saved.path
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
        compute=tiny.compute,
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
    common = {"seed": 5, "compute": tiny.compute}
    other = steps.train(stores[0], tmp_path / "b", number=1, stage=tiny.stage1, network=tiny.network, **common)
    with pytest.raises(LhcnetError, match="expected models of the stand-alone pipeline, not backbone/stage1"):
        steps.compare_standalone(
            [other.path], *stores, tmp_path / "out", evaluation=tiny.evaluation, compute=tiny.compute
        )
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
    with pytest.raises(LhcnetError, match=expected):
        steps.compare_standalone(models, *stores, tmp_path / "out", evaluation=tiny.evaluation, compute=tiny.compute)
    assert not (tmp_path / "out").exists()


def test_modules_enter_at_the_start_only(
    trained: list[SavedModel], stores: tuple[Path, Path], tiny: Config, tmp_path: Path
) -> None:
    common = {"seed": 5, "compute": tiny.compute, "stage": tiny.stage2, "variant": tiny.variant("wide")}
    with pytest.raises(LhcnetError, match="LHC modules enter in stage 1"):
        steps.train(stores[0], tmp_path / "x", number=2, start=trained[0].path, standalone=True, **common)
    assert open_store(stores[0]).digest == open_model(trained[0].path).info.provenance.data
