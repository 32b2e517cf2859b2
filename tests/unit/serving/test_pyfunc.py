"""The registered model, asked as MLflow's server asks it: grey values arrive as they were sent, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from safetensors.torch import load_file, save_file
from support.hostile.models import model_files, with_digest
from support.hostile.tables import VALID

from lhcnet.errors import LhcnetError
from lhcnet.serving.pyfunc import FacialExpressions
from lhcnet.tracking.registry import pyfunc_arguments

IMAGES, WEIGHTS = VALID.images[:2], "model.safetensors"


def written(folder: Path) -> Path:
    folder.mkdir()
    for name, content in model_files("modules").items():
        (folder / name).write_bytes(content)
    return folder


def opened(folder: Path) -> FacialExpressions:
    expressions = FacialExpressions()
    expressions.load_context(SimpleNamespace(artifacts={"model": str(folder)}))
    return expressions


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model as `register` logs it, loaded by MLflow; without the copy of the code, which is imported already."""
    folder = tmp_path_factory.mktemp("served")
    arguments = pyfunc_arguments(written(folder / "model")) | {"code_paths": None}
    mlflow.pyfunc.save_model(folder / "logged", **arguments)
    return mlflow.pyfunc.load_model(str(folder / "logged"))


def ask(model: Any, key: str, values: object) -> np.ndarray:
    """What the server's route /invocations answers."""
    schema = model.metadata.get_input_schema()
    response = scoring_server.invocations(json.dumps({key: values}), "application/json", model, schema)
    assert response.status == 200
    return np.array([list(row.values()) for row in json.loads(response.response)["predictions"]])


@pytest.mark.parametrize("key", ["inputs", "instances"])
def test_whole_grey_values_are_taken_as_integers_and_as_floats(registered: Any, key: str) -> None:
    expected = registered.predict(IMAGES).to_numpy()
    for sent in (IMAGES, IMAGES.astype(float), IMAGES.reshape(2, -1)):
        np.testing.assert_allclose(ask(registered, key, sent.tolist()), expected, atol=1e-6)
    table = {"columns": list(range(2304)), "data": IMAGES.reshape(2, -1).tolist()}
    np.testing.assert_allclose(ask(registered, "dataframe_split", table), expected, atol=1e-6)


@pytest.mark.parametrize("key", ["inputs", "instances"])
@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (IMAGES / 255, "they look scaled: undo that"),
        (IMAGES / 127.5 - 1, "they look scaled: undo that"),
        ((IMAGES - IMAGES.mean()) / IMAGES.std(), "whole grey values of 0..255, got float64 from -"),
        ((IMAGES > 100).astype(float), "no value above 1: they look scaled to 0..1"),
        (np.zeros((1, 48, 48)), "no value above 1: they look scaled to 0..1"),
        (IMAGES + 0.5, "whole grey values of 0..255, got float64 from"),
        (IMAGES.astype(int) + 300, "whole grey values of 0..255, got int64 from 300 to"),
        (-IMAGES.astype(int), "whole grey values of 0..255, got int64 from -"),
        (IMAGES > 100, "got bool"),
        (IMAGES.astype(str), "got <U"),
    ],
    ids=["0..1", "-1..1", "standardised", "binary", "black floats", "half", "300", "negative", "bools", "strings"],
)
def test_other_values_are_refused_before_they_are_cast(registered: Any, key: str, sent: Any, says: str) -> None:
    with pytest.raises(MlflowException) as error:
        ask(registered, key, sent.tolist())
    assert error.value.get_http_status_code() == 400
    assert says in str(error.value.json_kwargs)


def test_black_images_of_whole_numbers_are_images(registered: Any) -> None:
    black = ask(registered, "inputs", np.zeros((1, 48, 48), int).tolist())
    np.testing.assert_allclose(black.sum(), 1, atol=1e-5)


def test_altered_weights_are_noticed_when_the_model_is_loaded(tmp_path: Path) -> None:
    weights = written(tmp_path / "model") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1001] ^= 0x40
    weights.write_bytes(content)
    with pytest.raises(LhcnetError, match=r"model\.safetensors: its SHA-256 is"):
        opened(tmp_path / "model")


def test_outputs_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    folder = written(tmp_path / "model")
    state = load_file(folder / WEIGHTS)
    huge = {name: torch.full_like(state[name], 3e38) for name in ("logits.weight", "logits.bias", "hidden.0.bias")}
    save_file(state | huge, folder / WEIGHTS)
    (folder / "model.json").write_bytes(
        with_digest((folder / "model.json").read_bytes(), (folder / WEIGHTS).read_bytes())
    )
    with pytest.raises(LhcnetError, match="A/seed-0: the network's outputs are not finite for 2 of 2 images"):
        opened(folder).predict(None, IMAGES)
