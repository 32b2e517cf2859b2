"""The store: what is read back, what it refuses, and that nothing half-written is ever left."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lhcnet.config import parse
from lhcnet.data import store
from lhcnet.data.audit import DataReport, audit
from lhcnet.data.drawn_faces import draw
from lhcnet.data.fer2013 import CLASSES, TEST, TRAIN, VALIDATION, Faces, content_digest
from lhcnet.data.store import open_store, write_stores
from lhcnet.errors import LhcnetError
from lhcnet.io import atomic
from lhcnet.io.atomic import atomic_directory
from lhcnet.saved import MODEL_FOLDER

FACES = draw(60, seed=2)
OTHER = draw(60, seed=3)


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    trainval, test = tmp_path / "out" / "trainval", tmp_path / "out" / "test"
    write_stores(FACES, trainval, test)
    return trainval, test


def test_round_trip(stores: tuple[Path, Path]) -> None:
    trainval, test = (open_store(path) for path in stores)
    assert trainval.digest == test.digest == FACES.digest
    assert not trainval.images.flags.writeable
    for name, code, where in (("train", TRAIN, trainval), ("validation", VALIDATION, trainval), ("test", TEST, test)):
        images, labels = where.split(name)
        assert (images == FACES.images[FACES.splits == code]).all()
        assert (labels == FACES.labels[FACES.splits == code]).all()
        assert sum(where.meta["counts"][name].values()) == len(labels)
    assert trainval.meta["splits"] == ["train", "validation"]
    assert test.meta["splits"] == ["test"]
    assert tuple(test.meta["classes"]) == CLASSES
    assert (test.meta["shape"], test.meta["validation"]) == ("drawn faces", "official")
    assert test.meta["own_digest"] == content_digest(test.images, test.labels, test.splits)
    assert len(trainval.images) + len(test.images) == len(FACES.images)


def test_the_test_split_is_sealed(stores: tuple[Path, Path]) -> None:
    with pytest.raises(LhcnetError, match="trainval has no split test, it has train and validation"):
        open_store(stores[0]).split("test")
    with pytest.raises(LhcnetError, match="test has no split train, it has test"):
        open_store(stores[1]).split("train")


def test_same_faces_same_bytes(stores: tuple[Path, Path], tmp_path: Path) -> None:
    write_stores(FACES, tmp_path / "a", tmp_path / "b")
    assert files(tmp_path / "a") == files(stores[0])
    assert files(tmp_path / "b") == files(stores[1])


def test_not_a_store(tmp_path: Path, stores: tuple[Path, Path]) -> None:
    for path in (tmp_path / "nowhere", tmp_path, stores[0] / "store.json"):
        with pytest.raises(LhcnetError, match="is no store, expected a directory with"):
            open_store(path)
    (stores[0] / "labels.npy").unlink()
    with pytest.raises(LhcnetError, match="is no store"):
        open_store(stores[0])


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "splits.npy", "store.json"])
def test_truncated(stores: tuple[Path, Path], name: str) -> None:
    path = stores[0] / name
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        with pytest.raises(LhcnetError, match="trainval is a damaged store"):
            open_store(stores[0])


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "splits.npy"])
def test_altered(stores: tuple[Path, Path], name: str) -> None:
    path = stores[0] / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(LhcnetError, match="damaged store, expected content with the digest"):
        open_store(stores[0])


@pytest.mark.parametrize("change", [{"format": 3}, {"own_digest": None}, {"format": None}])
def test_foreign_format(stores: tuple[Path, Path], change: dict[str, Any]) -> None:
    path = stores[0] / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(LhcnetError, match="store"):
        open_store(stores[0])
    for content in ("[]", "{}", "null", "\0"):
        path.write_text(content)
        with pytest.raises(LhcnetError, match="damaged store"):
            open_store(stores[0])


# --- replacing and refusing --------------------------------------------------------------------------------


def test_replaces_empty_and_old(stores: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_stores(OTHER, stores[0], tmp_path / "empty")
    assert open_store(stores[0]).digest == open_store(tmp_path / "empty").digest == OTHER.digest
    assert open_store(stores[1]).digest == FACES.digest
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["test", "trainval"]


def test_does_not_write_through_a_link(stores: tuple[Path, Path], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(stores[0])
    with pytest.raises(LhcnetError, match=r"link is a link to .*: a step does not write through links"):
        write_stores(OTHER, link, tmp_path / "test")
    assert link.is_symlink()
    assert open_store(stores[0]).digest == FACES.digest


@pytest.mark.parametrize("which", [0, 1])
def test_refuses_foreign_directory(tmp_path: Path, which: int) -> None:
    targets = [tmp_path / "trainval", tmp_path / "test"]
    targets[which].mkdir()
    (targets[which] / "thesis.tex").write_text("years of work")
    before = files(tmp_path)
    with pytest.raises(LhcnetError, match=rf"{targets[which].name} is not replaced: it holds thesis.tex"):
        write_stores(FACES, *targets)
    assert files(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == [targets[which].name]


def test_refuses_file_and_nesting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LhcnetError, match="file cannot be written"):
        write_stores(FACES, tmp_path / "file", tmp_path / "test")
    with pytest.raises(LhcnetError, match="cannot be written"):
        write_stores(FACES, tmp_path / "file" / "below", tmp_path / "test")
    for other in (tmp_path / "a", tmp_path / "a" / "b", tmp_path):
        with pytest.raises(LhcnetError, match="one contains the other"):
            write_stores(FACES, tmp_path / "a", other)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# --- failures at every step --------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", range(8))
def test_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException, old: bool
) -> None:
    """The n-th write fails: both targets are as before, and nothing lies beside them."""
    targets = tmp_path / "trainval", tmp_path / "test"
    if old:
        write_stores(OTHER, *targets)
    before, calls = files(tmp_path), 0

    def counted(original: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call + 1:
                raise error
            return original(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(np, "save", counted(np.save))
    monkeypatch.setattr(Path, "write_text", counted(Path.write_text))
    expected = LhcnetError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_stores(FACES, *targets)
    assert files(tmp_path) == before
    assert {p.name for p in tmp_path.iterdir()} == ({"trainval", "test"} if old else set())


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_failed_rename_brings_the_old_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    target = tmp_path / "store"
    write_stores(OTHER, target, tmp_path / "test")
    before, renames, original = files(tmp_path), 0, Path.rename

    def rename(self: Path, to: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == failing + 1:
            raise PermissionError(13, "Permission denied")
        return original(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)  # a file system that cannot do it
    with (
        pytest.raises(LhcnetError, match=r"store cannot be written; expected a writable path .*: Permission denied"),
        atomic_directory(target, store.STORE_FOLDER) as beside,
    ):
        (beside / "store.json").write_text("{}")
    assert files(tmp_path) == before
    assert {p.name for p in tmp_path.iterdir()} == {"store", "test"}


def test_marker_is_demanded(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"wrote no model\.json"), atomic_directory(tmp_path / "m", MODEL_FOLDER):
        pass
    with pytest.raises(RuntimeError, match="wrote other"), atomic_directory(tmp_path / "m", MODEL_FOLDER) as beside:
        (beside / "other").touch()
    assert not list(tmp_path.iterdir())


def test_target_taken_meanwhile(tmp_path: Path) -> None:
    def write(target: Path) -> None:
        with atomic_directory(target, MODEL_FOLDER) as beside:
            (beside / "model.json").write_text("{}")
            target.mkdir()
            (target / "other").write_text("x")

    with pytest.raises(LhcnetError, match="it holds other, which this step does not write"):
        write(tmp_path / "m")
    assert files(tmp_path) == {"m/other": b"x"}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_modes_let_the_next_step_read(stores: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert stores[0].stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_flushed_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    monkeypatch.setattr(atomic, "_flush", lambda directory: flushed.append(sorted(p.name for p in directory.iterdir())))
    write_stores(FACES, tmp_path / "a", tmp_path / "b")
    assert flushed == [sorted([*(f"{name}.npy" for name in store.ARRAYS), "store.json"])] * 2


# --- audit -------------------------------------------------------------------------------------------------


def test_audit() -> None:
    def face(*pixels: int) -> np.ndarray[Any, Any]:
        image = np.zeros((48, 48), np.uint8)
        image[0, : len(pixels)] = pixels
        return image

    a, b, c, blank, almost = face(9), face(8), face(9, 9), face(), face(3)
    rows = [  # image, label, split
        (a, 0, TRAIN), (a, 0, TRAIN), (a, 0, TEST), (a, 0, TEST), (b, 1, TRAIN), (b, 2, VALIDATION),
        (c, 3, VALIDATION), (c, 3, TEST), (blank, 4, TRAIN), (almost, 5, TRAIN),
    ]  # fmt: skip
    images, labels, splits = (np.array(column, np.uint8) for column in zip(*rows, strict=True))
    found = audit(Faces(images, labels, splits, "drawn", "official"))
    assert parse(DataReport, found.to_dict(), "report") == found
    assert (found.images, found.distinct, found.repeats) == (10, 5, 5)
    assert found.in_several_splits == 3
    assert found.train_duplicates == {"validation": 1, "test": 2}
    assert found.with_several_labels == 1
    assert found.constant == {"train": 1, "validation": 0, "test": 0}
    assert found.blank == {"train": 2, "validation": 0, "test": 0}
    assert found.counts["train"]["anger"] == 2
    assert found.mean_grey["validation"] == pytest.approx((8 + 18) / 2 / 2304)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 48, 48), }", "damaged store"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }", "float64"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (10**9,), }", "damaged store"),
        ("(", "damaged store"),
    ],
)
def test_false_headers_are_refused(header: str, says: str, stores: tuple[Path, Path]) -> None:
    path = stores[0] / "images.npy"
    text = header.ljust(117).encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + path.read_bytes()[128:])
    with pytest.raises(LhcnetError, match=says):
        open_store(stores[0])


def test_invalid_labels_with_a_forged_digest_are_refused(stores: tuple[Path, Path]) -> None:
    labels = np.load(stores[0] / "labels.npy") + np.uint8(7)
    np.save(stores[0] / "labels.npy", labels)
    images, splits = (np.load(stores[0] / f"{name}.npy") for name in ("images", "splits"))
    meta = json.loads((stores[0] / "store.json").read_text())
    meta["own_digest"] = content_digest(images, labels, splits)
    (stores[0] / "store.json").write_text(json.dumps(meta))
    with pytest.raises(LhcnetError, match="damaged store"):
        open_store(stores[0])
