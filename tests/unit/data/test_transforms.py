"""Upscaling and augmentation against TensorFlow's resize and keras-preprocessing' affine transformations."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden_weights import GOLDEN, below, fixture
from torch import Tensor

from lhcnet.data.transforms import affine, draw_affine, resize, upscale, warp

CASES = json.loads((GOLDEN / "keras_affine_cases.json").read_text())


def sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def test_upscale_is_the_reference_bit_for_bit() -> None:
    golden = fixture("resize")
    images = torch.from_numpy(golden["input_u8"])
    kept, truncated = upscale(images, 224, truncate=False), upscale(images, 224, truncate=True)
    assert kept.shape == (3, 1, 224, 224)
    assert kept.dtype == truncated.dtype == torch.float32
    np.testing.assert_array_equal(kept[:, 0, ::4, ::4], golden["every4_f32"])
    edges = torch.stack([kept[:, 0, 0], kept[:, 0, -1], kept[:, 0, :, 0], kept[:, 0, :, -1]], dim=1)
    np.testing.assert_array_equal(edges, golden["edges_f32"])
    np.testing.assert_array_equal(truncated[:, 0], golden["full_u8"])
    np.testing.assert_allclose(kept.double().mean(dim=(1, 2, 3)), golden["mean_f32"], rtol=1e-6)
    assert [sha256(image) for image in kept] == golden["sha256_f32"].tolist()
    assert [sha256(image.byte()) for image in truncated] == golden["sha256_u8"].tolist()


@pytest.mark.parametrize("truncate", [False, True])
def test_upscale_to_the_stored_size_is_the_identity(truncate: bool) -> None:
    images = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8)
    assert torch.equal(upscale(images, 48, truncate=truncate)[:, 0], images.float())


@pytest.mark.parametrize("size", [33, 48, 64, 96, 100, 224])
def test_upscale_is_half_pixel_bilinear_at_any_size(size: int) -> None:
    images = torch.randint(0, 256, (2, 48, 40), dtype=torch.uint8)
    expected = torch.nn.functional.interpolate(images[:, None].float(), (size, size), mode="bilinear")
    torch.testing.assert_close(upscale(images, size, truncate=False), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("images", [torch.zeros(2, 48, 48), torch.zeros(48, 48, dtype=torch.uint8)])
def test_upscale_refuses_what_the_store_does_not_hold(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, h, w\) uint8 images"):
        upscale(images, 224, truncate=False)


def golden_params(case: dict[str, float]) -> list[float]:
    return [float(case[key]) for key in ("theta", "tx", "ty", "zx", "zy", "flip_horizontal")]


@pytest.mark.parametrize("image", ["gradient", "random"])
def test_affine_is_the_reference(image: str) -> None:
    golden = fixture("keras_affine")
    params = torch.tensor([golden_params(case) for case in CASES.values()])
    images = torch.from_numpy(golden[image]).expand(len(CASES), 1, -1, -1)
    expected = torch.from_numpy(np.stack([golden[f"{name}/{image}"] for name in CASES]))[:, None]
    torch.testing.assert_close(affine(images, params), expected, rtol=0, atol=2e-3)
    for i in range(len(CASES)):  # alone as in a batch
        torch.testing.assert_close(affine(images[:1], params[i : i + 1]), expected[i : i + 1], rtol=0, atol=2e-3)


def keras_draw(seed: int, rotation: float, shift: float, zoom: float) -> list[float]:
    """keras-preprocessing 1.1.2, ImageDataGenerator.get_random_transform at 224x224 with horizontal flips."""
    random = np.random.RandomState(seed)
    theta = random.uniform(-rotation, rotation)
    tx, ty = (random.uniform(-shift, shift) * 224 if shift else 0.0 for _ in range(2))
    zx, zy = random.uniform(1 - zoom, 1 + zoom, 2) if zoom else (1.0, 1.0)
    return [theta, tx, ty, zx, zy, float(random.random_sample() < 0.5)]


def test_affine_of_a_face_with_drawn_parameters_is_the_reference() -> None:
    golden = fixture("keras_affine")
    stage1 = golden["random_params/stage1"][:, [0, 1, 2, 4, 5, 6]]
    np.testing.assert_allclose([keras_draw(seed, 30, 0, 0) for seed in range(6)], stage1, rtol=1e-12)
    params = torch.tensor([keras_draw(3, 10, 0.1, 0.1)])
    face = torch.from_numpy(golden["face_u8"])[None, None].float()
    expected = torch.from_numpy(golden["face_stage2_seed3_every4"])
    torch.testing.assert_close(affine(face, params)[0, 0, ::4, ::4], expected, rtol=0, atol=1e-3)


def test_affine_that_changes_nothing_is_exact() -> None:
    images = torch.rand(2, 1, 32, 32)
    flip = torch.tensor([[0.0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]])
    assert torch.equal(affine(images, flip), torch.stack([images[0], images[1].flip(2)]))


def test_affine_directions() -> None:
    """theta > 0 turns clockwise, tx > 0 moves up, ty > 0 moves left, zoom > 1 shows more."""
    image = torch.zeros(1, 1, 65, 65)
    image[..., 32, 50] = 255  # right of the centre

    def brightest(**params: float) -> tuple[int, int]:
        neutral = {"theta": 0.0, "tx": 0.0, "ty": 0.0, "zx": 1.0, "zy": 1.0, "flip": 0.0}
        out = affine(image, torch.tensor([list((neutral | params).values())]))[0, 0]
        return divmod(int(out.argmax()), 65)

    assert brightest(tx=5.0) == (27, 50)
    assert brightest(ty=5.0) == (32, 45)
    assert brightest(theta=90.0)[0] > 45
    assert brightest(zy=1.5) == (32, 44)  # (50 - 33) / 1.5 + 33
    assert brightest(flip=1.0) == (32, 14)


def test_draw_has_the_distribution_of_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = draw_affine(4000, rotation=10, shift=0.1, zoom=0.2, flip=True, size=224, generator=generator)
    assert drawn.shape == (4000, 6)
    for column, (low, high) in enumerate([(-10, 10), (-22.4, 22.4), (-22.4, 22.4), (0.8, 1.2), (0.8, 1.2)]):
        values = drawn[:, column]
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)
    assert set(drawn[:, 5].tolist()) == {0.0, 1.0}
    assert abs(drawn[:, 5].mean() - 0.5) < 0.03
    assert (torch.corrcoef(drawn.T) - torch.eye(6)).abs().max() < 0.06  # the two zooms too are independent


def test_draw_of_nothing_is_neutral_and_advances_equally() -> None:
    ends = []
    for rotation, flip in ((0.0, False), (30.0, True)):
        generator = torch.Generator().manual_seed(1)
        drawn = draw_affine(3, rotation=rotation, shift=0, zoom=0, flip=flip, size=224, generator=generator)
        ends.append(torch.rand(1, generator=generator))
        assert torch.equal(drawn[:, 1:5], torch.tensor([[0.0, 0, 1, 1]]).expand(3, 4))
    assert torch.equal(*ends)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 40),
    st.floats(-180, 180),
    st.floats(-20, 20),
    st.floats(-20, 20),
    st.floats(0.5, 1.5),
    st.floats(0.5, 1.5),
    st.booleans(),
)
def test_affine_is_its_matrix(size: int, theta: float, tx: float, ty: float, zx: float, zy: float, flip: bool) -> None:
    """Rot @ Shift @ Zoom about (S/2 + 0.5, S/2 + 0.5), clamped and bilinear, in float64 on a smooth image."""
    rows, columns = np.mgrid[0:size, 0:size].astype(float)
    image = 3 * rows - 2 * columns
    a = np.deg2rad(theta)
    rotate = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    move = np.array([[1, 0, tx], [0, 1, ty], [0, 0, 1]])
    centre = np.array([[1, 0, size / 2 + 0.5], [0, 1, size / 2 + 0.5], [0, 0, 1]])
    matrix = centre @ rotate @ move @ np.diag([zx, zy, 1]) @ np.linalg.inv(centre)
    source = np.einsum("ij,jrc->irc", matrix, np.stack([rows, columns, np.ones_like(rows)]))[:2]
    row, column = source.clip(0, size - 1)
    expected = 3 * row - 2 * column  # bilinear is exact on a plane
    params = torch.tensor([[theta, tx, ty, zx, zy, float(flip)]], dtype=torch.float64)
    ours = affine(torch.from_numpy(image)[None, None].float(), params)[0, 0].numpy()
    np.testing.assert_allclose(ours, expected[:, ::-1] if flip else expected, atol=2e-3)


def test_one_matrix_serves_a_batch() -> None:
    images = torch.rand(3, 1, 16, 16)
    turn, shift = torch.tensor([[[0.8, -0.6], [0.6, 0.8]]]), torch.tensor([[1.0, -2.0]])
    each = warp(images, turn.expand(3, 2, 2), shift.expand(3, 2))
    torch.testing.assert_close(warp(images, turn, shift), each)


def test_resize_down_and_up_keeps_a_constant() -> None:
    assert torch.equal(resize(torch.full((1, 1, 20, 20), 7.0), 33), torch.full((1, 1, 33, 33), 7.0))


def test_golden_modern_keras_is_another_transformation() -> None:
    """The newer Keras swaps axes and centre; the paper's results come from the older one."""
    golden = below(fixture("keras_affine"), "all/")
    assert np.abs(golden["random"] - golden["random_modern_keras"]).max() > 50
