"""All shapes of FER2013 give the same arrays, and the real data the published counts."""

import io
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.source_files import FACES, competition, csv_lines, encoded, folder, message, pngs, text, zipped

from lhcnet.data.audit import audit
from lhcnet.data.drawn_faces import draw, write_csv
from lhcnet.data.fer2013 import CLASSES, FOLDERS, OFFICIAL_COUNTS, TEST, TRAIN, USAGE, VALIDATION, Faces, class_counts
from lhcnet.data.sources import read
from lhcnet.errors import LhcnetError

# --- every shape, the same data ----------------------------------------------------------------------------


def icml(lines: list[str]) -> list[str]:
    rows = [line.split(",") for line in lines[1:]]
    return ["emotion, Usage, pixels", *(f"{emotion},{usage},{pixels}" for emotion, pixels, usage in rows)]


def quoted(lines: list[str]) -> list[str]:
    return [",".join(f'"{cell}"' for cell in line.split(",")) for line in lines]


CSV_VARIANTS: dict[str, Callable[[list[str]], bytes]] = {
    "fer2013.csv": text,
    "icml_face_data.csv": lambda lines: text(icml(lines)),
    "windows.csv": lambda lines: b"\xef\xbb\xbf" + text(lines, "\r\n"),
    "quoted.csv": lambda lines: text(quoted(lines)),
    "reversed.csv": lambda lines: text([lines[0], *lines[:0:-1]]),
    "blank-lines.csv": lambda lines: text([*lines[:5], "", *lines[5:], "", "  "]),
    "no-last-newline.csv": lambda lines: text(lines).rstrip(),
    "double-blanks.csv": lambda lines: text([lines[0], *(line.replace(" ", "  ") for line in lines[1:])]),
    "by-content-not-by-name.png": text,
}


@pytest.mark.parametrize("name", CSV_VARIANTS)
@pytest.mark.parametrize("place", ["file", "folder", "archive", "zip"])
def test_csv(tmp_path: Path, name: str, place: str) -> None:
    content = CSV_VARIANTS[name](csv_lines())
    source = {
        "file": lambda: folder(tmp_path, {name: content}) / name,
        "folder": lambda: folder(tmp_path / "in", {name: content, "README": b"text", ".hidden.csv": b"emotion\n"}),
        "archive": lambda: folder(tmp_path / "in", {f"archive/fer2013/{name}": content}),
        "zip": lambda: zipped(tmp_path / "in.anything", {f"archive/{name}": content}, zipfile.ZIP_DEFLATED),
    }[place]()
    faces = read(source)
    assert (faces.digest, faces.shape, faces.validation) == (FACES.digest, "csv with Usage", "official")


@pytest.mark.parametrize("root", ["", "archive/", "./", "a/b/"])
@pytest.mark.parametrize("place", ["folder", "zip"])
def test_images(tmp_path: Path, root: str, place: str) -> None:
    files = {root + name: content for name, content in pngs().items()}
    files |= {"__MACOSX/train/angry/._x.png": b"junk", "train/angry/.DS_Store": b"junk", "test/sad/Thumbs.db": b"junk"}
    source = zipped(tmp_path / "in.zip", files) if place == "zip" else folder(tmp_path / "in", files)
    faces = read(source)
    assert (faces.digest, faces.shape) == (FACES.digest, "image folder (split in file names)")
    assert faces.validation == "official"


def test_other_encodings_and_names(tmp_path: Path) -> None:
    """Grey images stored in colour, and the class names of the re-exports and of the paper."""
    names = dict(
        zip(FOLDERS, ("anger", "Disgusted", "fearful", "happiness", "sadness", "surprised", "neutral"), strict=True)
    )
    modes = ["L", "RGB", "RGBA", "P", "LA"]
    files = {}
    for i, (name, content) in enumerate(pngs().items()):
        part, old, file = name.split("/")
        image = Image.open(io.BytesIO(content)).convert(modes[i % len(modes)])
        files[f"{part.title()}\\{names[old]}\\{file}"] = encoded(image)  # and as Windows writes it
    assert read(zipped(tmp_path / "in.zip", files)).digest == FACES.digest


def test_jpeg(tmp_path: Path) -> None:
    def as_jpeg(content: bytes, mode: str) -> bytes:
        return encoded(Image.open(io.BytesIO(content)).convert(mode), "JPEG")

    for mode in ("L", "RGB"):
        files = {name.replace("png", "jpg"): as_jpeg(content, mode) for name, content in pngs().items()}
        faces = read(zipped(tmp_path / f"{mode}.zip", files))
        assert (class_counts(faces.labels, faces.splits) == class_counts(FACES.labels, FACES.splits)).all()


def test_usage_is_preferred(tmp_path: Path) -> None:
    """Kaggle's zip holds icml_face_data.csv, train.csv, test.csv (without labels) and a sample."""
    files = {
        "example_submission.csv": b"emotion\n3\n",
        "icml_face_data.csv": text(icml(csv_lines())),
        "test.csv": b"pixels\n",
        "train.csv": b"emotion,pixels\n",
    }
    assert read(zipped(tmp_path / "in.zip", files)).digest == FACES.digest
    assert read(zipped(tmp_path / "two.zip", files | {"fer2013.csv": text(csv_lines())})).digest == FACES.digest
    other = text([csv_lines()[0], *csv_lines()[2:]])
    error = message(zipped(tmp_path / "x.zip", files | {"fer2013.csv": other}))
    assert "fer2013.csv: " in error
    assert "icml_face_data.csv: " in error


def test_linked_folder(tmp_path: Path) -> None:
    cache = folder(tmp_path / "cache", pngs())
    (tmp_path / "in").mkdir()
    for part in ("train", "test"):
        (tmp_path / "in" / part).symlink_to(cache / part)
    assert read(tmp_path / "in").digest == FACES.digest


# --- validation --------------------------------------------------------------------------------------------


def test_cut_validation(tmp_path: Path) -> None:
    pair = competition(tmp_path / "pair")
    faces = read(pair, validation_fraction=0.3, seed=5)
    assert (faces.shape, faces.validation) == ("competition train.csv/test.csv", "cut from train")
    before = class_counts(FACES.labels, FACES.splits)
    after = class_counts(faces.labels, faces.splits)
    assert (after[TEST] == before[VALIDATION] + before[TEST]).all()
    assert (after[TRAIN] + after[VALIDATION] == before[TRAIN]).all()
    assert np.abs(after[VALIDATION] - 0.3 * before[TRAIN]).max() <= 0.5

    reversed_rows = {
        path.name: text([(lines := path.read_text().splitlines())[0], *lines[:0:-1]]) for path in pair.iterdir()
    }
    assert read(folder(tmp_path / "reversed", reversed_rows), validation_fraction=0.3, seed=5).digest == faces.digest
    assert read(pair, validation_fraction=0.3, seed=6).digest != faces.digest

    unnamed = {name.replace("Training", "a").replace("PublicTest", "b").replace("PrivateTest", "c"): content
               for name, content in pngs().items()}  # fmt: skip
    images = read(folder(tmp_path / "images", unnamed), validation_fraction=0.3, seed=5)
    assert images.digest == faces.digest
    assert images.shape == "image folder (no split in file names)"
    assert images.validation == "cut from train"


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_fraction_is_checked(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(LhcnetError, match="validation_fraction"):
        read(competition(tmp_path / "pair"), validation_fraction=fraction)


def counted(label: int, number: int) -> Image.Image:
    """A cheap image that encodes which one it is."""
    pixels = np.zeros((48, 48), np.uint8)
    pixels[0, :3] = label, number // 256, number % 256
    return Image.fromarray(pixels)


def numbers(faces: Faces, split: int, label: int) -> list[int]:
    chosen = faces.images[(faces.splits == split) & (faces.labels == label)]
    return sorted(chosen[:, 0, 1].astype(int) * 256 + chosen[:, 0, 2])


def test_official_counts_of_the_re_export(tmp_path: Path) -> None:
    official = OFFICIAL_COUNTS[VALIDATION] + OFFICIAL_COUNTS[TEST]
    names = ("angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral")
    files, short = {}, {}
    for label, (name, count) in enumerate(zip(names, official.tolist(), strict=True)):
        files |= {f"train/{name}/im{k}.png": encoded(counted(label, 10_000 + k)) for k in range(3)}
        # Numbers without leading zeros, so that their order as text is another.
        files |= {f"test/{name}/im{k}.png": encoded(counted(label, k)) for k in range(count)}
    faces = read(zipped(tmp_path / "re-export.zip", files))
    assert (faces.shape, faces.validation) == ("image folder (re-export im<k>)", "official")
    for label, first in enumerate(OFFICIAL_COUNTS[VALIDATION].tolist()):
        assert numbers(faces, VALIDATION, label) == list(range(first))
        assert numbers(faces, TEST, label) == list(range(first, official[label]))

    short = {name: content for name, content in files.items() if not name.endswith("im400.png")}
    faces = read(zipped(tmp_path / "short.zip", short))
    assert (faces.shape, faces.validation) == ("image folder (re-export im<k>)", "cut from train")


def test_official_counts_of_the_competition(tmp_path: Path) -> None:
    official = OFFICIAL_COUNTS[VALIDATION] + OFFICIAL_COUNTS[TEST]
    rest = " 0" * (48 * 48 - 3)
    rows = [(label, k) for label, count in enumerate(official.tolist()) for k in range(count)]
    rows.sort(key=lambda row: row[1])  # classes mixed, as in the competition's file
    lines = [f"{label},{label} {k // 256} {k % 256}{rest}" for label, k in rows]
    train = [f"{label},{label} 100 {k}{rest}" for label in range(7) for k in range(2)]
    files = {"train.csv": text(["emotion,pixels", *train]), "test.csv": text(["emotion,pixels", *lines])}
    faces = read(folder(tmp_path / "in", files))
    assert (faces.shape, faces.validation) == ("competition train.csv/test.csv", "official")
    for label, first in enumerate(OFFICIAL_COUNTS[VALIDATION].tolist()):
        assert numbers(faces, VALIDATION, label) == list(range(first))
        assert numbers(faces, TEST, label) == list(range(first, official[label]))


# --- mutated CSVs ------------------------------------------------------------------------------------------


def reference(content: bytes) -> list[tuple[int, int, bytes]]:
    """A simple reader: (split, label, pixels) of each row; any exception means that the file is wrong."""
    header, *lines = content.decode("latin-1").split("\n")
    names = [cell.strip(' \t\r\n"').lower() for cell in header.split(",")]
    rows = []
    for line in lines:
        if line.strip(' \t\r\n"'):
            cells = dict(zip(names, (cell.strip(' \t\r\n"') for cell in line.split(",")), strict=True))
            values = bytes(int(value) for value in cells["pixels"].split())
            assert len(values) == 48 * 48
            rows.append((USAGE[cells["usage"]], int(cells["emotion"]), values))
    return sorted(rows)


SMALL = draw(42, seed=3)
INSERTED = [
    b"",
    b" ",
    b",",
    b"\n",
    b"\r\n",
    b"0",
    b"7",
    b"256",
    b"-",
    b"+",
    b".",
    b"_",
    b"e3",
    b'"',
    b"\t",
    b"\0",
    b"\xff",
]
MUTATIONS = st.tuples(st.floats(0, 1), st.sampled_from([0, 0, 1, 2, 5, 4000, 9000]), st.sampled_from(INSERTED))


def test_mutated_csv(tmp_path: Path) -> None:
    """A changed CSV is refused, or read as the reference reader reads it: both occur."""
    whole, mutated = tmp_path / "whole.csv", tmp_path / "mutated.csv"
    write_csv(SMALL, whole)
    outcomes = []

    @settings(max_examples=300, deadline=None)
    @given(st.lists(MUTATIONS, min_size=1, max_size=3))
    def check(mutations: list[tuple[float, int, bytes]]) -> None:
        content = whole.read_bytes()
        for position, cut, inserted in mutations:
            start = int(position**4 * len(content))  # to the power of 4: the header and the first rows are hit often
            content = content[:start] + inserted + content[start + cut :]
        mutated.write_bytes(content)
        try:
            faces = read(mutated)
        except LhcnetError:
            outcomes.append("refused")
            return
        rows = zip(faces.splits.tolist(), faces.labels.tolist(), faces.images, strict=True)
        assert [(split, label, image.tobytes()) for split, label, image in rows] == reference(content)
        outcomes.append("read")

    check()
    assert {"refused", "read"} <= set(outcomes)


# --- the real data -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fer2013() -> Faces:
    source = os.environ.get("FER2013")
    if not source:
        pytest.skip("FER2013 not set: name the real data set in it to check the published counts")
    start = time.perf_counter()
    faces = read(Path(source))
    print(f"\n{source}: {len(faces.images):,} images read in {time.perf_counter() - start:.1f} s")
    return faces


@pytest.mark.real
def test_real_counts(fer2013: Faces) -> None:
    assert (class_counts(fer2013.labels, fer2013.splits) == OFFICIAL_COUNTS).all()
    assert fer2013.validation == "official"


@pytest.mark.real
def test_real_audit(fer2013: Faces) -> None:
    found = audit(fer2013)
    assert found.images == 35_887
    assert found.distinct == 34_034
    assert found.repeats == 1_853
    assert found.in_several_splits == 557
    assert found.train_duplicates == {"validation": 280, "test": 288}
    assert found.with_several_labels == 57
    assert found.blank == {"train": 12, "validation": 1, "test": 0}
    assert found.constant == {"train": 11, "validation": 1, "test": 0}
    assert {split: round(mean, 2) for split, mean in found.mean_grey.items()} == {
        "train": 129.47,
        "validation": 128.98,
        "test": 129.08,
    }
    assert list(found.counts["test"]) == list(CLASSES)
