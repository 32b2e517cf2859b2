"""Reads TensorFlow 2 checkpoints (`X.index` and `X.data-00000-of-00001`) without TensorFlow.

TensorFlow would weigh as much as PyTorch and bring its own versions of numpy and protobuf, for two files in a small
format. The index is a LevelDB table: blocks of sorted keys, found through a block of offsets and a footer. Its values
are protocol buffers that say where a tensor lies in the data file (TensorFlow's `tensor_bundle.proto`). One tensor is
a string, the graph of the saved objects (`trackable_object_graph.proto`), whose edges are Python attributes.

Variables are named here by their path in that graph, `conv1/bn1/gamma`. Where `save_weights` wrote the checkpoint, its
keys say the same; in the SavedModel of `save` most are only numbered. The names that variables give themselves
(`dense_7/kernel:0`) are no help: they count what else the process had built before.

Blocks and tensors are compared with their CRC-32C, and no memory is taken that the files' own size does not justify.
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
# a SavedModel also lists the variables below each object, on shorter paths than their own
LISTS = {"variables", "trainable_variables", "non_trainable_variables", "keras_api"}


Fields = defaultdict[int, list[Any]]


class Entry(NamedTuple):
    """Where a tensor lies in the data file, and how."""

    dtype: int
    shape: tuple[int, ...]
    offset: int
    size: int
    crc: int


def find_checkpoint(path: Path) -> Path:
    """The prefix X of a checkpoint, given as X, as `X.index`, or as the folder of one checkpoint or SavedModel."""
    if path.suffix == ".index" and path.is_file():
        return path.with_suffix("")
    if Path(f"{path}.index").is_file():
        return path
    found = sorted(path.glob("*.index")) or sorted(path.glob("variables/*.index"))
    if len(found) != 1:
        raise LhcnetError(
            f"{path}: expected a TensorFlow checkpoint: its name without ending, its .index file, or a folder with "
            f"exactly one .index file, not {len(found)}"
        )
    return found[0].with_suffix("")


def read_checkpoint(prefix: Path) -> dict[str, NDArray[Any]]:
    """Every variable of a checkpoint, the optimiser's among them, by its path in the object graph.

    Raises:
        LhcnetError: a file is missing, damaged, or no TensorFlow 2 checkpoint.
    """
    index, data = Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")
    place = index
    try:
        entries = _entries(index)
        place = data
        require_regular_file(data)
        with data.open("rb") as file:
            if GRAPH not in entries:
                raise ValueError("there is no object graph in it")
            keys = _paths(_string(file, entries[GRAPH]))
            if lost := [path for path, key in keys.items() if key not in entries]:
                raise ValueError(f"{lost[0]} is not in its index")
            variables = {path: entries[key] for path, key in keys.items()}
            if sum(entry.size for entry in variables.values()) > data.stat().st_size:
                raise ValueError("its variables are larger than the file")
            return {path: _tensor(file, entry, path) for path, entry in variables.items()}
    except (OSError, ValueError) as error:
        raise LhcnetError(f"{place}: expected a checkpoint of TensorFlow 2: {error}") from None


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
        raise ValueError("not an index (its last bytes are others)")
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
    """The block's contents; a byte for the compression and four for the checksum follow it."""
    block, crc = table[offset : offset + size + 1], table[offset + size + 1 : offset + size + 5]
    if len(crc) != 4 or _checksum(block) != int.from_bytes(crc, "little"):
        raise ValueError("a block of the index is damaged")
    if block[-1] != 0:
        raise ValueError("its index is compressed, which is not read here")
    return block[:-1]


def _records(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each record; a key leaves out the bytes it shares with the one before."""
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
        raise ValueError("a tensor in pieces or in another data file")
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
        raise ValueError(f"{path} is damaged (its checksum is another)")
    return np.frombuffer(stored, dtype).reshape(entry.shape)


def _string(file: BinaryIO, entry: Entry) -> bytes:
    """A tensor that is one string: its length as varint, a checksum of the length, the bytes.

    The checksum of the whole counts the length as four bytes.
    """
    if (entry.dtype, entry.shape) != (STRING, ()) or entry.size > GRAPH_LIMIT:
        raise ValueError("its object graph is not one string")
    stored = _stored(file, entry)
    length, at = _varint(stored, 0)
    if length != len(stored) - at - 4 or _checksum(length.to_bytes(4, "little") + stored[at:]) != entry.crc:
        raise ValueError("its object graph is damaged")
    return stored[at + 4 :]


def _paths(graph: bytes) -> dict[str, bytes]:
    """TrackableObjectGraph: path of each variable -> its key, breadth first from the root as TensorFlow goes.

    nodes 1 {children 1 {node_id 1, local_name 2}, attributes 2 {name 1, checkpoint_key 3}}
    """
    nodes = _fields(graph)[1]
    keys: dict[str, bytes] = {}
    queue, seen = deque([(0, "")]), {0}
    while queue:
        number, path = queue.popleft()
        if number >= len(nodes) or len(path) > NAME_LIMIT or not path.isprintable():
            raise ValueError("its object graph is damaged")
        node = _fields(nodes[number])
        for attribute in map(_fields, node[2]):
            if _first(attribute, 1, b"") == b"VARIABLE_VALUE":
                keys[path] = _first(attribute, 3, b"")
        for child in map(_fields, node[1]):
            following, name = _first(child, 1), _first(child, 2, b"").decode()
            if following not in seen and name not in LISTS:
                seen.add(following)
                queue.append((following, f"{path}/{name}" if path else name))
    return keys


# the encodings under both


def _fields(message: Any) -> Fields:
    """A protocol buffer: number of a field -> its values, whole numbers or bytes."""
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
    """A field that stands once; what is left out is 0 or empty."""
    value = fields[number][0] if fields[number] else default
    if type(value) is not type(default):
        raise ValueError("a protocol buffer is damaged")
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(whole number of up to 64 bits, seven to a byte, the place behind it)."""
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
    """CRC-32C as LevelDB stores it: rotated and shifted, so that a checksum of checksums is no weaker."""
    from google_crc32c import value

    crc: int = value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
