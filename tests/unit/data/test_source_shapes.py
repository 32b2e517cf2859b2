"""The shapes in which people hand over FER2013: the same data, or one sentence that says what was found and what to do.

Never fewer images than were handed in without a word.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support.source_files import FACES, competition, csv_lines, encoded, folder, grey, message, pngs, text, zipped

from lhcnet.data import archive, tar
from lhcnet.data.fer2013 import FOLDERS, split_of_name
from lhcnet.data.sources import read

HEADER = csv_lines()[0]
USAGES = ("Training", "PublicTest", "PrivateTest")


def rows(*usages: str, usage: bool = False, repeat: int = 1) -> bytes:
    """The rows with these Usages, with the column Usage or without it."""
    found = [line for line in csv_lines()[1:] if line.endswith(usages)] * repeat
    lines = [HEADER, *found]
    return text(lines if usage else [line.rsplit(",", 1)[0] for line in lines])


def three(names: tuple[str, str, str], *, usage: bool = False) -> dict[str, bytes]:
    return {name: rows(split, usage=usage) for name, split in zip(names, USAGES, strict=True)}


# --- tables ------------------------------------------------------------------------------------------------

WHOLE = {"fer2013.csv": text(csv_lines())}
THREE_TABLES = {
    "val": three(("train.csv", "val.csv", "test.csv")),
    "valid": three(("train.csv", "valid.csv", "test.csv")),
    "validation, in folders": three(("a/train.csv", "a/validation.csv", "a/test.csv")),
    "fer2013_": three(("fer2013_train.csv", "fer2013_valid.csv", "fer2013_test.csv")),
    "the competition's Usages": three(("Training.csv", "PublicTest.csv", "PrivateTest.csv")),
    "test_private": three(("train.csv", "test.csv", "test_private.csv")),
    "public and private": three(("train.csv", "test_public.csv", "test_private.csv")),
    "a copy of one": three(("train.csv", "val.csv", "test.csv")) | {"old/val.csv": rows("PublicTest")},
    "with Usage": three(("train.csv", "val.csv", "test.csv"), usage=True),
    "with Usage, any names": three(("a.csv", "b.csv", "c.csv"), usage=True),
    "two with Usage": {"a.csv": rows("Training", usage=True), "b.csv": rows("PublicTest", "PrivateTest", usage=True)},
    "parts beside the whole": WHOLE | three(("train.csv", "val.csv", "test.csv"), usage=True),
    "parts without Usage beside the whole": WHOLE | three(("train.csv", "val.csv", "test.csv")),
}


@pytest.mark.parametrize("name", THREE_TABLES)
@pytest.mark.parametrize("pack", [folder, zipped])
def test_three_tables(tmp_path: Path, name: str, pack: Callable[[Path, Mapping[str, bytes]], Path]) -> None:
    faces = read(pack(tmp_path / "in", THREE_TABLES[name]))
    assert (faces.digest, faces.validation) == (FACES.digest, "official")


PAIR = {"train.csv": rows("Training"), "test.csv": rows("PublicTest", "PrivateTest")}
MORE_THAN_USED: dict[str, tuple[dict[str, bytes], list[str]]] = {
    "another table": (PAIR | {"extra.csv": rows("Training")}, ["in/extra.csv has images, but", "rename it"]),
    "labels of another name beside the pair": (PAIR | {"more.csv": b"label,pixels\n0,1\n"}, ["in/more.csv has images"]),
    "two tests": (
        PAIR | {"val.csv": rows("PublicTest"), "test_private.csv": rows("PrivateTest")},
        ["several tables for test (test.csv, test_private.csv)"],
    ),
    "another train": (PAIR | {"old/train.csv": rows("Training", repeat=2)}, ["several tables for train"]),
    "no test": ({"train.csv": PAIR["train.csv"], "val.csv": PAIR["test.csv"]}, ["no test.csv", "rename val.csv"]),
    "beside the whole": (WHOLE | {"more.csv": rows("Training", repeat=2)}, ["in/more.csv has labelled images"]),
    "labels of another name": (
        WHOLE | {"more.csv": b"label,pixels\n0,1\n"},
        ["in/more.csv, line 1: no column emotion"],
    ),
    "overlapping": (
        {"a.csv": rows("Training", usage=True, repeat=3), "b.csv": rows(*USAGES[:2], usage=True, repeat=2)},
        ["different content with the same Usage", "a.csv: 126 Training", "b.csv: "],
    ),
    "images beside a table": (WHOLE | dict(pngs()), ["fer2013.csv and 70 files in class folders", "name it"]),
    "images beside a pair": (PAIR | dict(pngs()), ["test.csv and 70 files in class folders"]),
    "a table beside images": (dict(pngs()) | {"faces.csv": rows("Training")}, ["in/faces.csv is a table"]),
}


@pytest.mark.parametrize("name", MORE_THAN_USED)
def test_more_than_is_used_is_refused_by_name(tmp_path: Path, name: str) -> None:
    files, says = MORE_THAN_USED[name]
    error = message(folder(tmp_path / "in", files))
    for part in says:
        assert part in error


@pytest.mark.parametrize(("usage", "missing"), [("Training", "test"), ("PublicTest", "test and train")])
def test_one_of_three_tables(tmp_path: Path, usage: str, missing: str) -> None:
    error = message(folder(tmp_path / "in", {"one.csv": rows(usage, usage=True)}) / "one.csv")
    assert f"none of {missing}" in error
    assert "name the folder that holds all tables" in error


def test_what_was_found_is_named(tmp_path: Path) -> None:
    error = message(folder(tmp_path / "in", {"faces.h5": b"x", "notes.txt": b"y"}))
    assert "it holds faces.h5, notes.txt" in error
    assert "a file in the format RAR" in message(folder(tmp_path / "rar", {"fer.rar": b"Rar!\x1a\x07"}) / "fer.rar")


SPELLINGS: dict[str, Callable[[str], bytes]] = {
    "semicolons": lambda table: table.replace(",", ";").encode(),
    "tabs": lambda table: table.replace(",", "\t").encode(),
    "carriage returns": lambda table: table.replace("\n", "\r").encode(),
    "utf-8 with mark": lambda table: table.encode("utf-8-sig"),
    "utf-16": lambda table: table.encode("utf-16"),
    "utf-16, big end first": lambda table: b"\xfe\xff" + table.encode("utf-16-be"),
    "utf-16 without mark": lambda table: table.encode("utf-16-le"),
    "utf-16, semicolons, Windows": lambda table: table.replace(",", ";").replace("\n", "\r\n").encode("utf-16"),
    "utf-16, carriage returns": lambda table: table.replace("\n", "\r").encode("utf-16"),
    "an index": lambda table: "\n".join(
        f"{number or ''},{line}" for number, line in enumerate(table.splitlines())
    ).encode(),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_a_table(tmp_path: Path, name: str) -> None:
    content = SPELLINGS[name](text(csv_lines()).decode())
    assert read(folder(tmp_path / "in", {"fer.csv": content}) / "fer.csv").digest == FACES.digest
    damaged = SPELLINGS[name](text([*csv_lines()[:8], "7" + csv_lines()[8][1:]]).decode())
    error = message(folder(tmp_path / "bad", {"fer.csv": damaged}) / "fer.csv")
    assert "fer.csv, line 9: emotion 7" in error


def test_a_table_in_utf_16_that_ends_in_the_middle_of_a_character(tmp_path: Path) -> None:
    content = text(csv_lines()).decode().encode("utf-16")[:-1]
    assert "fer.csv cannot be read" in message(folder(tmp_path / "in", {"fer.csv": content}) / "fer.csv")


# --- folders -----------------------------------------------------------------------------------------------

THREE_WAY = {
    "val": ("train", "val", "test"),
    "validation": ("train", "validation", "test"),
    "Usages": USAGES,
    "FER2013+": ("FER2013Train", "FER2013Valid", "FER2013Test"),
    "deeper": ("data/train", "data/valid", "data/test"),
    "doubled": ("train/train", "val/val", "test/test"),
}


@pytest.mark.parametrize("name", THREE_WAY)
@pytest.mark.parametrize("classes", ["names", "digits"])
@pytest.mark.parametrize("renamed", [True, False])
def test_three_folders(tmp_path: Path, name: str, classes: str, renamed: bool) -> None:
    parts = dict(zip(USAGES, THREE_WAY[name], strict=True))
    files = {}
    for number, (path, content) in enumerate(pngs().items()):
        _, class_, file = path.split("/")
        class_ = class_ if classes == "names" else str(FOLDERS.index(class_))
        files[f"{parts[file.split('_')[0]]}/{class_}/{f'{number}.png' if renamed else file}"] = content
    faces = read(folder(tmp_path / "in", files))
    assert (faces.digest, faces.validation) == (FACES.digest, "official")
    if not renamed:
        path = next(path for path in files if "PublicTest_" in path)
        files[path.replace("PublicTest_", "PrivateTest_x")] = files.pop(path)
        assert "expected them to agree" in message(zipped(tmp_path / "x.zip", files))


def test_two_folders(tmp_path: Path) -> None:
    """Without a third folder the file names decide, whatever the second is called; without them it must be test."""
    doubled = {f"{name.split('/')[0]}/{name}": content for name, content in pngs().items()}
    assert read(folder(tmp_path / "doubled", doubled)).digest == FACES.digest
    renamed = {name.replace("test/", "validation/"): content for name, content in pngs().items()}
    assert read(folder(tmp_path / "renamed", renamed)).digest == FACES.digest
    unnamed = {name.replace("Test_", "x").replace("Training_", "y"): content for name, content in renamed.items()}
    error = message(folder(tmp_path / "unnamed", unnamed))
    assert "images of train and validation, but none of test" in error
    assert "rename validation to test" in error


@pytest.mark.parametrize("name", ["samples.png", "holdout/angry/x.png", "x/y.webp", "angry/x.bmp"])
def test_stray_images(tmp_path: Path, name: str) -> None:
    error = message(folder(tmp_path / "in", pngs() | {name: encoded(grey())}))
    assert (
        f"in/{name} is misplaced, expected train/<class>/, test/<class>/ and, where there is one, validation/" in error
    )


def test_names_of_splits() -> None:
    assert split_of_name("FER2013Valid") == split_of_name("public_test") == split_of_name("Val") == 1
    assert split_of_name("fer2013_train") == split_of_name("TRAINING") == 0
    assert split_of_name("test_private") == split_of_name("Private-Test") == 2
    assert split_of_name("latest") is split_of_name("fer2013") is split_of_name("") is None


# --- tar and gzip ------------------------------------------------------------------------------------------


def tarred(path: Path, files: Mapping[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("shape", ["images", "csv"])
def test_tar(tmp_path: Path, mode: str, shape: str) -> None:
    files = pngs() if shape == "images" else {"fer2013/fer2013.csv": text(csv_lines()), "fer2013/README": b"x"}
    long = {f"./{'x' * 150}/{name}": content for name, content in files.items()}
    for name, content in (("short", files), ("long", long)):
        assert read(tarred(tmp_path / f"{name}.anything", content, mode)).digest == FACES.digest
    assert "cannot be read" in message(truncated(tmp_path / "short.anything", 9000))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.anything", "short.anything"]


def truncated(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


def test_csv_in_gzip(tmp_path: Path) -> None:
    packed = gzip.compress(text(csv_lines()))
    assert read(folder(tmp_path / "in", {"fer.csv.gz": packed}) / "fer.csv.gz").digest == FACES.digest
    assert "expected a complete gzip" in message(folder(tmp_path / "in", {"x.gz": packed[:-100]}) / "x.gz")
    assert "expected a complete gzip" in message(folder(tmp_path / "in", {"y.gz": packed[:-8] + b"12345678"}) / "y.gz")


@pytest.mark.parametrize("at", range(0, 20_000, 512))
def test_a_tar_that_is_cut_off_or_damaged_loses_no_image_silently(tmp_path: Path, at: int) -> None:
    path = tarred(tmp_path / "in.tar", pngs(), "w")
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
    assert "in.tar" in message(path)
    if at:
        path.write_bytes(whole[:at])
        assert "in.tar" in message(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    path = tarred(tmp_path / "in.tar", pngs(), "w")
    info = tarfile.TarInfo("train/angry/Training_9.png")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(path, "a") as packed:
        packed.addfile(info)
    assert "Training_9.png is a link or a special file" in message(path)


@pytest.mark.parametrize("name", ["../x.png", "/train/angry/x.png", "a/../../x.png", "..\\x.png"])
def test_unsafe_names_in_a_tar(tmp_path: Path, name: str) -> None:
    assert "has the unsafe entry" in message(tarred(tmp_path / "in.tar.gz", {**pngs(), name: b"x"}))


def test_limits_of_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tarred(tmp_path / "in.tar.gz", pngs())
    monkeypatch.setattr(archive, "_MAX_UNPACKED", 1000)
    assert "expected at most 1,000" in message(path)
    monkeypatch.setattr(tar, "_HEADER_SHARE", 0)
    assert "more than 1,000 bytes unpacked" in message(path)
    monkeypatch.undo()
    monkeypatch.setattr(archive, "_MAX_FILES", 10)
    assert "more than 10 files" in message(path)
    with tarfile.open(tmp_path / "pax.tar", "w", pax_headers={"comment": "x" * (1 << 20)}) as packed:
        packed.addfile(tarfile.TarInfo("train"))
    assert "a header claims" in message(tmp_path / "pax.tar")


def test_a_file_twice_in_a_tar(tmp_path: Path) -> None:
    path = tarred(tmp_path / "in.tar", pngs(), "w")
    with tarfile.open(path, "a") as packed:
        packed.addfile(tarfile.TarInfo(next(iter(pngs()))))
    assert "occurs twice in the tar" in message(path)


def test_a_pair_in_one_folder_stays_a_pair(tmp_path: Path) -> None:
    source = competition(tmp_path / "pair")
    (source / "submission.csv").write_text("emotion\n3\n")
    (source / "empty").mkdir()
    assert read(source, validation_fraction=0.3).shape == "competition train.csv/test.csv"
    with zipfile.ZipFile(tmp_path / "pair.zip", "w") as packed:
        for name, content in PAIR.items():
            packed.writestr(name, content)
    assert read(tmp_path / "pair.zip", validation_fraction=0.3).digest == read(source, validation_fraction=0.3).digest
