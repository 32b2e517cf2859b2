"""Images in Parquet files, as data sets on Hugging Face have them: columns `image` (bytes, path) and `label`.

The split is in the name of a file (`train-00000-of-00001.parquet`) or of its folder (`train/0000.parquet`). A label is
a name, or a number: of the class names that the file itself lists, else of FER2013's, else as `data.classes` says.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lhcnet.data.archive import ArchiveEntry, decoding_errors
from lhcnet.data.fer2013 import SIDE, Bytes, split_of_name
from lhcnet.data.image_files import left_out, pixels_of
from lhcnet.data.reading import Reading
from lhcnet.errors import LhcnetError
from lhcnet.validation import folded

ENDING = ".parquet"
_LARGEST = 2 << 30  # bytes of a file, and of its content
_BATCH = 100  # rows
_SHARD = re.compile(r"[-_.]\d+(-of-\d+)?$")


def read_parquet(source: Path, entries: list[ArchiveEntry], reading: Reading) -> tuple[Bytes, Bytes, Bytes, str]:
    """Read all Parquet files of a source.

    Args:
        source: the folder or archive, for error messages.
        entries: the files.
        reading: names of the classes, and whether images are resized.

    Returns:
        Images (N, 48, 48), labels (N,), splits (N,), and the name of the shape.

    Raises:
        LhcnetError: a file is damaged or has no such columns, its name says no split, or an image or label is not what
            was expected.
    """
    images: list[Bytes] = []
    labels: list[int] = []
    splits: list[int] = []
    dropped: Counter[str] = Counter()
    for entry in entries:
        split = _split_of(entry)
        for row, (content, name) in enumerate(_rows(entry), start=1):
            where = f"{entry.where}, row {row}"
            if folded(name) not in reading.classes:
                raise LhcnetError(f"{where}: unknown class {name}, expected {reading.expected}")
            if (label := reading.classes[folded(name)]) is None:
                dropped[name] += 1
                continue
            images.append(pixels_of(content, where, reading))
            labels.append(label)
            splits.append(split)
    if not images:
        raise LhcnetError(f"{source}: has no images in its Parquet files, expected the columns image and label")
    stacked = np.stack(images).reshape(-1, SIDE, SIDE)
    return stacked, np.array(labels, np.uint8), np.array(splits, np.uint8), f"Parquet{left_out(dropped)}"


def _split_of(entry: ArchiveEntry) -> int:
    _, _, folder, file = entry.path_parts
    for name in (_SHARD.sub("", file.lower().removesuffix(ENDING)), folder):
        if (split := split_of_name(name)) is not None:
            return split
    raise LhcnetError(
        f"{entry.where}: its name says no split, expected train, validation or test, as in train-00000-of-00001.parquet"
    )


def _rows(entry: ArchiveEntry) -> Iterator[tuple[bytes, str]]:
    """(bytes of the image file, name or number of the class) of each row."""
    import pyarrow.parquet as pq

    with decoding_errors(entry.where, "an undamaged Parquet file"), entry.open_bounded(_LARGEST) as opened:
        file = pq.ParquetFile(io.BytesIO(opened.read(_LARGEST)))
        groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
        if (size := sum(group.total_byte_size for group in groups)) > _LARGEST:
            raise LhcnetError(f"{entry.where} claims {size:,} bytes unpacked, expected at most {_LARGEST:,}")
        if missing := {"image", "label"} - set(file.schema_arrow.names):
            raise LhcnetError(f"{entry.where}: no column {', '.join(sorted(missing))}, expected image and label")
        names = _class_names(file.schema_arrow.metadata or {})
        number = 0
        for batch in file.iter_batches(_BATCH, columns=["image", "label"]):
            for image, label in zip(batch["image"], batch["label"], strict=True):  # one at a time becomes bytes
                value, name, number = image.as_py(), label.as_py(), number + 1
                content = value.get("bytes") if isinstance(value, dict) else value
                if not isinstance(content, bytes) or name is None:
                    raise LhcnetError(f"{entry.where}, row {number}: expected the bytes of an image file, and a label")
                known = isinstance(name, int) and 0 <= name < len(names)
                yield content, names[name] if known else str(name)


def _class_names(metadata: dict[bytes, bytes]) -> list[str]:
    """Names of the classes that the library `datasets` notes in a file, or none."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get("label", {}).get("names") or []
    return [str(name) for name in names]
