"""Exported files compute what `evaluate` computes, say what they are, and bad input ends in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lhcnet.cli import app
from lhcnet.config import Compute
from lhcnet.data.drawn_faces import draw
from lhcnet.errors import LhcnetError
from lhcnet.export import export, extra, onnx_file
from lhcnet.export.export import Quantisation, export_model
from lhcnet.export.graph import ExportedNetwork
from lhcnet.export.onnx_model import OnnxModel, open_onnx
from lhcnet.export.record import JSON_FILE, ExportRecord
from lhcnet.inference.predict import predict
from lhcnet.inference.tta import plain_views, tta_views
from lhcnet.model_record import Answered
from lhcnet.runtime import open_device
from lhcnet.saved import CLASSES, Fitted, SavedModel
from lhcnet.steps.score_store import score_store

CPU = open_device(Compute(device="cpu", threads=1))
FACES = draw(42, seed=3).images[::8]  # six: not the number that is traced with


def expected(saved: SavedModel, views: list[Any]) -> np.ndarray:
    return predict(saved.network(), FACES, views, input_size=32, device=CPU)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_an_onnx_file_gives_the_probabilities_of_evaluate(
    lhc_net: SavedModel, proto: Any, stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "to_onnx", lambda _: proto)
    file = tmp_path / "model.onnx"
    assert "Largest difference from PyTorch" in run("export", lhc_net.path, "--out", file)
    model = open_onnx(file, threads=1, batch_size=4)
    np.testing.assert_allclose(model.probabilities(FACES), expected(lhc_net, plain_views()), atol=1e-5)
    np.testing.assert_allclose(model.calibrated(FACES), expected(lhc_net, plain_views()), atol=1e-5)
    record = model.record
    assert (record.model, record.classes, record.weights) == ("C/seed-0", CLASSES, lhc_net.info.weights)
    assert record.parity is not None
    assert 0 <= record.parity.largest_difference < 1e-4
    assert b"/lhcnet/" not in file.read_bytes()  # no path of the machine that exported it
    with pytest.raises(LhcnetError, match="without views"):
        model.probabilities(FACES, tta=True)
    settings = {"split": "test", "batch_size": 32, "compute": Compute(device="cpu", threads=1), "tta": False}
    exported, ours = (score_store(path, stores[1], **settings) for path in map(str, (file, lhc_net.path)))  # type: ignore[arg-type]
    assert exported.scores == ours.scores
    classes = ours.by_class().data
    assert classes["n"].sum() == ours.scores[0].n
    assert (classes["recall"] * classes["n"]).sum() == pytest.approx(ours.scores[0].accuracy * ours.scores[0].n)


def test_int8_quantises_convolutions_and_measures_what_it_loses(
    lhc_net: SavedModel, proto: Any, stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "to_onnx", lambda _: proto)
    file, (trainval, test) = tmp_path / "int8.onnx", stores
    options = ("--format", "int8", "--calibration", trainval, "--test", test, "--images", 20)
    assert "Accuracy on test" in run("export", lhc_net.path, "--out", file, *options)
    model = open_onnx(file, threads=1)
    loss, calibration = model.record.accuracy_loss, model.record.calibration
    assert calibration is not None
    assert (model.record.precision, calibration.n, calibration.weight_bits) == ("int8", 20, 7)
    assert loss is not None
    assert loss.n > 20
    assert loss.ci95[0] <= loss.difference <= loss.ci95[1]
    difference = np.abs(model.probabilities(FACES) - expected(lhc_net, plain_views())).max()
    assert 1e-6 < difference < 0.3  # random weights: 0.11 here

    import onnx

    nodes = onnx.load(file).graph.node
    made_by = {output: node.op_type for node in nodes for output in node.output}
    inputs = {
        kind: {made_by.get(node.input[0]) for node in nodes if node.op_type == kind} for kind in ("Conv", "MatMul")
    }
    assert inputs["Conv"] == {"DequantizeLinear"}
    assert "DequantizeLinear" not in inputs["MatMul"]  # attention stays float32


def test_a_program_of_torch_export(lhc_net: SavedModel, tmp_path: Path) -> None:
    export_model(lhc_net.path, tmp_path / "model.pt2", format="torch-export")
    files = {JSON_FILE: ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=files)
    _, p = program.module()(torch.from_numpy(FACES.copy()))
    np.testing.assert_allclose(p.detach(), expected(lhc_net, plain_views()), atol=1e-6)
    assert json.loads(files[JSON_FILE])["network"] == "test_efficientnet with attention modules"


@torch.inference_mode()
def test_views_and_temperature_are_in_the_graph(lhc_net: SavedModel) -> None:
    logits, p = ExportedNetwork(lhc_net.network(), tta_views(), 2.0)(torch.from_numpy(FACES.copy()))
    mean = expected(lhc_net, tta_views())
    np.testing.assert_allclose(logits.softmax(1), mean, atol=1e-6)
    np.testing.assert_allclose(p, mean**0.5 / (mean**0.5).sum(1, keepdims=True), atol=1e-6)


def test_views_and_temperature_are_those_that_were_fitted(
    lhc_net: SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(tta: bool, **values: Any) -> tuple[Any, float | None]:
        is_fitted = values.pop("is_fitted", True)
        fitted = Fitted(tta_rotation=0.4, temperature=2.0, **values) if is_fitted else None
        saved = replace(lhc_net, info=lhc_net.info.model_copy(update={"fitted": fitted}))
        given: list[Any] = []
        monkeypatch.setattr(export, "open_model", lambda _: saved)
        monkeypatch.setattr(export._Task, "write_program", lambda task, *_: given.append(task))
        export_model(saved.path, tmp_path / "model.pt2", format="torch-export", tta=tta)
        return given[0].views, given[0].temperature

    assert exported(True, is_fitted=False) == (tta_views(), None)
    assert exported(False) == (plain_views(), 2.0)
    assert exported(True, temperature_tta=1.5) == (tta_views(0.4), 1.5)
    views, _ = exported(True, tta_families=("flip",))
    assert [view.flip for view in views] == [False, True]


def test_a_record_survives_as_text(lhc_net: SavedModel) -> None:
    rows = tuple(Answered(threshold=one, answered=90, right=80, n=100) for one in (0.2, 0.5))
    fitted = Fitted(tta_rotation=0.4, temperature=2.0, temperature_tta=1.5, thresholds_tta=rows)
    saved = replace(lhc_net, info=lhc_net.info.model_copy(update={"fitted": fitted}))
    record = ExportRecord.of(saved, views=60)
    assert (record.temperature, record.thresholds) == (1.5, rows)
    model = OnnxModel(None, record)
    assert (model.tta_choices, model.thresholds(tta=True), model.thresholds()) == ((True,), rows, ())
    assert OnnxModel(None, record.model_copy(update={"precision": "int8"})).thresholds(tta=True) == ()
    assert ExportRecord.of_metadata(record.to_metadata(), "file") == record
    for wrong in ("many", "[" * 100_000):
        with pytest.raises(LhcnetError, match=r"file: expected the metadata .* views: "):
            ExportRecord.of_metadata(record.to_metadata() | {"views": wrong}, "file")


def test_a_missing_extra_is_named_with_its_command(
    lhc_net: SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "onnx" else object())
    with pytest.raises(LhcnetError, match=r"onnx, not installed here: pip install 'lhcnet\[export\]'"):
        export_model(lhc_net.path, tmp_path / "model.onnx", format="onnx")


def test_impossible_exports_are_refused(lhc_net: SavedModel, tmp_path: Path) -> None:
    with pytest.raises(LhcnetError, match=r"ends in \.onnx"):
        export_model(lhc_net.path, tmp_path / "model.pt2", format="onnx")
    for format_, quantisation in (("int8", None), ("onnx", Quantisation(tmp_path))):
        with pytest.raises(LhcnetError, match="--calibration with --format int8"):
            export_model(lhc_net.path, tmp_path / "model.onnx", format=format_, quantisation=quantisation)  # type: ignore[arg-type]


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    import onnx

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    ])  # fmt: skip
    foreign = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
    (tmp_path / "foreign.onnx").write_bytes(foreign.SerializeToString())
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    for name in ("foreign.onnx", "broken.onnx", "absent.onnx"):
        with pytest.raises(LhcnetError, match=f"{name}: expected .*`lhcnet export` wrote"):
            open_onnx(tmp_path / name)
