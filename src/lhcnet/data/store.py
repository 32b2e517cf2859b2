"""Image store on disk: all 48x48 images as one array, with a digest of the content.

A store is a directory with images.npy (N, 48, 48), labels.npy (N,), splits.npy (N,), all uint8 in canonical
order, and store.json. Where votes are trained on, the store of train and validation also has votes.npy (N, 7), and
format 2. A data set is written to two stores, train + validation and test, so that a step that
is not given the test store cannot read a test image.
"""

import io
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_magic
from numpy.typing import NDArray

from lhcnet.data.fer2013 import CLASSES, SIDE, SPLITS, TEST, Bytes, Faces, class_counts, content_digest
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.contents import OwnFolder, OwnJson
from lhcnet.io.files import read_bytes_bounded, read_text
from lhcnet.io.preflight import require_separate

FORMAT, WITH_VOTES = 1, 2
MARKER = "store.json"
ARRAYS = ("images", "labels", "splits")
VOTES = "votes"
STORE_FOLDER = OwnFolder(
    MARKER,
    OwnJson.having("format", "digest", "own_digest", "splits"),
    frozenset({MARKER, *(f"{name}.npy" for name in (*ARRAYS, VOTES))}),
)


@dataclass(frozen=True, eq=False)
class Store:
    """An opened store: its arrays in memory (FER2013 has 83 MB). Later changes of its files have no effect."""

    path: Path
    images: Bytes  # (N, 48, 48)
    labels: Bytes  # (N,), index into CLASSES
    splits: Bytes  # (N,), index into SPLITS
    meta: dict[str, Any]  # the content of store.json
    votes: Bytes | None = None  # (N, 7), for each class

    @property
    def data_set(self) -> str:
        """Name of the data set that images were left out of (`data.exclude`), or ""."""
        return str(self.meta.get("data_set", ""))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the whole data set: train, validation and test, the same in both stores."""
        return str(self.meta["digest"])

    def split(self, name: str) -> tuple[Bytes, Bytes]:
        """Images and labels of one split.

        Args:
            name: "train", "validation" or "test".

        Returns:
            images (n, 48, 48), a view, and labels (n,).

        Raises:
            LhcnetError: this store does not hold that split.
        """
        rows = self._rows(name)
        return self.images[rows], self.labels[rows]

    def targets(self, name: str) -> NDArray[np.float32] | None:
        """Shares of the votes of one split (n, 7), each row sums to 1; None if the store has none."""
        if self.votes is None:
            return None
        votes = self.votes[self._rows(name)].astype(np.float32)
        shares: NDArray[np.float32] = votes / votes.sum(axis=1, keepdims=True)
        return shares

    def _rows(self, name: str) -> slice:
        if name not in self.meta["splits"]:
            available = " and ".join(self.meta["splits"])
            raise LhcnetError(f"{self.path} has no split {name}, it has {available}")
        code = SPLITS.index(name)
        start, stop = np.searchsorted(self.splits, [code, code + 1])
        return slice(int(start), int(stop))


def open_store(path: Path) -> Store:
    """Open a store and check its files, shapes and the digest of its content.

    Raises:
        LhcnetError: `path` is no store, or one that is truncated or altered.
    """
    try:
        meta = json.loads(read_text(path / MARKER))
        if meta["format"] not in (FORMAT, WITH_VOTES):
            raise LhcnetError(f"{path} is a store of format {meta['format']}, expected format 1 or 2")
        images, labels, splits = (_read(path / f"{name}.npy") for name in ARRAYS)
        votes = _read(path / f"{VOTES}.npy") if meta["format"] == WITH_VOTES else None
        if content_digest(images, labels, splits, votes) != meta["own_digest"]:
            raise LhcnetError(f"{path} is a damaged store, expected content with the digest {meta['own_digest']}")
        _check(images, labels, splits, meta)
        if votes is not None and (votes.shape != (len(labels), len(CLASSES)) or not votes.any(axis=1).all()):
            raise ValueError(f"votes {votes.shape}, expected some for each image")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LhcnetError(f"{path} is no store, expected a directory with {MARKER} and its arrays") from error
    except LhcnetError:
        raise
    except Exception as error:  # bad JSON, and whatever numpy raises on damaged headers
        raise LhcnetError(f"{path} is a damaged store, expected it as prepared: {error}") from error
    return Store(path, images, labels, splits, meta, votes)


def _read(file: Path) -> Bytes:
    """An array that `_write` wrote. Not memory-mapped: a file truncated later would kill the process (SIGBUS)."""
    content = read_bytes_bounded(file, limit=None)
    head = io.BytesIO(content)
    if read_magic(head) != (1, 0):
        raise ValueError(f"{file.name} is of another format")
    shape, fortran, dtype = read_array_header_1_0(head)
    if fortran or dtype != np.uint8:
        raise ValueError(f"{file.name} has type {dtype}")
    return np.frombuffer(content, np.uint8, offset=head.tell()).reshape(shape)


def _check(images: Bytes, labels: Bytes, splits: Bytes, meta: dict[str, Any]) -> None:
    if images.shape != (len(labels), SIDE, SIDE) or labels.shape != splits.shape or splits.ndim != 1:
        raise ValueError(f"images {images.shape}, labels {labels.shape}, splits {splits.shape}")
    present = [SPLITS[split] for split in np.unique(splits)]
    if meta["splits"] != present or labels.max(initial=0) >= len(CLASSES) or (np.diff(splits.astype(int)) < 0).any():
        raise ValueError(f"splits {meta['splits']} and labels of {', '.join(CLASSES)} in order were announced")
    if not isinstance(meta["digest"], str):
        raise ValueError("the digest of the data set is missing")


def write_stores(faces: Faces, trainval: Path, test: Path, data_set: str = "") -> None:
    """Write train and validation to one store and test to another; each directory is complete or absent.

    Args:
        faces: the data set.
        trainval: directory of the store for train and validation.
        test: directory of the store for test.
        data_set: name of the data set, if it cannot be told from its images because some were left out.

    Raises:
        LhcnetError: a target holds something that is no store, or cannot be written.
    """
    require_separate(trainval, test)
    size = faces.images.nbytes  # of both together: they may lie on one disk
    with ExitStack() as stack:
        directories = [stack.enter_context(atomic_directory(path, STORE_FOLDER, size)) for path in (trainval, test)]
        in_test = faces.splits == TEST
        for directory, rows in zip(directories, (~in_test, in_test), strict=True):
            _write(faces.take(rows), faces.digest, directory, data_set)


def _write(faces: Faces, digest: str, directory: Path, data_set: str) -> None:
    """Write the images of one store; `digest` is that of the whole data set."""
    images, labels, splits = faces.images, faces.labels, faces.splits
    votes = None if TEST in splits else faces.votes  # test is scored against the labels alone
    counts = class_counts(labels, splits)
    present = [split for split in range(len(SPLITS)) if counts[split].any()]
    meta = {
        "format": FORMAT if votes is None else WITH_VOTES,
        "digest": digest,
        "own_digest": content_digest(images, labels, splits, votes),
        "shape": faces.shape,
        "validation": faces.validation,
        "classes": CLASSES,
        "splits": [SPLITS[split] for split in present],
        "counts": {SPLITS[s]: dict(zip(CLASSES, counts[s].tolist(), strict=True)) for s in present},
    }
    if data_set:
        meta["data_set"] = data_set
    for name, array in zip(ARRAYS, (images, labels, splits), strict=True):
        np.save(directory / f"{name}.npy", array, allow_pickle=False)
    if votes is not None:
        np.save(directory / f"{VOTES}.npy", votes, allow_pickle=False)
    (directory / MARKER).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
