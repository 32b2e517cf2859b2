"""Everything that can be wrong with an input is one sentence that says where and what was expected."""

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import hostile
from support.hostile.choices import Choices
from support.hostile.images import deflate_bomb, zeros
from support.source_files import FACES, competition, csv_lines, encoded, folder, grey, message, pngs, text, zipped

from lhcnet.data import archive, tables
from lhcnet.data.fer2013 import SPLITS
from lhcnet.data.sources import read
from lhcnet.errors import LhcnetError

# --- what is wrong with a CSV ------------------------------------------------------------------------------


def pixels(change: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    def changed(line: str) -> str:
        emotion, grey_values, usage = line.split(",")
        return f"{emotion},{' '.join(change(grey_values.split()))},{usage}"

    return changed


BAD_ROWS: dict[str, tuple[Callable[[str], str], str]] = {
    "2,303 pixels": (pixels(lambda p: p[:-1]), "2,303 pixels, expected 2,304"),
    "2,305 pixels": (pixels(lambda p: [*p, "0"]), "2,305 pixels"),
    "no pixels": (pixels(lambda p: []), "0 pixels"),
    "256": (pixels(lambda p: ["256", *p[1:]]), "pixel value 256"),
    "beyond int64": (pixels(lambda p: [str(1 << 64), *p[1:]]), "pixel value 18446744073709551616"),
    "negative": (pixels(lambda p: [*p[:-1], "-1"]), "pixel value -1"),
    "fraction": (pixels(lambda p: [*p[:9], "1.5", *p[10:]]), "pixel value 1.5"),
    "not a number": (pixels(lambda p: ["nan", *p[1:]]), "pixel value nan"),
    "two in one": (pixels(lambda p: ["1+2", *p[2:]]), "2,303 pixels"),
    "label 7": (lambda line: "7" + line[1:], "emotion 7, expected a whole number 0..6"),
    "label -1": (lambda line: "-1" + line[1:], "emotion -1"),
    "label 3.0": (lambda line: "3.0" + line[1:], "emotion 3.0"),
    "label happy": (lambda line: "happy" + line[1:], "emotion happy"),
    "no label": (lambda line: line[1:], "emotion (nothing)"),
    "unknown Usage": (lambda line: line.rsplit(",", 1)[0] + ",Holdout", "Usage Holdout, expected Training"),
    "no Usage": (lambda line: line.rsplit(",", 1)[0] + ",", "Usage (nothing)"),
    "cell missing": (lambda line: line.rsplit(",", 1)[0], "2 cells, expected 3"),
    "cell too many": (lambda line: line + ",1", "4 cells, expected 3"),
    "endless": (lambda line: line + "0" * (1 << 17), "longer than 65,536 bytes"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
@pytest.mark.parametrize("row", [2, 40, 71])
def test_bad_row(tmp_path: Path, case: str, row: int) -> None:
    change, expected = BAD_ROWS[case]
    lines = [change(line) if number == row else line for number, line in enumerate(csv_lines(), start=1)]
    error = message(folder(tmp_path, {"fer.csv": text(lines)}) / "fer.csv")
    assert f"fer.csv, line {row}" in error
    assert expected in error
    error = message(zipped(tmp_path / "in.zip", {"archive/fer.csv": text(lines)}))
    assert f"in.zip/archive/fer.csv, line {row}" in error
    assert expected in error


def test_first_bad_row_is_named(tmp_path: Path) -> None:
    lines = [line if number < 9 else "7" + line[1:] for number, line in enumerate(csv_lines(), start=1)]
    assert "fer.csv, line 9: emotion 7" in message(folder(tmp_path, {"fer.csv": text(lines)}) / "fer.csv")


def test_blank_lines_count(tmp_path: Path) -> None:
    lines = [csv_lines()[0], "", csv_lines()[1], "7" + csv_lines()[2][1:]]
    assert "fer.csv, line 4: emotion 7" in message(folder(tmp_path, {"fer.csv": text(lines)}) / "fer.csv")


@pytest.mark.parametrize(
    ("header", "missing"),
    [("emotion,pixel,Usage", "pixels"), ("label,pixels,Usage", "emotion"), ("emotion,pixels,split", "usage")],
)
def test_missing_column(tmp_path: Path, header: str, missing: str) -> None:
    source = folder(tmp_path, {"fer.csv": text([header, *csv_lines()[1:]])}) / "fer.csv"
    assert f"fer.csv, line 1: no column {missing}" in message(source)


def test_test_csv_without_labels(tmp_path: Path) -> None:
    pair = competition(tmp_path / "pair")
    (pair / "test.csv").write_text("pixels\n" + " ".join(["0"] * 2304) + "\n")
    assert "test.csv, line 1: no column emotion" in message(pair)


@pytest.mark.parametrize("name", ["val.csv.gz", "validation.zip", "PublicTest.csv", "VAL.TSV"])
def test_a_third_split_that_is_not_read_is_named(tmp_path: Path, name: str) -> None:
    """A compressed one, one of other columns: with train.csv and test.csv it would be dropped without a word."""
    files = {file.name: file.read_bytes() for file in competition(tmp_path / "two").iterdir()}
    assert read(tmp_path / "two").validation == "cut from train"
    unread = b"label,image\n1,a.png\n"  # or what a compressed file begins with
    assert f"{name} was not read, expected a CSV" in message(folder(tmp_path / "three", files | {name: unread}))
    read(folder(tmp_path / "empty", files | {name: b""}))
    read(folder(tmp_path / "notes", files | {"notes.csv": b"a,b\n1,2\n", "validation.txt": b"x"}))


def test_competition_file_alone(tmp_path: Path) -> None:
    assert "no column usage" in message(competition(tmp_path / "pair") / "train.csv")


@pytest.mark.parametrize("split", SPLITS)
def test_empty_class_in_csv(tmp_path: Path, split: str) -> None:
    usage = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}[split]
    lines = [line for line in csv_lines() if not (line.startswith("1,") and line.endswith(usage))]
    error = message(folder(tmp_path, {"fer.csv": text(lines)}) / "fer.csv")
    assert f"fer.csv has no image of class disgust in {split}" in error


def test_header_alone(tmp_path: Path) -> None:
    assert "no image of class anger" in message(folder(tmp_path, {"a.csv": b"emotion,pixels,Usage\n"}) / "a.csv")


def test_csv_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MAX_CSV", 1000)
    assert "expected at most 1,000" in message(folder(tmp_path, {"fer.csv": text(csv_lines())}) / "fer.csv")


# --- what is wrong with files, folders and zips ------------------------------------------------------------

NO_FER2013 = {
    "text.txt": b"hello\n",
    "binary": bytes(range(256)),
    "other.csv": b"a,b\n1,2\n",
    "face.png": encoded(grey()),
}


@pytest.mark.parametrize("name", NO_FER2013)
def test_no_fer2013(tmp_path: Path, name: str) -> None:
    assert name in message(folder(tmp_path, {name: NO_FER2013[name]}) / name)
    assert name.split(".")[0] in message(zipped(tmp_path / f"{name}.zip", {name: NO_FER2013[name]}))


def test_missing_empty_and_special(tmp_path: Path) -> None:
    assert "nowhere.csv does not exist" in message(tmp_path / "nowhere.csv")
    assert "empty.csv is empty" in message(folder(tmp_path, {"empty.csv": b""}) / "empty.csv")
    (tmp_path / "folder").mkdir()
    assert "folder is no FER2013" in message(tmp_path / "folder")
    assert "none.zip is no FER2013" in message(zipped(tmp_path / "none.zip", {}))
    os.mkfifo(tmp_path / "pipe")
    assert "pipe does not exist or is no file" in message(tmp_path / "pipe")


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path / "in", pngs())
    (source / "train/angry/Training_99999.png").symlink_to(tmp_path / "gone.png")
    assert "No such file or directory" in (error := message(source))
    assert "Training_99999.png" in error

    def denied(self: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    (tmp_path / "fer.csv").write_bytes(b"emotion")
    monkeypatch.setattr(Path, "open", denied)
    assert "fer.csv cannot be read, expected readable files: [Errno 13] Permission denied" in message(
        tmp_path / "fer.csv"
    )


def test_link_loop(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", pngs())
    (source / "train/again").symlink_to(source)
    with pytest.raises(LhcnetError):
        read(source)


def test_truncated_zip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.zip", pngs())
    whole = path.read_bytes()
    for size in (2, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "in.zip cannot be read, expected a complete zip" in message(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_bad_checksum(tmp_path: Path, compression: int) -> None:
    for name, files in (("png", pngs()), ("csv", {"fer.csv": text(csv_lines())})):
        path = zipped(tmp_path / f"{name}.zip", files, compression)
        data = bytearray(path.read_bytes())
        data[data.index(b"PK", 400) - 10] ^= 1  # inside the first member
        path.write_bytes(data)
        assert f"{name}.zip/{next(iter(files))} cannot be read" in message(path)


UNSAFE = ["/train/angry/x.png", "../x.png", "train/../../x.png", "C:/x.png", "c:x.png", "..\\x.png", "\\x.png"]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_path(tmp_path: Path, name: str) -> None:
    assert "in.zip has the unsafe entry" in message(zipped(tmp_path / "in.zip", {**pngs(), name: b"x"}))


def test_link_in_zip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.zip", pngs())
    link = zipfile.ZipInfo("train/angry/Training_9.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(link, "/etc/passwd")
    assert "train/angry/Training_9.png is a symbolic link" in message(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_path_twice_in_zip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.zip", pngs())
    name = next(iter(pngs()))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"other")
    assert f"{name} occurs twice" in message(path)


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(iter(pngs()))
    bomb = zipped(tmp_path / "bomb.zip", pngs() | {name: bytes(2 << 20)}, zipfile.ZIP_DEFLATED)
    assert f"{name} claims 2,097,152 bytes" in message(bomb)
    huge = encoded(Image.new("1", (8000, 8000)))  # a few kilobytes
    assert f"{name} is 8000x8000" in message(zipped(tmp_path / "huge.zip", pngs() | {name: huge}))
    monkeypatch.setattr(archive, "_MAX_FILES", 10)
    monkeypatch.setattr(archive, "_MAX_IN_FOLDER", 10)
    assert "more than 10 files" in message(folder(tmp_path / "in", pngs()))
    assert "more than 10 files" in message(zipped(tmp_path / "many.zip", pngs()))


def test_fuzzed_zip(tmp_path: Path) -> None:
    """A changed byte is refused, or it does not change the data: both occur."""
    path = zipped(tmp_path / "in.zip", pngs())
    whole = path.read_bytes()
    rng, accepted = np.random.default_rng(0), 0
    positions = [*rng.integers(0, len(whole), 60), *(len(whole) - rng.integers(1, 3000, 140))]
    for position in positions:
        data = bytearray(whole)
        data[position] = rng.integers(256)
        path.write_bytes(data)
        try:
            found = read(path)
        except LhcnetError:
            continue
        assert found.digest == FACES.digest
        accepted += 1
    assert 0 < accepted < len(positions)


# --- what is wrong with images -----------------------------------------------------------------------------

COLOUR = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8))
TRANSPARENT = Image.new("RGBA", (48, 48), (9, 9, 9, 0))
HEAD = encoded(grey())[:33]


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[len(data) + at + 1 :]


BAD_IMAGES = {
    "short png": (HEAD + chunk(b"IDAT", zlib.compress(bytes(49 * 40))) + chunk(b"IEND", b""), "cannot be read"),
    "no filter 9": (HEAD + chunk(b"IDAT", zlib.compress(b"\x09" * 49 * 48)) + chunk(b"IEND", b""), "cannot be read"),
    "bad checksum": (
        HEAD + chunk(b"IDAT", zlib.compress(bytes(49 * 48))[:-1] + b"!") + chunk(b"IEND", b""),
        "cannot be read",
    ),
    "no deflate": (HEAD + chunk(b"IDAT", b"junk") + chunk(b"IEND", b""), "cannot be read"),
    "no image": (b"hello", "cannot be read, expected an undamaged PNG or JPEG"),
    "empty": (b"", "cannot be read"),
    "truncated png": (encoded(Image.effect_noise((48, 48), 9))[:1000], "cannot be read"),
    "truncated jpeg": (encoded(grey(), "JPEG")[:200], "cannot be read"),
    "other format": (encoded(grey(), "BMP"), "cannot be read"),
    "too wide": (encoded(Image.new("L", (49, 48))), "is 49x48, expected 48x48"),
    "too small": (encoded(Image.new("L", (1, 1))), "is 1x1"),
    "colour": (encoded(COLOUR), "is not grey (mode RGB)"),
    "colour jpeg": (encoded(COLOUR, "JPEG"), "is not grey (mode RGB)"),
    "colour, bad checksum": (flipped(encoded(grey().convert("RGB")), -14), "cannot be read"),
    "colour, no end": (encoded(grey().convert("RGB"))[:-12], "cannot be read"),
    "palette": (encoded(COLOUR.quantize(16)), "is not grey (mode P)"),
    "transparent": (encoded(TRANSPARENT), "is not grey (mode RGBA)"),
    "16 bit": (encoded(Image.fromarray(np.full((48, 48), 999, np.uint16))), "is not grey (mode I;16)"),
    "cmyk": (encoded(grey().convert("CMYK"), "JPEG"), "is not grey (mode CMYK)"),
}


def test_every_png_filter(tmp_path: Path) -> None:
    """Each filter in the first row, where the row above counts as black, and in the others."""
    files, expected = dict(pngs()), []
    rng = np.random.default_rng(0)
    for name, kind in zip(list(files), [0, 1, 2, 3, 4] * 4, strict=False):
        filtered = rng.integers(0, 256, (48, 49), np.uint8)
        filtered[:, 0] = [kind, *rng.integers(0, 5, 47)]
        files[name] = HEAD + chunk(b"IDAT", zlib.compress(filtered.tobytes())) + chunk(b"IEND", b"")
        expected.append(Image.open(io.BytesIO(files[name])).tobytes())
    found = {image.tobytes() for image in read(zipped(tmp_path / "in.zip", files)).images}
    assert len(set(expected)) == 20
    assert set(expected) <= found


def interlaced(missing: int) -> bytes:
    """A grey PNG interlaced by Adam7 (seven passes of columns and rows), without its last `missing` bytes of rows."""
    passes = [(6, 6), (6, 6), (12, 6), (12, 12), (24, 12), (24, 24), (48, 24)]
    rows = b"".join((b"\0" + bytes([9]) * columns) * rows for columns, rows in passes)
    data = chunk(b"IDAT", zlib.compress(rows[: len(rows) - missing]))
    return HEAD[:8] + chunk(b"IHDR", HEAD[16:28] + b"\1") + data + chunk(b"IEND", b"")


def test_an_interlaced_png(tmp_path: Path) -> None:
    name = list(pngs())[30]
    faces = read(folder(tmp_path / "whole", pngs() | {name: interlaced(0)}))
    assert bytes([9]) * 48 * 48 in {image.tobytes() for image in faces.images}
    for missing in (1, 49):
        error = message(folder(tmp_path / "short", pngs() | {name: interlaced(missing)}))
        assert name in error
        assert "rows are missing" in error


@pytest.mark.parametrize("case", BAD_IMAGES)
@pytest.mark.parametrize("place", ["folder", "zip"])
def test_bad_image(tmp_path: Path, case: str, place: str) -> None:
    content, expected = BAD_IMAGES[case]
    files = pngs() | {list(pngs())[30]: content}
    error = message(folder(tmp_path / "in", files) if place == "folder" else zipped(tmp_path / "in", files))
    assert f"in/{list(pngs())[30]}" in error
    assert expected in error


MISPLACED = {
    "validation/angry/x.png": "is in test but is named PublicTest_00000.png",
    "holdout/angry/x.png": "is misplaced",
    "train/angry/notes.txt": "expected an undamaged PNG or JPEG image",
    "x.png": "is misplaced",
    "train/x.jpg": "is misplaced",
    "train/angry/deep/x.png": "is misplaced",
    "train/contempt/Training_1.png": "unknown class folder contempt",
    "train/angry/PublicTest_1.png": "is in train but is named PublicTest_1.png",
    "test/angry/Training_1.png": "is in test but is named Training_1.png",
    "test/angry/im7.png": "im7.png has no split in its name",
    "copy/train/angry/Training_1.png": "image folders (., copy)",
}


@pytest.mark.parametrize("name", MISPLACED)
def test_misplaced_image(tmp_path: Path, name: str) -> None:
    error = message(folder(tmp_path / "in", pngs() | {name: b"text" if name.endswith("txt") else encoded(grey())}))
    assert MISPLACED[name] in error
    assert " at 0x" not in error


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("keep_folder", [True, False])
def test_missing_class_folder(tmp_path: Path, part: str, keep_folder: bool) -> None:
    files = {name: content for name, content in pngs().items() if f"{part}/sad" not in name}
    source = folder(tmp_path / "in", files)
    if keep_folder:
        (source / part / "sad").mkdir()
    error = message(source)
    assert "no image of class sadness in " + ("train" if part == "train" else "validation") in error


# --- what the fuzzer found ---------------------------------------------------------------------------------


def test_names_in_a_zip_cannot_break_the_line_or_move_the_cursor(tmp_path: Path) -> None:
    name = "train/angry/a\nb\x1b[2J.png"
    assert r"a\nb\x1b[2J.png" in message(zipped(tmp_path / "in.zip", {**pngs(), name: b"x"}))
    assert len(message(zipped(tmp_path / "long.zip", {**pngs(), f"x/{'y' * 60_000}.png": b"x"}))) < 4100


def test_an_image_that_inflates_beyond_its_claim_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def smuggle(c: Choices, folder: Path) -> bool:
        (folder / "in" / "in.zip").write_bytes(deflate_bomb(c))
        assert "in.zip/train/angry" in message(folder / "in" / "in.zip")
        return False

    monkeypatch.setattr(hostile, "TARGETS", {"bomb": smuggle})
    zeros()
    hostile.one("bomb", b"", tmp_path / "input")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_inflate_without_a_limit_are_refused(method: int, tmp_path: Path) -> None:
    assert f"is packed by method {method}" in message(zipped(tmp_path / "in.zip", pngs(), method))


def test_a_zip_that_claims_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MAX_UNPACKED", 1000)
    assert "bytes unpacked, expected at most 1,000" in message(zipped(tmp_path / "in.zip", pngs()))


def test_a_csv_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MAX_LINES", 100)
    content = text(csv_lines()) + b"\n" * 100
    assert "has more than 100 lines" in message(folder(tmp_path, {"fer.csv": content}) / "fer.csv")


def test_a_column_that_stands_twice(tmp_path: Path) -> None:
    lines = [f"{line.split(',')[0]},{line}" for line in csv_lines()]
    assert "column emotion occurs twice" in message(folder(tmp_path, {"fer.csv": text(lines)}) / "fer.csv")


@pytest.mark.filterwarnings("error")
def test_a_huge_image_is_refused_without_a_warning(tmp_path: Path) -> None:
    size = (10_000).to_bytes(4) * 2
    huge = (
        HEAD[:8] + chunk(b"IHDR", size + HEAD[24:29]) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )
    assert "is 10000x10000, expected 48x48" in message(folder(tmp_path / "in", {**pngs(), next(iter(pngs())): huge}))
