"""Reading never runs code of an input: pickles, YAML tags, modules beside a model, checkpoints nobody asked for."""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from support.hostile.models import CANARY, Payload, model_files
from support.hostile.tables import VALID
from support.hostile.weights import keras_file
from support.published_files import MODULES, SIZES

from lhcnet import steps
from lhcnet.config import Config, load
from lhcnet.data.store import open_store, write_stores
from lhcnet.errors import LhcnetError
from lhcnet.models.lhcnet import LHCNet
from lhcnet.saved import open_model
from lhcnet.steps.compare import _predictions
from lhcnet.weights import published as published_module
from lhcnet.weights.imagenet import fill_backbone


def refused(call: Callable[[], object], named: str, folder: Path) -> None:
    with pytest.raises(LhcnetError) as caught:
        call()
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / CANARY).exists()


def test_the_payload_would_leave_its_canary(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path)))
    assert (tmp_path / CANARY).exists()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in model_files("modules").items():
        (folder / name).write_bytes(content)
    return folder


def saved_by_torch(payload: object) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": payload}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("write", [pickle.dumps, saved_by_torch], ids=["pickle", "torch.save"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "metrics.json", "history.csv"])
def test_a_pickle_under_another_name(name: str, write: Callable[[Any], bytes], model: Path, tmp_path: Path) -> None:
    (model / name).write_bytes(write(Payload(tmp_path)))
    refused(lambda: open_model(model).network(), name, tmp_path)


def test_pickled_weights_instead_of_safetensors(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pt", "model.pkl"):
        (model / name).write_bytes(saved_by_torch(Payload(tmp_path)))
    refused(lambda: open_model(model).network(), "model.safetensors", tmp_path)


def test_code_beside_a_model_is_not_imported(model: Path, tmp_path: Path) -> None:
    from lhcnet.serving.pyfunc import FacialExpressions

    images = np.zeros((2, 48, 48), np.uint8)

    def predicted() -> np.ndarray:
        expressions = FacialExpressions()
        expressions.load_context(SimpleNamespace(artifacts={"model": str(model)}))
        return expressions.predict(None, images).to_numpy()

    before = predicted()
    code = f"import pathlib; pathlib.Path({str(tmp_path / CANARY)!r}).touch()"
    for name in ("pyfunc.py", "__init__.py", "sitecustomize.py", "lhcnet.py", "code/lhcnet/__init__.py"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(code)
    (model / "MLmodel").write_text("flavors: {python_function: {loader_module: pyfunc, code: code}}")
    assert np.array_equal(predicted(), before)
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir [{canary}]",
        "!!python/object/new:os.mkdir [{canary}]",
        "!!python/name:os.mkdir",
        "!!python/module:os",
        "!!python/object:hostile.models.Payload {{}}",
    ],
)
def test_yaml_tags(tag: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"profile: {tag.format(canary=tmp_path / CANARY)}\n")
    refused(lambda: load(path), "params.yaml: not YAML", tmp_path)


def test_keras_files(tmp_path: Path) -> None:
    network, content = keras_file()
    path = tmp_path / "weights.h5"
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        for place in (file, file["conv0"], file["conv0/conv0/kernel:0"]):
            place.attrs["pickle"] = np.void(pickle.dumps(Payload(tmp_path)))
    fill_backbone(network, path)
    assert not (tmp_path / CANARY).exists()
    for written in (pickle.dumps(Payload(tmp_path)), saved_by_torch(Payload(tmp_path))):
        path.write_bytes(written)
        refused(lambda: fill_backbone(network, path), "weights.h5: expected Keras weights", tmp_path)


@pytest.mark.parametrize("source", ["external", "virtual", "link"])
def test_a_keras_file_does_not_lead_to_other_files(source: str, tmp_path: Path) -> None:
    network, content = keras_file()
    path, secret = tmp_path / "weights.h5", tmp_path / "secret"
    secret.write_bytes(np.ones(999, "<f4").tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.ones(1, "f4")
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        group = file["bn0/bn0"]
        del group["beta:0"]
        if source == "external":
            group.create_dataset("beta:0", (1,), "f4", external=[(str(secret), 0, 4)])
        elif source == "virtual":
            layout = h5py.VirtualLayout((1,), "f4")
            layout[...] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape=(1,))
            group.create_virtual_dataset("beta:0", layout)
        else:
            group["beta:0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
    refused(lambda: fill_backbone(network, path), "bn0/beta", tmp_path)


def test_arrays_of_objects(stores: tuple[Path, Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(stores[0], store)
    np.save(store / "labels.npy", np.array([Payload(tmp_path)], dtype=object), allow_pickle=True)
    refused(lambda: open_store(store), str(store), tmp_path)
    np.savez(tmp_path / "predictions.npz", **{"labels/test": np.array([Payload(tmp_path)], dtype=object)})
    refused(lambda: _predictions(tmp_path / "predictions.npz", SimpleNamespace(models=())), "predictions.npz", tmp_path)


def test_checkpoints_of_tensorflow_are_read_where_they_are_asked_for(
    published: Path, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = (tmp_path / "trainval", tmp_path / "test")
    write_stores(VALID, *stores)
    monkeypatch.setattr(published_module, "LHCNet", lambda: LHCNet(MODULES, **SIZES))
    settings = {"evaluation": tiny.evaluation, "context": steps.RunContext(compute=tiny.compute)}
    assert steps.evaluate_weights(published / "LHC_Net", *stores, **settings)["test"].n == 7
    for unasked in (published / "LHC_Net", published / "SavedModel"):
        refused(lambda unasked=unasked: open_model(unasked), f"{unasked}/model.json: expected", tmp_path)
        network = tiny.network.model_copy(update={"weights": str(unasked)})
        refused(
            lambda network=network: steps.train_backbone(
                stores[0],
                tmp_path / "out",
                network=network,
                stage=tiny.stage1,
                seed=0,
                context=settings["context"],
            ),
            "network.weights",
            tmp_path,
        )
    assert not (tmp_path / "out").exists()
