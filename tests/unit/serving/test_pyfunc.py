"""The registered model as MLflow loads it: signature, parameters, and what its weights must be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support.hostile.models import with_digest
from support.hostile.tables import VALID
from support.random_model import KINDS, write_model

from lhcnet.config import Compute
from lhcnet.data.drawn_faces import draw
from lhcnet.errors import LhcnetError
from lhcnet.inference.predict import predict
from lhcnet.inference.tta import family_views, plain_views, tta_views
from lhcnet.protocol.confidence import scaled
from lhcnet.runtime import open_device
from lhcnet.saved import CLASSES, FILES, Fitted, open_model
from lhcnet.serving.pyfunc import FacialExpressions, ServingError

IMAGES = VALID.images[:3]
LOAD = """
import json, sys
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
images = np.load(sys.argv[2])
answers = [model.predict({"image": images}), model.predict({"image": images / 255}, params={"tta": True})]
answers += [model.predict(model.input_example)]
import lhcnet
print(json.dumps({"code": lhcnet.__file__, "answers": [answer.to_dict("list") for answer in answers]}))
"""


def opened(folder: Path) -> FacialExpressions:
    expressions = FacialExpressions()
    expressions.load_context(SimpleNamespace(artifacts={"model": str(folder)}))
    return expressions


def copied(model: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes((model / name).read_bytes())
    return folder


def test_it_is_loaded_without_the_package_and_without_pickles(
    model: Path, logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    np.save(tmp_path / "images.npy", IMAGES)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(logged), str(tmp_path / "images.npy")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["code"]).is_relative_to(logged)
    plain, tta, example = found["answers"]
    assert list(plain) == ["label", *CLASSES]
    assert len(example["label"]) == 1
    saved = open_model(model)
    for answer, views in ((plain, plain_views()), (tta, tta_views())):
        size, device = saved.info.architecture.input_size, open_device(Compute(device="cpu"))
        expected = predict(saved.network(), IMAGES, views, input_size=size, device=device)
        np.testing.assert_allclose(np.transpose([answer[name] for name in CLASSES]), expected, atol=1e-6)
        assert answer["label"] == [CLASSES[best] for best in expected.argmax(1)]


def test_the_signature_has_inputs_outputs_and_the_parameter(logged: Path) -> None:
    signature = yaml.safe_load((logged / "MLmodel").read_text())["signature"]
    assert json.loads(signature["inputs"]) == [{"name": "image", "type": "any", "required": True}]
    outputs = [(column["name"], column["type"]) for column in json.loads(signature["outputs"])]
    assert outputs == [("label", "string"), *((name, "float") for name in CLASSES)]
    (tta,) = json.loads(signature["params"])
    assert (tta["name"], tta["type"], tta["default"]) == ("tta", "boolean", False)
    assert not [path for path in logged.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]


def test_a_data_frame_needs_the_column_image(model: Path) -> None:
    with pytest.raises(ServingError, match="columns face, mask: expected the column image"):
        opened(model).predict(None, pd.DataFrame({"face": [1], "mask": [2]}))


def test_altered_weights_are_noticed_when_the_model_is_loaded(model: Path, tmp_path: Path) -> None:
    weights = copied(model, tmp_path / "model") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1001] ^= 0x40
    weights.write_bytes(content)
    with pytest.raises(LhcnetError, match=r"model\.safetensors: its SHA-256 is"):
        opened(tmp_path / "model")


def test_the_temperatures_and_views_of_the_model_are_used(tmp_path: Path) -> None:
    fitted = Fitted(temperature=2.0, temperature_tta=0.5, tta_families=("flip",), tta_rotation=0.15)
    folder, images = write_model(tmp_path / "model", KINDS["lhcnet"], fitted).path, draw(42, seed=0).images[:3]
    network, device = open_model(folder).network(), open_device(Compute(device="cpu"))
    for tta, views, temperature in ((False, plain_views(), 2.0), (True, family_views(["flip"]), 0.5)):
        plain = predict(network, images, views, input_size=32, device=device)
        answers = opened(folder).predict(None, images, params={"tta": tta})[list(CLASSES)].to_numpy()
        np.testing.assert_allclose(answers, scaled(plain, temperature), atol=1e-5)
        assert np.abs(answers - plain).max() > 1e-2


def test_outputs_that_are_not_finite_are_an_error_of_the_model_not_of_the_request(model: Path, tmp_path: Path) -> None:
    folder = copied(model, tmp_path / "model")
    weights = folder / "model.safetensors"
    state = load_file(weights)
    huge = {name: torch.full_like(state[name], 3e38) for name in ("logits.weight", "logits.bias", "hidden.0.bias")}
    save_file(state | huge, weights)
    (folder / "model.json").write_bytes(with_digest((folder / "model.json").read_bytes(), weights.read_bytes()))
    with pytest.raises(ServingError, match="A/seed-0: the network's outputs are not finite for 3 of 3") as error:
        opened(folder).predict(None, IMAGES)
    assert error.value.get_http_status_code() == 500
