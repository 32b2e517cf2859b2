"""The authors' networks: checkpoints that TensorFlow wrote, and checkpoints that nobody should have written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from google_crc32c import value as crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from support.published_files import MODULES, SIZES, close_to_keras

from lhcnet.errors import LhcnetError
from lhcnet.models.lhcnet import LHCNet, control_weights
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.weights import published as module
from lhcnet.weights import tensorflow_checkpoint
from lhcnet.weights.published import open_published
from lhcnet.weights.tensorflow_checkpoint import GRAPH, find_checkpoint, read_checkpoint

DATA = "data-00000-of-00001"


def tiny() -> ResNetV2:
    return LHCNet(MODULES, **SIZES, seed=0)


@pytest.mark.parametrize("given_as", ["LHC_Net/LHC_Net", "LHC_Net/LHC_Net.index", "LHC_Net", "SavedModel"])
def test_lhc_net_gives_what_keras_computes(given_as: str, published: Path) -> None:
    network = open_published(published / given_as, tiny())
    assert not network.training
    assert all(slot.w is None for slot in network.attention)
    close_to_keras(published, "LHC_Net", network)


def test_lhc_netc_is_known_by_its_control_weights(published: Path) -> None:
    network = open_published(published / "LHC_NetC", tiny())
    moved = np.subtract(control_weights(network), (0.3, -0.2, 0.1, -1.0, -0.5))
    np.testing.assert_allclose(np.abs(moved), 1e-3, rtol=1e-2)  # one step of Adam from where they were drawn
    close_to_keras(published, "LHC_NetC", network)
    assert read_checkpoint(published / "LHC_NetC/LHC_Net_Controller")["optimizer/iter"] == 1


def test_it_is_built_in_the_sizes_of_table_2(published: Path) -> None:
    with pytest.raises(LhcnetError, match=r"LHC_Net\.index: conv1/conv1/kernel is .*expected .*\(7, 7, 3, 64\)"):
        open_published(published / "LHC_Net")


Names = dict[str, np.ndarray]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.pop("conv4_2/conv2/kernel"), r"conv4_2/conv2/kernel is missing, .*\(3, 3, 5, 5\)"),
        (lambda a: a.pop("conv3_4/LHC_Module/Wqk/1/bias"), r"conv3_4/LHC_Module/Wqk/1/bias is missing, .*\(4,\)"),
        (lambda a: a.pop("controller5/w"), r"controller5/w is missing, .*\(\)"),
        (lambda a: a.update({"conv4_7/bn1/beta": a["bn/beta"]}), "unexpected weight conv4_7/bn1/beta"),
        (lambda a: a.update({"fc2/kernel": a["fc2/kernel"].T}), r"fc2/kernel is .*expected .*\(16, 12\)"),
        (lambda a: a.update({"fc3/bias": np.arange(7)}), r"fc3/bias is int64 .*expected floating point"),
    ],
)
def test_another_network_is_one_sentence(
    change: Callable[[Names], object], says: str, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = read_checkpoint(published / "LHC_NetC/LHC_Net_Controller")
    change(arrays)
    monkeypatch.setattr(module, "read_checkpoint", lambda _: arrays)
    with pytest.raises(LhcnetError, match=f"LHC_Net_Controller.index: {says}"):
        open_published(published / "LHC_NetC", tiny())


@pytest.mark.parametrize(("names", "found"), [((), 0), (("a", "b"), 2)])
def test_a_folder_must_hold_exactly_one_checkpoint(names: tuple[str, ...], found: int, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / f"{name}.index").touch()
    with pytest.raises(LhcnetError, match=rf"exactly one \.index file, not {found}"):
        find_checkpoint(tmp_path)
    with pytest.raises(LhcnetError, match="nowhere: expected a TensorFlow checkpoint"):
        find_checkpoint(tmp_path / "nowhere")


def test_a_missing_data_file_is_named(published: Path, tmp_path: Path) -> None:
    shutil.copy(published / "LHC_Net/LHC_Net.index", tmp_path)
    with pytest.raises(LhcnetError, match=rf"LHC_Net\.{DATA}: expected a checkpoint"):
        read_checkpoint(tmp_path / "LHC_Net")


# damage


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Cuts the file off, or changes one byte of it; the ends of a file are where its structure is."""
    part = draw(st.floats(0, 1) | st.sampled_from([0.0, 1.0]))
    offset, mask = draw(st.integers(-60, 60)), draw(st.integers(0, 255))

    def damage(content: bytes) -> bytes:
        at = min(max(int(part * len(content)) + offset, 0), len(content) - 1)
        return content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :] if mask else content[:at]

    return damage


def damaged(published: Path, folder: Path, ending: str, damage: Callable[[bytes], bytes]) -> Path:
    for other in ("index", DATA):
        content = (published / f"LHC_Net/LHC_Net.{other}").read_bytes()
        (folder / f"X.{other}").write_bytes(damage(content) if other == ending else content)
    return folder / "X"


@settings(max_examples=150, deadline=None)
@given(ending=st.sampled_from(["index", DATA]), damage=damages())
def test_damage_is_noticed_or_harmless(
    published: Path, tmp_path_factory: pytest.TempPathFactory, ending: str, damage: Callable[[bytes], bytes]
) -> None:
    prefix = damaged(published, tmp_path_factory.getbasetemp(), ending, damage)
    try:
        arrays = read_checkpoint(prefix)
    except LhcnetError:
        return
    expected = read_checkpoint(published / "LHC_Net/LHC_Net")
    assert arrays.keys() == expected.keys()
    assert all(np.array_equal(arrays[name], expected[name]) for name in expected)


class Anything(int):
    def __ne__(self, _: object) -> bool:
        return False


@settings(max_examples=150, deadline=None)
@given(ending=st.sampled_from(["index", DATA]), damage=damages())
def test_damage_under_right_checksums_is_no_crash(
    published: Path, tmp_path_factory: pytest.TempPathFactory, ending: str, damage: Callable[[bytes], bytes]
) -> None:
    prefix = damaged(published, tmp_path_factory.getbasetemp(), ending, damage)
    size = Path(f"{prefix}.{DATA}").stat().st_size
    with patch.object(tensorflow_checkpoint, "_checksum", lambda _: Anything()):
        try:
            arrays = read_checkpoint(prefix)
        except LhcnetError:
            return
    assert sum(array.nbytes for array in arrays.values()) <= size


# malice: well-formed files, made here


def checksum(data: bytes) -> int:
    crc: int = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number % 128 + 128]), number // 128
    return out + bytes([number])


def message(**fields: int | bytes | list[bytes]) -> bytes:
    """A protocol buffer; f3=7 is field 3 with value 7."""
    out = b""
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            tag = int(name[1:]) << 3
            out += varint(tag) + varint(value) if isinstance(value, int) else varint(tag | 2) + sized(value)
    return out


def sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def record(key: bytes, value: bytes, shared: int = 0) -> bytes:
    return varint(shared) + varint(len(key)) + varint(len(value)) + key + value


def block(records: bytes, compression: int = 0) -> bytes:
    content = records + bytes(4) + (1).to_bytes(4, "little") + bytes([compression])
    return content + checksum(content).to_bytes(4, "little")


def table(records: bytes, compression: int = 0, repeat: int = 1) -> bytes:
    data = block(records, compression)
    handle = varint(0) + varint(len(data) - 5)
    index = block(record(b"z", handle) * repeat)
    footer = varint(0) * 2 + varint(len(data)) + varint(len(index) - 5)
    return data + index + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def entry(dtype: int, shape: list[int], offset: int, size: int, content: bytes = b"", **more: bytes) -> bytes:
    dimensions = message(f2=[message(f1=length) for length in shape])
    crc = varint(6 << 3 | 5) + checksum(content).to_bytes(4, "little")
    return message(f1=dtype, f2=dimensions, f4=offset, f5=size, **more) + crc


def node(children: dict[bytes, int] | None = None, key: bytes | None = None) -> bytes:
    edges = [message(f1=number, f2=name) for name, number in (children or {}).items()]
    return message(f1=edges, f2=[] if key is None else [message(f1=b"VARIABLE_VALUE", f3=key)])


HEADER = record(b"", message(f1=1))
VALUES = np.arange(6, dtype="<f4").tobytes()
TWO_VARIABLES = [node({b"a": 1, b"b": 2}), node(key=b"a"), node(key=b"b")]


def write(folder: Path, entries: dict[bytes, bytes], nodes: list[bytes], **options: int) -> Path:
    """A checkpoint of the six VALUES, followed by the graph; entries are of their variables."""
    graph = message(f1=nodes)
    length = sized(graph)[: -len(graph)]
    counted = len(graph).to_bytes(4, "little")
    stored = checksum(counted).to_bytes(4, "little") + graph
    (folder / f"X.{DATA}").write_bytes(VALUES + length + stored)
    graph_entry = entry(7, [], len(VALUES), len(length + stored), counted + stored)
    records = b"".join(record(key, value) for key, value in sorted(({GRAPH: graph_entry} | entries).items()))
    (folder / "X.index").write_bytes(table(HEADER + records, **options))
    return folder / "X"


def test_the_files_made_here_are_checkpoints(tmp_path: Path) -> None:
    good = entry(1, [2, 3], 0, 24, VALUES)
    arrays = read_checkpoint(write(tmp_path, {b"a": good}, [node({b"a": 1, b"again": 1, b"up": 0}), node(key=b"a")]))
    assert arrays.keys() == {"a"}
    assert arrays["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


GOOD = entry(1, [6], 0, 24, VALUES)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (entry(1, [2**40], 0, 2**42), "larger than the file"),
        (entry(1, [2**62, 2**62, 2**62], 0, 24, VALUES), "has 24 bytes, not those of shape"),
        (entry(1, [1] * 100_000, 0, 4, VALUES[:4]), "dimensions|more than"),
        (entry(1, [1], 2**40, 4), "ends before byte"),
        (entry(1, [2**64 - 1], 0, 24, VALUES), "not those of shape"),
        (entry(1, [1], 0, 4, VALUES), "is damaged"),
        (entry(7, [], 0, 24, VALUES), "is of type 7, not a number"),
        (entry(14, [12], 0, 24, VALUES), "is of type 14, not a number"),
        (entry(1, [6], 0, 24, VALUES, f3=b"x"), "protocol buffer is damaged"),
        (entry(1, [6], 0, 24, VALUES, f7=b""), "in slices"),
        (message(f1=1, f2=message(f2=[b"\x0f"])), "protocol buffer is damaged"),
        (b"\xff" * 12, "number is cut off"),
        (b"\x0a\x7f", "protocol buffer is cut off"),
    ],
)
def test_an_impossible_tensor_is_one_sentence(bad: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(LhcnetError, match=f"expected a checkpoint of TensorFlow 2: .*({says})"):
        read_checkpoint(write(tmp_path, {b"a": GOOD, b"b": bad}, TWO_VARIABLES))


def test_one_tensor_in_many_places_takes_no_more_than_the_file(tmp_path: Path) -> None:
    names = [f"{number:04}".encode() for number in range(2000)]
    nodes = [node({name: number for number, name in enumerate(names, 1)}), *(node(key=name) for name in names)]
    with pytest.raises(LhcnetError, match="larger than the file"):
        read_checkpoint(write(tmp_path, dict.fromkeys(names, entry(1, [6] * 4, 0, 24 * 216)), nodes))


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([], "graph is damaged"),
        ([node({b"a": 1})], "graph is damaged"),
        ([node({b"a": 1}), node(key=b"lost")], "a is not in its index"),
        ([node({b"\xff": 1}), node(key=b"a")], "decode"),
        ([node({b"a\nb": 1}), node(key=b"a")], "graph is damaged"),
        ([node({b"n" * 600: 1}), node(key=b"a")], "graph is damaged"),
        ([*(node({b"n" * 50: number}) for number in range(1, 99)), node(key=b"a")], "graph is damaged"),
    ],
)
def test_an_impossible_graph_is_one_sentence(nodes: list[bytes], says: str, tmp_path: Path) -> None:
    with pytest.raises(LhcnetError, match=says):
        read_checkpoint(write(tmp_path, {b"a": GOOD}, nodes))


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (b"", "wrong last bytes"),
        (table(HEADER, compression=1), "compressed"),
        (table(HEADER, repeat=2), "blocks out of order"),
        (table(b""), "not one data file in little-endian order"),
        (table(record(b"", message(f1=2))), "not one data file"),
        (table(record(b"", message(f1=1, f2=1))), "not one data file in little-endian order"),
        (table(HEADER), "no object graph"),
        (table(HEADER + record(b"k" * 600, b"")), "record of the index is damaged"),
        (table(HEADER + record(b"k", b"", shared=9)), "record of the index is damaged"),
        (table(HEADER + varint(0) + varint(1) + varint(2**50) + b"k"), "record of the index is damaged"),
        (table(HEADER + record(GRAPH, entry(7, [], 0, 2**40))), "not one string"),
        (table(HEADER + record(GRAPH, entry(1, [6], 0, 24, VALUES))), "not one string"),
        (table(HEADER + record(GRAPH, entry(7, [], 0, 24, VALUES))), "graph is damaged"),
        (table(b"").ljust(2**20, b"\0") + table(b""), "more than 1048576 bytes"),
    ],
)
def test_an_impossible_index_is_one_sentence(index: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "X.index").write_bytes(index)
    (tmp_path / f"X.{DATA}").write_bytes(VALUES)
    with pytest.raises(LhcnetError, match=says):
        read_checkpoint(tmp_path / "X")
