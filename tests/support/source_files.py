"""Drawn data in every shape, for the tests of the readers."""

import io
import tempfile
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest
from PIL import Image

from lhcnet.data.drawn_faces import draw, write_csv, write_zip
from lhcnet.data.sources import read
from lhcnet.errors import LhcnetError

FACES = draw(70, seed=1)


@cache
def csv_lines() -> list[str]:
    """FACES as a CSV."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "drawn.csv")
        write_csv(FACES, path)
        return path.read_text().splitlines()


@cache
def pngs() -> Mapping[str, bytes]:
    """FACES as PNG files, by name; all tests share it."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "drawn.zip")
        write_zip(FACES, path)
        with zipfile.ZipFile(path) as archive:
            return MappingProxyType({entry: archive.read(entry) for entry in archive.namelist()})


def zipped(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def text(lines: list[str], newline: str = "\n") -> bytes:
    return (newline.join(lines) + newline).encode()


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def grey(value: int = 7) -> Image.Image:
    return Image.new("L", (48, 48), value)


def message(source: Path) -> str:
    """The error for a source: one sentence, nothing written."""
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(LhcnetError) as caught:
        read(source)
    assert sorted(source.parent.rglob("*")) == before
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)
    return str(caught.value)


def without_usage(*usages: str) -> bytes:
    """The rows with these Usages as the competition's emotion,pixels."""
    return text(["emotion,pixels", *(line.rsplit(",", 1)[0] for line in csv_lines()[1:] if line.endswith(usages))])


def competition(path: Path) -> Path:
    files = {"train.csv": without_usage("Training"), "test.csv": without_usage("PublicTest", "PrivateTest")}
    return folder(path, files)
