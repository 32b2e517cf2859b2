"""The 60 views of test-time augmentation against the reference implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.golden_weights import fixture
from torch import Tensor

from lhcnet.inference.tta import View, plain_views, render, tta_views

VIEWS = tta_views()


def images() -> Tensor:
    return torch.from_numpy(fixture("tta")["images_u8"])[:, None].float()


def fake_model(image: Tensor) -> Tensor:
    """The fixture's stand-in for a network: means of seven bands of columns, softmax."""
    bands = image[:, 0].unflatten(2, (7, 32)).mean(dim=(1, 3)) / 40
    return bands.softmax(1)


def test_views_are_the_reference_in_its_order() -> None:
    golden = fixture("tta")
    assert golden["params_columns"].tolist() == ["zoom", "rot", "shift_h", "shift_v", "flip"]
    ours = [[v.zoom, v.rotation, v.shift_h, v.shift_v, v.flip] for v in VIEWS]
    np.testing.assert_array_equal(ours, golden["params"])
    np.testing.assert_array_equal([v.weight for v in VIEWS], golden["weights"])
    assert sum(v.weight for v in VIEWS) == golden["count"] == 62


@pytest.mark.parametrize("i", range(60))
def test_render_is_the_reference(i: int) -> None:
    golden, out = fixture("tta"), render(images(), VIEWS[i])
    assert out.shape == (2, 1, 224, 224)
    for ours, key in (
        (out[:, 0, ::4, ::4], "every4"),
        (out[:, 0, -1, ::4], "last_row"),
        (out[:, 0, ::4, -1], "last_col"),
    ):
        torch.testing.assert_close(ours, torch.from_numpy(golden[key][i]), rtol=0, atol=0.02, msg=key)
    np.testing.assert_allclose(out.mean(dim=(1, 2, 3)), golden["mean"][i], atol=1e-3)
    np.testing.assert_allclose(out.std(dim=(1, 2, 3), correction=0), golden["std"][i], atol=1e-3)
    np.testing.assert_allclose(fake_model(out), golden["fake_preds"][i], atol=1e-5)


def test_weighted_mean_is_the_reference() -> None:
    total = sum(v.weight for v in VIEWS)
    mean = torch.stack([v.weight / total * fake_model(render(images(), v)) for v in VIEWS]).sum(0)
    np.testing.assert_allclose(mean, fixture("tta")["fake_tta"], atol=1e-6)


def test_plain_is_the_image_itself() -> None:
    (view,) = plain_views()
    assert view.weight == 1
    assert torch.equal(render(images(), view), images())
    assert torch.equal(render(images(), VIEWS[0]), images())


def test_second_batch_takes_its_angle() -> None:
    paper = tta_views(0.4)
    assert paper[:54] == VIEWS[:54]
    assert [v.rotation for v in paper[54:]] == [0, 0, 0.4, 0.4, -0.4, -0.4]
    assert [v.zoom for v in paper[54:]] == [0.9] * 6
    assert len(set(paper)) == 60


def test_batch_is_rendered_image_by_image() -> None:
    for view in (VIEWS[17], VIEWS[58]):
        both = render(images(), view)
        torch.testing.assert_close(both, torch.cat([render(image[None], view) for image in images()]))


def test_shifts_scale_with_the_side() -> None:
    image = torch.zeros(1, 1, 112, 112)
    image[..., 50, 50] = 1
    assert render(image, View(shift_h=10, shift_v=-20))[0, 0, 40, 55] == 1
    half = render(image, View(shift_h=1))[0, 0, 50]  # half a pixel
    assert half[50:52].tolist() == [0.5, 0.5]


def test_directions() -> None:
    """Positive rotation is counter-clockwise; the flip comes first, so it is not mirrored itself."""
    image = torch.zeros(1, 1, 65, 65)
    image[..., 32, 52] = 1  # right of the centre
    row, _ = divmod(int(render(image, View(rotation=0.4)).argmax()), 65)
    assert row < 32
    row, column = divmod(int(render(image, View(rotation=0.4, flip=True)).argmax()), 65)
    assert row > 32
    assert column < 32


@pytest.mark.parametrize("size", [48, 64, 96])
def test_other_sides_keep_their_shape(size: int) -> None:
    x = torch.full((2, 1, size, size), 128.0)
    for view in (VIEWS[1], VIEWS[30], VIEWS[-1]):
        torch.testing.assert_close(render(x, view), x)


@pytest.mark.parametrize("zoom", [0.0, 1.1, -0.5])
def test_impossible_zoom_is_refused(zoom: float) -> None:
    with pytest.raises(ValueError, match="must be more than 0 and at most 1"):
        View(zoom=zoom)
