"""A predictor gives what `evaluate` gives, for both kinds of network; where models are loaded from; features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lhcnet
from lhcnet.config import Compute, Data, Evaluation, parse
from lhcnet.data.drawn_faces import draw
from lhcnet.data.fer2013 import CLASSES
from lhcnet.errors import LhcnetError
from lhcnet.prediction.network import CPU, NetworkModel
from lhcnet.saved import open_model
from lhcnet.steps.score_store import score_store
from lhcnet.steps.scored_splits import ScoredSplits

FACES = draw(42, seed=0)
IMAGES, LABELS = FACES.images[:5], FACES.labels[:5]
SETTINGS: dict[str, Any] = {
    "split": "test",
    "batch_size": 32,
    "compute": Compute(device="cpu", threads=1),
    "tta": False,
}


def evaluated(folder: Path, *, tta: bool) -> np.ndarray:
    """The probabilities that `evaluate` computes of IMAGES."""
    saved, own = open_model(folder), np.zeros(len(IMAGES), bool)
    splits = {"validation": (IMAGES[:1], LABELS[:1]), "test": (IMAGES, LABELS)}
    scored = ScoredSplits("d" * 64, splits, IMAGES, {"validation": own[:1], "test": own})
    found = scored.score("m", saved.network(), saved.info.architecture.input_size, Evaluation(), CPU, tta=tta)
    return found.predicted["test_tta" if tta else "test"]


@pytest.mark.parametrize(("network", "width"), [("model", 8), ("host", 256)])
def test_bare_crops_have_the_probabilities_of_evaluate_and_features(
    network: str, width: int, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(network)
    predictor = lhcnet.load(folder)
    for tta in (False, True):
        faces = predictor.predict(IMAGES, tta=tta)
        found = np.array([list(face.probabilities.values()) for face in faces], np.float32)
        assert np.ptp(found, axis=0).max() > 1e-3
        np.testing.assert_array_equal(found, evaluated(folder, tta=tta))
    features = predictor.embed(IMAGES)
    assert features.shape == (5, width)
    alone = predictor.embed(Image.fromarray(IMAGES[1]))
    np.testing.assert_allclose(features[1:2], alone, rtol=1e-4, atol=1e-5)


def test_features_are_what_the_head_sees(model: Path) -> None:
    network = open_model(model).network()
    head = NetworkModel(network, "m", lhcnet.load(model).classes)
    with torch.inference_mode():
        x = torch.from_numpy(head.embeddings(IMAGES))
        for layer in network.hidden:
            x = torch.relu(layer(x))
        expected = network.logits(x).softmax(1).numpy()
    np.testing.assert_allclose(head.probabilities(IMAGES), expected, atol=1e-6)


def test_tensors_have_their_channels_first(model: Path) -> None:
    predictor, grey = lhcnet.load(model), torch.from_numpy(IMAGES.copy())
    expected = [face.probabilities for face in predictor.predict(IMAGES)]
    colour = grey[:, None].expand(-1, 3, -1, -1)
    for tensor in (grey[:, None], colour, colour.float() / 255, colour.double(), list(grey), list(colour)):
        assert [face.probabilities for face in predictor.predict(tensor)] == expected
    for one in (grey[0], grey[:1], colour[0], (colour[0] / 255).to(torch.bfloat16).float()):
        assert len(predictor.predict(one)) == 1
    with pytest.raises(LhcnetError, match=r"several pictures are \(N, C, H, W\)"):
        predictor.predict(grey)


def test_a_registered_model_and_the_model_of_a_run_are_loaded(model: Path, tracking: str) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking)
    experiment = client.create_experiment("e", (Path(tracking.removeprefix("sqlite:///")).parent / "a").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_artifacts(run, str(model), "model")
    client.create_registered_model("faces")
    version = client.create_model_version("faces", f"{client.get_run(run).info.artifact_uri}/model", run_id=run)
    client.set_registered_model_alias("faces", "champion", version.version)
    expected = lhcnet.load(model).predict(IMAGES)
    for name in ("models:/faces@champion", "models:/faces/1", f"runs:/{run}/model"):
        assert lhcnet.load(name).predict(IMAGES) == expected
    for name, says in (
        ("models:/faces@nobody", "nobody"),
        ("models:/faces", "expected models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/PATH"),
        (f"runs:/{run}/nothing", "nothing"),
    ):
        with pytest.raises(LhcnetError, match=says):
            lhcnet.load(name)


def test_what_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"")
    for name, says in (
        (tmp_path / "no", "does not exist; expected a model directory"),
        (tmp_path / "model.pt2", "is a file; expected a model directory"),
        (tmp_path, "model.json"),
        ("", "model: is empty"),
    ):
        with pytest.raises(LhcnetError, match=says):
            lhcnet.load(name)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 0}, "batch_size: expected a whole number of 1 or more, not 0"),
        ({"device": "cuda:0"}, "device: expected cpu or cuda, not cuda:0"),
        ({"device": None}, "device: expected cpu or cuda, not None"),
    ],
)
def test_settings_of_load_are_checked(settings: dict[str, Any], says: str, model: Path) -> None:
    with pytest.raises(LhcnetError, match=says):
        lhcnet.load(model, **settings)


def test_a_data_set_with_its_splits_is_not_scored_as_one(model: Path, tmp_path: Path) -> None:
    for number, part in enumerate(("train", "test")):
        file = tmp_path / "set" / part / "happy" / f"{number}.png"
        file.parent.mkdir(parents=True)
        Image.fromarray(FACES.images[number]).save(file)
    with pytest.raises(LhcnetError, match="lies in a data set with the folders test, train; expected the folder"):
        score_store(str(model), tmp_path / "set", **SETTINGS)
    assert score_store(str(model), tmp_path / "set" / "test", **SETTINGS).scores[0].n == 1
    (tmp_path / "set" / "test" / "happy" / "notes.heic").write_bytes(b"x")
    with pytest.raises(LhcnetError, match=r"notes\.heic: expected an image file in a class folder"):
        score_store(str(model), tmp_path / "set" / "test", **SETTINGS)


def test_own_class_folders_are_scored_as_a_store_is(model: Path, tmp_path: Path) -> None:
    """The report with intervals, from folders with names, sizes and colours of their own, and no splits."""
    names = {name: [f"own {name}"] for name in CLASSES} | {"left_out": ["contempt"]}
    data = parse(Data, {"classes": names, "resize": 48}, "data")
    files = []
    for number, (image, label) in enumerate(zip(FACES.images[:20], FACES.labels[:20], strict=True)):
        file = tmp_path / "photos" / f"Own {CLASSES[label]}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").resize((96, 72)).save(file)
        files.append(file)
    (tmp_path / "photos" / "contempt").mkdir()
    (tmp_path / "photos" / "contempt" / "a.png").write_bytes(b"not read")
    found = score_store(str(model), tmp_path / "photos", **SETTINGS, data=data)
    (one,) = found.scores
    answers = [face.label for face in lhcnet.load(model).predict(files)]
    right = sum(answer == CLASSES[label] for answer, label in zip(answers, FACES.labels, strict=False))
    assert right > 0
    assert one.accuracy == right / 20
    assert (one.n, one.split, one.ci95[0] < one.accuracy < one.ci95[1]) == (20, "test", True)
    (tmp_path / "photos" / "other").mkdir()
    (tmp_path / "photos" / "other" / "a.png").write_bytes(b"")
    for place, more, says in (
        ("photos", {"data": data}, "unknown class folder other, expected own anger, "),
        ("photos/other/..", {"split": "train"}, "is no store, so it has no split train"),
        ("gone", {}, "is no store, expected a directory with"),
    ):
        with pytest.raises(LhcnetError, match=says):
            score_store(str(model), tmp_path / place, **SETTINGS | more)
