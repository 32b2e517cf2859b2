"""Maps find the place that decides, depend on the weights, and are refused where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.grey_model import GreyModel
from support.random_model import KINDS, write_model
from torch import Tensor, nn

import lhcnet
from lhcnet.data.drawn_faces import draw
from lhcnet.data.fer2013 import CLASSES
from lhcnet.errors import LhcnetError
from lhcnet.explain import METHODS, available, explain, explained
from lhcnet.models.lhcnet import LHCNet
from lhcnet.prediction.network import NetworkModel
from lhcnet.prediction.predictor import Predictor

FACES = draw(42, seed=3).images
HEADS = {"heads": 4, "d": 3}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    architecture = KINDS["lhcnet"] | {"modules": [HEADS] * 3 + [HEADS | {"heads": 2}, HEADS | {"heads": 1}]}
    architecture |= {"input_size": 64}
    return write_model(tmp_path_factory.mktemp("explained") / "model", architecture).path


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("explained") / "host", KINDS["host"]).path


class Corner(nn.Module):
    """Passes on the features at the bottom left, which is all that the network then sees."""

    def forward(self, x: Tensor) -> Tensor:
        mask, half = torch.zeros_like(x), x.shape[-1] // 2
        mask[..., half:, :half] = 1
        return x * mask


@pytest.mark.parametrize("kind", ["model", "host"])
def test_class_activation_finds_the_corner_that_alone_reaches_the_classifier(
    kind: str, request: pytest.FixtureRequest
) -> None:
    predictor = lhcnet.load(request.getfixturevalue(kind))
    network = predictor.model.network  # type: ignore[attr-defined]
    if kind == "model":
        network.bn = nn.Sequential(network.bn, Corner())  # the last layer before ReLU and pool
    else:
        network.attention[-1] = Corner()
    heat = sum(explain(predictor, FACES[0], "cam", label) for label in CLASSES)
    assert heat.sum() > 0
    assert heat[24:, :24].sum() / heat.sum() > 0.7  # interpolation of 2x2 places spreads a quarter of it


@pytest.mark.parametrize("kind", ["model", "host"])
def test_occlusion_finds_the_corner_that_is_all_a_network_sees(kind: str, request: pytest.FixtureRequest) -> None:
    predictor = lhcnet.load(request.getfixturevalue(kind))
    network = predictor.model.network  # type: ignore[attr-defined]
    network.register_forward_pre_hook(lambda _, given: (Corner()(given[0]),))
    values = explained(predictor, FACES[0], "occlusion").values
    assert np.abs(values[25:, :23]).max() > 1e-4
    assert np.abs(values[:11]).max() < 1e-6  # farther away than a patch is wide
    assert np.abs(values[:, 37:]).max() < 1e-6


@pytest.mark.parametrize("kind", ["model", "host"])
def test_other_weights_give_other_maps(kind: str, request: pytest.FixtureRequest) -> None:
    trained, other = (lhcnet.load(request.getfixturevalue(kind)) for _ in range(2))
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in other.model.network.parameters():  # type: ignore[attr-defined]
            if tensor.dim() > 1:
                tensor.copy_(tensor.flatten()[torch.randperm(tensor.numel())].view_as(tensor))
    for method in available(trained):
        found = []
        for face in FACES[:4]:
            one, same, two = (explain(p, face, method, "fear") for p in (trained, trained, other))
            np.testing.assert_array_equal(one, same)
            found.append(np.corrcoef(one.ravel(), two.ravel())[0, 1] if one.std() and two.std() else 0.0)
        assert np.mean(found) < 0.8, method


def test_a_map_has_the_size_of_the_picture_and_is_relative(model: Path) -> None:
    predictor = lhcnet.load(model)
    for method in METHODS:
        found = explained(predictor, FACES[0], method)
        assert found.heat.shape == (48, 48)
        assert found.heat.dtype == np.float32
        assert found.heat.min() >= 0
        assert found.heat.max() == 1
        assert found.label == (None if method == "attention" else predictor.predict(FACES[0])[0].label)
    assert explained(predictor, FACES[0], "cam").places == (2, 2)


def test_a_head_has_its_stripe_and_the_size_of_its_output(model: Path) -> None:
    predictor = lhcnet.load(model)
    network = predictor.model.network  # type: ignore[attr-defined]
    parts = explained(predictor, FACES[0], "attention").parts
    assert {slot: maps.shape for slot, maps in parts.items()} == {
        "LHC1": (4, 16, 16),
        "LHC2": (4, 16, 16),
        "LHC3": (4, 8, 8),
        "LHC4": (2, 4, 4),
        "LHC5": (1, 2, 2),
    }
    for head, maps in enumerate(parts["LHC1"]):
        rows = np.flatnonzero(maps.any(axis=1))
        assert rows.min() >= 4 * head
        assert rows.max() < 4 * (head + 1)
    given: list[Tensor] = []
    hook = network.attention[0].register_forward_hook(lambda _, x, y: given.extend((x[0], y)))
    predictor.predict(FACES[0])
    hook.remove()
    x, y = given
    expected = (y - x).square().mean(dim=1).sqrt() / x.square().mean().sqrt()
    np.testing.assert_allclose(parts["LHC1"].sum(axis=0), expected[0].numpy(), rtol=1e-3, atol=1e-6)


def test_a_control_weight_scales_attention() -> None:
    network = LHCNet([{"heads": 1, "d": 2}] * 5, control=True, input_size=32, depths=[1] * 4, widths=[4] * 4, head=[8])
    predictor = Predictor(NetworkModel(network.eval(), "c", CLASSES))
    before = explained(predictor, FACES[0], "attention").parts["LHC1"]
    slot = network.attention[0]
    factor = 1 + slot.w.tanh().item()
    slot.w.data.zero_()
    np.testing.assert_allclose(before, factor * explained(predictor, FACES[0], "attention").parts["LHC1"], rtol=1e-5)


def test_what_cannot_be_explained_is_one_sentence(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = lhcnet.load(host)
    assert available(predictor) == ("cam", "occlusion")
    cases: list[tuple[str, Predictor, Any, Any, str | None]] = [
        ("has no LHC modules; expected cam or occlusion", predictor, FACES[0], "attention", None),
        ("expected one of anger, .*, not happy", predictor, FACES[0], "cam", "happy"),
        ("expected a model directory", Predictor(GreyModel()), FACES[0], "cam", None),
        (r"expected grey values \(48, 48\) of uint8", predictor, FACES[0][:9], "cam", None),
    ]
    for says, asked, crop, method, label in cases:
        with pytest.raises(LhcnetError, match=says):
            explain(asked, crop, method, label)
    monkeypatch.setattr("lhcnet.explain.maps.find_spec", lambda _: None)
    with pytest.raises(LhcnetError, match=r"captum, not installed here: pip install 'lhcnet\[explain\]'"):
        explain(predictor, FACES[0], "cam")
