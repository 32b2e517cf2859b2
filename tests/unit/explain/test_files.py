"""`lhcnet explain`: pictures and arrays of the maps, exit status; the colours of an overlay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.random_model import KINDS, write_model
from typer.testing import CliRunner

from lhcnet.cli import app
from lhcnet.data.drawn_faces import draw
from lhcnet.explain import overlay

Command = Callable[..., Any]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command in a folder with a model and a picture."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model", KINDS["lhcnet"])
    Image.fromarray(draw(42, seed=0).images[0]).save("face.png")
    return lambda *words: CliRunner().invoke(app, ["explain", "model", *words, "--out", "out"])


def test_all_maps_are_a_picture_and_arrays(command: Command) -> None:
    Path("bad.png").write_bytes(b"no picture")
    done = command("face.png", "bad.png", "face.png", "--label", "fear")
    assert str(done.exception) == "1 of 3 inputs could not be read"
    assert "bad.png cannot be read" in done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["face.png", "face.png"]
    assert done.stdout.count("attention, all heads; out/face") == 2
    assert sorted(path.name for path in Path("out").iterdir()) == ["face-2.npz", "face-2.png", "face.npz", "face.png"]
    with np.load("out/face.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"crop", "cam", "occlusion", "attention", *(f"attention/LHC{i}" for i in range(1, 6))}
        assert arrays["occlusion"].shape == arrays["crop"].shape == (48, 48)
        assert arrays["attention/LHC1"].shape == (1, 8, 8)
    assert Image.open("out/face.png").convert("RGB").getcolors(1) is None
    assert "out: is not empty" in str(command("face.png").exception)


def test_a_wrong_label_writes_nothing(command: Command) -> None:
    assert "label: expected one of anger" in str(command("face.png", "--label", "happy").exception)
    assert not Path("out").exists()


def test_an_overlay_colours_what_is_hot_alone() -> None:
    heat = np.zeros((48, 48), np.float32)
    heat[30:40, 10:20] = 1
    pixels = np.asarray(overlay(Image.new("RGB", (96, 48), (90, 90, 90)), heat)).astype(int)
    assert pixels.shape == (320, 640, 3)
    assert (pixels[:160] == 90).all()
    assert np.ptp(pixels[35 * 320 // 48, 15 * 640 // 48]) > 60
    assert (pixels == 255).all(axis=2).any()  # the line around it
