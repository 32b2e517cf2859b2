"""Files that are changed while they are read, or after they were read: one sentence, or no effect."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.hostile.images import IMAGE_FILES, encoded
from support.hostile.models import model_files
from support.hostile.tables import LINES, VALID

from lhcnet.data import image_files, sources, tables
from lhcnet.data.drawn_faces import draw, write_zip
from lhcnet.data.store import open_store, write_stores
from lhcnet.errors import LhcnetError
from lhcnet.saved import open_model

CSV = "\n".join(LINES).encode()


def rewrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def replace(path: Path, content: bytes) -> None:
    path.with_name("new").write_bytes(content)
    path.with_name("new").replace(path)


@pytest.mark.parametrize("how", [rewrite, replace])
@pytest.mark.parametrize("kept", [0, 9, len(CSV) // 2, CSV.rindex(b"\n"), len(CSV) + 4])
@pytest.mark.parametrize("moment", [(sources, "open_table"), (tables.Table, "_lines")], ids=["open", "lines"])
def test_a_csv_changed_while_it_is_read(
    how: Callable[[Path, bytes], None],
    kept: int,
    moment: tuple[Any, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "fer.csv"
    path.write_bytes(CSV)
    original = getattr(*moment)

    def changing(*arguments: Any) -> Any:
        how(path, (CSV + b"\n\n\n\n")[:kept])
        return original(*arguments)

    monkeypatch.setattr(*moment, changing)
    with pytest.raises(LhcnetError, match=r"fer\.csv"):
        sources.read(path)


@pytest.mark.parametrize("kept", [0, 100, -100, -1])
def test_a_zip_changed_while_it_is_read(kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fer.zip"
    write_zip(draw(60, seed=1), path)
    original, content = image_files.read_pixels, path.read_bytes()

    def changing(entry: Any, reading: Any) -> Any:
        path.write_bytes(content[:kept])
        return original(entry, reading)

    monkeypatch.setattr(image_files, "read_pixels", changing)
    with pytest.raises(LhcnetError, match=r"fer\.zip"):
        sources.read(path)


def test_an_image_changed_while_a_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in IMAGE_FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    original = image_files.read_pixels

    def changing(entry: Any, reading: Any) -> Any:
        entry.path.write_bytes(encoded(Image.effect_noise((48, 48), 9)))
        return original(entry, reading)

    monkeypatch.setattr(image_files, "read_pixels", changing)
    with pytest.raises(LhcnetError, match=r"\.png cannot be read, .* changed while it was read"):
        sources.read(tmp_path)


def test_a_store_cut_off_after_it_was_opened_changes_nothing(tmp_path: Path) -> None:
    write_stores(VALID, tmp_path / "a", tmp_path / "b")
    store = open_store(tmp_path / "a")
    os.truncate(tmp_path / "a" / "images.npy", 0)
    assert np.array_equal(store.split("train")[0], VALID.images[VALID.splits == 0])


def test_weights_cut_off_after_they_were_read_change_nothing(tmp_path: Path) -> None:
    for name, content in model_files("modules").items():
        (tmp_path / name).write_bytes(content)
    network = open_model(tmp_path).network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    os.truncate(tmp_path / "model.safetensors", 0)
    assert all(np.array_equal(before[name], tensor) for name, tensor in network.state_dict().items())
