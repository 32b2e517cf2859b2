"""Reads TensorFlow 2 checkpoints (`X.index` and `X.data-00000-of-00001`) without TensorFlow.

TensorFlow is as large as PyTorch and needs its own versions of numpy and protobuf; the format of the two files is
small. The index is a LevelDB table: blocks of sorted keys, a block with the offsets of these blocks, and a footer. Its
values are protocol buffers with the position of each tensor in the data file (TensorFlow's `tensor_bundle.proto`). One
tensor is a string: the graph of the saved objects (`trackable_object_graph.proto`), whose edges are Python attributes.

Variables are named here by their path in that graph, `conv1/bn1/gamma`. In checkpoints of `save_weights` the keys are
the same; in a SavedModel most keys are numbers. The variables' own names (`dense_7/kernel:0`) cannot be used: they
contain counters that depend on what the process had built before.

Blocks and tensors are checked with their CRC-32C. Memory is allocated only in proportion to the size of the files.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lhcnet.errors import LhcnetError
from lhcnet.io.files import require_regular_file

MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # bytes
INDEX_LIMIT = 2**20  # bytes
GRAPH_LIMIT = 2**22  # bytes
NAME_LIMIT = 500  # characters of a key or a path
DIMENSIONS_LIMIT = 8
GRAPH = b"_CHECKPOINTABLE_OBJECT_GRAPH"
STRING = 7
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}
# a SavedModel also lists the variables of each object under these names, with shorter paths than their own
LISTS = {"variables", "trainable_variables", "non_trainable_variables", "keras_api"}


Fields = defaultdict[int, list[Any]]


class Entry(NamedTuple):
    """Position, type, shape and checksum of a tensor in the data file."""

    dtype: int
    shape: tuple[int, ...]
    offset: int
    size: int
    crc: int


def find_checkpoint(path: Path) -> Path:
    """Prefix X of a checkpoint, whose files are `X.index` and `X.data-00000-of-00001`.

    Args:
        path: X, `X.index`, or the folder of one checkpoint or SavedModel.

    Raises:
        LhcnetError: there is no checkpoint, or more than one.
    """
    if path.suffix == ".index" and path.is_file():
        return path.with_suffix("")
    if Path(f"{path}.index").is_file():
        return path
    found = sorted(path.glob("*.index")) or sorted(path.glob("variables/*.index"))
    if len(found) != 1:
        raise LhcnetError(
            f"{path}: expected a TensorFlow checkpoint: its name without suffix, its .index file, or a folder with "
            f"exactly one .index file, not {len(found)}"
        )
    return found[0].with_suffix("")


def read_checkpoint(prefix: Path) -> dict[str, NDArray[Any]]:
    """Every variable of a checkpoint, including those of the optimiser, by its path in the object graph.

    Raises:
        LhcnetError: a file is missing, damaged, or not a TensorFlow 2 checkpoint.
    """
    index, data = Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")
    current = index  # the file that is being read, for error messages
    try:
        entries = _entries(index)
        current = data
        require_regular_file(data)
        with data.open("rb") as file:
            if GRAPH not in entries:
                raise ValueError("it has no object graph")
            keys = _paths(_string(file, entries[GRAPH]))
            if missing := [path for path, key in keys.items() if key not in entries]:
                raise ValueError(f"{missing[0]} is not in its index")
            variables = {path: entries[key] for path, key in keys.items()}
            if sum(entry.size for entry in variables.values()) > data.stat().st_size:
                raise ValueError("its variables are larger than the file")
            return {path: _tensor(file, entry, path) for path, entry in variables.items()}
    except (OSError, ValueError) as error:
        raise LhcnetError(f"{current}: expected a checkpoint of TensorFlow 2: {error}") from None


# the index


def _entries(index: Path) -> dict[bytes, Entry]:
    if index.stat().st_size > INDEX_LIMIT:
        raise ValueError(f"more than {INDEX_LIMIT} bytes")
    records = _table(index.read_bytes())
    header = _fields(records.pop(b"", b""))
    if header[1] != [1] or _first(header, 2):
        raise ValueError("not one data file in little-endian order")
    return {key: _parse_entry(value) for key, value in records.items()}


def _table(table: bytes) -> dict[bytes, bytes]:
    """A LevelDB table: key -> value."""
    if len(table) < FOOTER or int.from_bytes(table[-8:], "little") != MAGIC:
        raise ValueError("not an index (wrong last bytes)")
    footer = table[-FOOTER:]
    at = 0
    for _ in range(2):  # the first handle is that of the meta index, which is empty
        _, at = _varint(footer, at)
    records: dict[bytes, bytes] = {}
    end = 0
    for _, handle in _records(_block(table, *_handle(footer, at))):
        offset, size = _handle(handle, 0)
        if offset < end:
            raise ValueError("blocks out of order")
        end = offset + size
        records.update(_records(_block(table, offset, size)))
    return records


def _handle(data: bytes, at: int) -> tuple[int, int]:
    offset, at = _varint(data, at)
    size, _ = _varint(data, at)
    return offset, size


def _block(table: bytes, offset: int, size: int) -> bytes:
    """Content of a block; it is followed by one byte for the compression and four for the checksum."""
    block, crc = table[offset : offset + size + 1], table[offset + size + 1 : offset + size + 5]
    if len(crc) != 4 or _checksum(block) != int.from_bytes(crc, "little"):
        raise ValueError("a block of the index is damaged")
    if block[-1] != 0:
        raise ValueError("its index is compressed, which is not supported")
    return block[:-1]


def _records(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each record; a key is stored without the bytes that it shares with the previous key."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if len(block) < 4 or end < 0:
        raise ValueError("a block of the index is too short")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or at + own + size > end or shared + own > NAME_LIMIT:
            raise ValueError("a record of the index is damaged")
        key = key[:shared] + block[at : at + own]
        at += own
        yield key, block[at : at + size]
        at += size


def _parse_entry(message: bytes) -> Entry:
    """BundleEntryProto: dtype 1, shape 2, shard_id 3, offset 4, size 5, crc32c 6, slices 7."""
    fields = _fields(message)
    if _first(fields, 3) or fields[7]:
        raise ValueError("a tensor in slices or in another data file")
    shape = tuple(_first(dimension, 1) for dimension in map(_fields, _fields(_first(fields, 2, b""))[2]))
    if len(shape) > DIMENSIONS_LIMIT:
        raise ValueError(f"a tensor of {len(shape)} dimensions")
    return Entry(_first(fields, 1), shape, _first(fields, 4), _first(fields, 5), _first(fields, 6))


# the data


def _stored(file: BinaryIO, entry: Entry) -> bytes:
    file.seek(0, 2)
    if entry.offset + entry.size > file.tell():
        raise ValueError(f"it ends before byte {entry.offset + entry.size}")
    file.seek(entry.offset)
    return file.read(entry.size)


def _tensor(file: BinaryIO, entry: Entry, path: str) -> NDArray[Any]:
    if entry.dtype not in DTYPES:
        raise ValueError(f"{path} is of type {entry.dtype}, not a number")
    dtype = np.dtype(DTYPES[entry.dtype])
    if math.prod(entry.shape) * dtype.itemsize != entry.size:
        raise ValueError(f"{path} has {entry.size} bytes, not those of shape {entry.shape}")
    stored = _stored(file, entry)
    if _checksum(stored) != entry.crc:
        raise ValueError(f"{path} is damaged (wrong checksum)")
    return np.frombuffer(stored, dtype).reshape(entry.shape)


def _string(file: BinaryIO, entry: Entry) -> bytes:
    """Content of a tensor that is one string: its length as varint, a checksum of the length, the bytes.

    In the checksum of the whole tensor the length has four bytes.
    """
    if (entry.dtype, entry.shape) != (STRING, ()) or entry.size > GRAPH_LIMIT:
        raise ValueError("its object graph is not one string")
    stored = _stored(file, entry)
    length, at = _varint(stored, 0)
    if length != len(stored) - at - 4 or _checksum(length.to_bytes(4, "little") + stored[at:]) != entry.crc:
        raise ValueError("its object graph is damaged")
    return stored[at + 4 :]


def _paths(graph: bytes) -> dict[str, bytes]:
    """TrackableObjectGraph: path of each variable -> its key, breadth first from the root, as in TensorFlow.

    nodes 1 {children 1 {node_id 1, local_name 2}, attributes 2 {name 1, checkpoint_key 3}}
    """
    nodes = _fields(graph)[1]
    keys: dict[str, bytes] = {}
    queue, seen = deque([(0, "")]), {0}
    while queue:
        node_id, path = queue.popleft()
        if node_id >= len(nodes) or len(path) > NAME_LIMIT or not path.isprintable():
            raise ValueError("its object graph is damaged")
        node = _fields(nodes[node_id])
        for attribute in map(_fields, node[2]):
            if _first(attribute, 1, b"") == b"VARIABLE_VALUE":
                keys[path] = _first(attribute, 3, b"")
        for child in map(_fields, node[1]):
            child_id, name = _first(child, 1), _first(child, 2, b"").decode()
            if child_id not in seen and name not in LISTS:
                seen.add(child_id)
                queue.append((child_id, f"{path}/{name}" if path else name))
    return keys


# the encodings of both files


def _fields(message: Any) -> Fields:
    """Decode a protocol buffer: number of a field -> its values, integers or bytes."""
    if not isinstance(message, bytes):
        raise ValueError("a protocol buffer is damaged")
    fields: Fields = defaultdict(list)
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            fields[tag >> 3].append(value)
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("a protocol buffer is damaged")
        if at + size > len(message):
            raise ValueError("a protocol buffer is cut off")
        piece = message[at : at + size]
        fields[tag >> 3].append(piece if kind == 2 else int.from_bytes(piece, "little"))
        at += size
    return fields


def _first(fields: Fields, number: int, default: Any = 0) -> Any:
    """Value of a field that occurs once; a missing field has the default."""
    value = fields[number][0] if fields[number] else default
    if type(value) is not type(default):
        raise ValueError("a protocol buffer is damaged")
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode an integer of up to 64 bits, seven to a byte; returns it and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is cut off")


def _checksum(data: bytes) -> int:
    """CRC-32C as LevelDB stores it: rotated and shifted, because data that contains its own CRC is a weak input."""
    from google_crc32c import value

    crc: int = value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
