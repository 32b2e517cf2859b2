"""Every step recognises its own output, and refuses any other folder or file before it begins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lhcnet import steps
from lhcnet.analysis.results import ANALYSIS_FOLDER
from lhcnet.config import Checkpoints, Config, Registry
from lhcnet.data.store import STORE_FOLDER
from lhcnet.errors import LhcnetError
from lhcnet.io.contents import OwnFolder, OwnJson
from lhcnet.protocol.standalone import StandaloneReport
from lhcnet.saved import MODEL_FOLDER, SavedModel
from lhcnet.steps import outputs

NOWHERE = Path("missing")
FOLDERS: Mapping[str, tuple[str, OwnFolder]] = {  # step -> (its output in `direct`, what the step takes for its own)
    "prepare": ("trainval", STORE_FOLDER),
    "prepare test": ("test", STORE_FOLDER),
    "train": ("backbone/stage1", MODEL_FOLDER),
    "train stage": ("b/wide", MODEL_FOLDER),
    "train inserted": ("c/seed-1", MODEL_FOLDER),
    "insert": ("inserted/b/wide", MODEL_FOLDER),
    "select": ("chosen", MODEL_FOLDER),
    "control": ("control", outputs.CONTROL_FOLDER),
    "evaluate": ("evaluation", outputs.EVALUATION_FOLDER),
    "evaluate chosen": ("chosen", MODEL_FOLDER),
    "analyse": ("analysis", ANALYSIS_FOLDER),
    "compare": ("report", outputs.REPORT_FOLDER),
}
FILES: Mapping[str, tuple[str, OwnJson]] = {
    "prepare report": ("data_report.json", outputs.DATA_REPORT),
    "select": ("selection.json", outputs.SELECTION),
}
Call = Callable[[Path], object]  # calls a step with inputs that are missing, and one output


@pytest.fixture
def calls(tiny: Config, context: steps.RunContext) -> dict[str, Call]:
    evaluation, train = tiny.evaluation, {"seed": 0, "context": context}
    network, wide = tiny.network, tiny.variant("wide")
    with_images: dict[str, Any] = {"evaluation": evaluation, "context": context}
    return {
        "prepare": lambda out: steps.prepare(out, NOWHERE / "a", NOWHERE / "b", data=tiny.data),
        "prepare test": lambda out: steps.prepare(NOWHERE / "a", out, NOWHERE / "b", data=tiny.data),
        "prepare report": lambda out: steps.prepare(NOWHERE / "a", NOWHERE / "b", out, data=tiny.data),
        "start weights": lambda out: steps.start_weights(out, network=network),
        "train": lambda out: steps.train_backbone(NOWHERE, out, network=network, stage=tiny.stage1, **train),
        "train standalone": lambda out: steps.train_standalone(
            NOWHERE, out, network=network, variant=None, stage=tiny.stage1, **train
        ),
        "train stage": lambda out: steps.train_stage(NOWHERE, NOWHERE, out, stage_number=2, stage=tiny.stage2, **train),
        "train inserted": lambda out: steps.supervised.train_inserted(
            NOWHERE, NOWHERE, out, variant=wide, set_="C", stage=tiny.stage4, **train
        ),
        "insert": lambda out: steps.insert_lhc(NOWHERE, out, variant=wide, set_="B", seed=0),
        "select": lambda out: steps.select([NOWHERE], [NOWHERE], Path("elsewhere"), loss_factor=1.1, chosen=out),
        "select file": lambda out: steps.select([NOWHERE], [NOWHERE], out, loss_factor=1.1),
        "control": lambda out: steps.control([], NOWHERE, NOWHERE, out, control=tiny.control, context=context),
        "evaluate": lambda out: steps.evaluate([], NOWHERE, NOWHERE, NOWHERE, out, **with_images),
        "evaluate chosen": lambda out: steps.evaluate(
            [], NOWHERE, NOWHERE, NOWHERE, Path("elsewhere"), chosen=out, **with_images
        ),
        "analyse": lambda out: steps.analyse(NOWHERE, NOWHERE, out, analysis=tiny.analysis, **with_images),
        "compare": lambda out: steps.compare(NOWHERE, NOWHERE, out, data_report=NOWHERE),
        "compare standalone": lambda out: steps.compare_standalone([], NOWHERE, NOWHERE, out, **with_images),
        "register": lambda out: steps.register(
            NOWHERE, NOWHERE, out, data_report=NOWHERE, registry=Registry(model="x"), execution="x"
        ),
    }


NAMES = [
    "prepare",
    "prepare test",
    "start weights",
    "train",
    "train standalone",
    "train stage",
    "insert",
    "select",
    "control",
]
NAMES += ["train inserted", "evaluate", "evaluate chosen", "analyse", "compare", "compare standalone"]
MARKERS = ["store.json", "model.json", "control.json", "evaluation.json", "analysis.json", "summary.json"]
MARKERS += ["standalone.json", "start_weights.json"]


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_folder_is_refused_before_the_inputs_are_read(
    name: str, calls: dict[str, Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    for marker in MARKERS:  # names that the steps use too
        (out / marker).write_text('{"format": "layers-model"}')
    for content in ("source", ""):
        if content:
            (out / content).mkdir()
            (out / content / "main.py").write_text("print(1)")
        else:
            shutil.rmtree(out / "source")
            for marker in MARKERS[1:]:
                (out / marker).unlink()
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(LhcnetError, match=rf"^{out} is not replaced"):
            calls[name](out)
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["prepare report", "select file", "register"])
def test_a_foreign_file_is_refused_before_the_inputs_are_read(
    name: str, calls: dict[str, Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package.json").write_text('{"name": "mine", "version": "1.0"}')
    with pytest.raises(LhcnetError, match=r"package\.json is not replaced: it is a file of another kind"):
        calls[name](tmp_path / "package.json")
    assert [path.name for path in tmp_path.iterdir()] == ["package.json"]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_own_folder_is_recognised_and_a_file_more_is_not(name: str, direct: Path, tmp_path: Path) -> None:
    path, own = FOLDERS[name]
    folder = tmp_path / "copy"
    shutil.copytree(direct / path, folder)
    assert own.problem(folder) == ""
    (folder / "thesis.tex").write_text("years of work")
    assert "thesis.tex" in own.problem(folder)


def test_of_two_steps_none_takes_the_folder_of_the_other_for_its_own(direct: Path) -> None:
    for path, own in FOLDERS.values():
        for _, other in FOLDERS.values():
            assert bool(other.problem(direct / path)) == (own != other)


@pytest.mark.parametrize("name", FILES)
def test_the_own_file_is_recognised(name: str, direct: Path) -> None:
    path, own = FILES[name]
    assert own.problem(direct / path) == ""
    assert own.problem(direct / "chosen" / "model.json") != ""


def test_the_marker_of_the_standalone_report_has_the_keys() -> None:
    (keys,) = outputs.STANDALONE_FOLDER.json.keys
    assert keys <= set(StandaloneReport.model_fields)


def test_what_register_writes_is_recognised() -> None:
    written = {"name": "lhcnet", "version": 1, "alias": "champion", "weights": "ab", "model": "B/wide"}
    assert outputs.REGISTERED.recognises(json.dumps(written).encode())


def test_a_model_is_not_written_over_its_start(backbone: SavedModel, tiny: Config, tmp_path: Path) -> None:
    before = backbone.weights_digest()
    for out in (backbone.path, backbone.path / "inserted", backbone.path.parent):
        with pytest.raises(LhcnetError, match="one contains the other"):
            steps.insert_lhc(backbone.path, out, variant=tiny.variant("wide"), set_="B", seed=0)
    with pytest.raises(LhcnetError, match="one contains the other"):
        steps.select([backbone.path], [backbone.path], tmp_path / "s", loss_factor=1.1, chosen=backbone.path)
    assert backbone.weights_digest() == before


# --- checkpoints and journal -------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["/dev/null", "/proc/lhcnet", "file", "file/below", "out/checkpoints"])
def test_checkpoints_that_cannot_be_written_are_said_before_the_training(
    folder: str, stores: tuple[Path, Path], tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    context = steps.RunContext(compute=tiny.compute, checkpoints=Checkpoints(folder=folder))
    with pytest.raises(LhcnetError, match=r"cannot be written|would contain the checkpoints"):
        steps.train_backbone(
            stores[0], tmp_path / "out", network=tiny.network, stage=tiny.stage1, seed=0, context=context
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["prepare", "train stage", "evaluate"])
def test_a_journal_that_cannot_be_written_is_said_before_the_work(
    step: str, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LHCNET_JOURNAL", "/dev/null/journal")
    context, out = steps.RunContext(compute=tiny.compute, execution="x"), tmp_path / "out"
    stage: dict[str, Any] = {"stage_number": 2, "stage": tiny.stage2, "seed": 0, "context": context}
    call: dict[str, Callable[[], object]] = {
        "prepare": lambda: steps.prepare(out / "a", out / "b", out / "c", data=tiny.data, execution="x"),
        "train stage": lambda: steps.train_stage(NOWHERE, NOWHERE, out, **stage),
        "evaluate": lambda: steps.evaluate(
            [], NOWHERE, NOWHERE, NOWHERE, out, evaluation=tiny.evaluation, context=context
        ),
    }
    with pytest.raises(LhcnetError, match="/dev/null/journal cannot be written"):
        call[step]()
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_cannot_be_removed_costs_a_warning(
    stores: tuple[Path, Path],
    tiny: Config,
    backbone: SavedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    unlink = Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".safetensors" and not self.name.startswith("."):
            raise OSError(30, "Read-only file system")
        unlink(self, missing_ok)

    kept = Checkpoints(folder=str(tmp_path / "kept"), seconds=1e9)
    context = steps.RunContext(compute=tiny.compute, checkpoints=kept)
    monkeypatch.setattr(Path, "unlink", refuse)
    saved = steps.train_backbone(
        stores[0], tmp_path / "out", network=tiny.network, stage=tiny.stage1, seed=0, context=context
    )
    assert saved.weights_digest() == backbone.weights_digest()
    assert "could not be removed: Read-only file system" in caplog.text
