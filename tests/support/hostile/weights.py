"""Weights that others wrote: Keras' HDF5 files and TensorFlow's checkpoints."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from support.hostile.choices import Choices, answer, damaged, demand, special
from support.hostile.models import Payload

GOLDEN = Path(__file__).parents[2] / "golden"


@cache
def keras_file() -> tuple[Any, bytes]:
    """(a network, the HDF5 file of its backbone as Keras lays it out)."""
    import h5py

    from lhcnet.models.resnetv2 import ResNetV2
    from lhcnet.weights.imagenet import LAYERS
    from lhcnet.weights.keras import NORM

    network = ResNetV2(input_size=32, widths=(1, 1, 1, 1), head=(2,), seed=0)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for key, tensor in network.state_dict().items():
            path, _, leaf = key.rpartition(".")
            if path in LAYERS and leaf != "num_batches_tracked":
                conv = tensor.dim() == 4
                array = tensor.permute(2, 3, 1, 0).numpy() if conv else tensor.numpy()
                file[f"{LAYERS[path]}/{LAYERS[path]}/{'kernel' if conv else NORM[leaf]}:0"] = array
    return network, buffer.getvalue()


def spoilt_hdf5(c: Choices, path: Path) -> None:
    """Change one thing of the file by HDF5's own means."""
    import h5py

    with h5py.File(path, "r+") as file:
        layer = c.pick(list(file))
        group = file[f"{layer}/{layer}"]
        name = c.pick(list(group))
        array, kind = group[name][...], c.number(12)
        if kind == 0:
            del group[name]
            return
        if kind == 1:
            file[c.pick(["extra/kernel:0", "x", "a\nb/c", "conv0/other", "model_weights/x", "\u202e/x"])] = array
            return
        del group[name]
        if kind == 2:
            group[name] = array.astype(c.pick(["f8", "f2", "i4", "u1", "c8", "S4", "bool"]))
        elif kind == 3:
            group[name] = c.pick([array[None], array * np.nan, array * np.inf, array.ravel(), array[:0]])
        elif kind == 4:
            group.create_dataset(name, (10**6, 10**7), "f4", chunks=(1, 1024))
        elif kind == 5:
            chunks = tuple(c.pick([1, 1000, 20_000]) for _ in array.shape)
            try:
                group.create_dataset(name, array.shape, "f4", chunks=chunks, maxshape=(None,) * array.ndim)
            except ValueError:  # more than 4 GiB in a chunk
                group[name] = array
        elif kind == 6:
            external = [("/dev/zero", 0, h5py.h5f.UNLIMITED)] if c.number(2) else [("/etc/passwd", 0, 10**6)]
            group.create_dataset(name, array.shape, "f4", external=external)
        elif kind == 7:
            group[name] = c.pick(
                [h5py.SoftLink("/nowhere"), h5py.SoftLink(f"/{layer}"), h5py.ExternalLink("/etc/passwd", "/x")]
            )
        elif kind == 8:
            layout = h5py.VirtualLayout(array.shape, "f4")
            layout[...] = h5py.VirtualSource("/etc/passwd", "x", shape=array.shape)
            group.create_virtual_dataset(name, layout)
        elif kind == 9:
            group[name] = file["/"]  # a group within itself
        elif kind == 10:
            group[name] = array
            group[name].attrs["pickle"] = np.void(pickle.dumps(Payload(path.parents[1])))
        else:
            kinds = [h5py.vlen_dtype(np.float32), h5py.string_dtype(), h5py.ref_dtype, np.dtype([("a", "f4")])]
            group.create_dataset(name, array.shape, c.pick(kinds))


def keras(c: Choices, folder: Path) -> bool:
    from lhcnet.weights.imagenet import fill_backbone

    network, content = keras_file()
    path = folder / "in" / "weights.h5"
    path.write_bytes(content)
    if c.one_in(3):
        spoilt_hdf5(c, path)
    elif c.number(32):
        path.write_bytes(damaged(c, content))
    special(c, folder / "in")
    if answer(lambda: fill_backbone(network, path) or True, "weights.h5") is None:
        return False
    demand(all(tensor.isfinite().all() for tensor in network.state_dict().values()), "weights that are not finite")
    return True


@cache
def checkpoint_files() -> tuple[dict[str, bytes], dict[str, Any]]:
    from lhcnet.weights.tensorflow_checkpoint import read_checkpoint

    with zipfile.ZipFile(GOLDEN / "published.zip") as file:
        names = [name for name in file.namelist() if name.startswith("LHC_Net/LHC_Net.")]
        files = {name.rpartition("LHC_Net.")[2]: file.read(name) for name in names}
    work = Path(tempfile.gettempdir(), f"hostile-checkpoint-{os.getpid()}")
    work.mkdir()
    for ending, content in files.items():
        (work / f"X.{ending}").write_bytes(content)
    arrays = read_checkpoint(work / "X")
    shutil.rmtree(work)
    return files, arrays


class Anything(int):
    """A checksum that every other one equals."""

    def __ne__(self, _: object) -> bool:
        return False


def checkpoint(c: Choices, folder: Path) -> bool:
    from lhcnet.weights import tensorflow_checkpoint as module

    files, expected = checkpoint_files()
    path, honest = folder / "in", c.number(2)
    spoilt = c.pick(list(files))
    for ending, content in files.items():
        (path / f"X.{ending}").write_bytes(damaged(c, content) if ending == spoilt and c.number(32) else content)
    special(c, path)
    checksum = module._checksum
    try:
        if not honest:  # as if whoever damaged it had made the checksums right
            module._checksum = lambda _: Anything()  # type: ignore[assignment]
        arrays = answer(lambda: module.read_checkpoint(module.find_checkpoint(path / "X")), str(path / "X"))
    finally:
        module._checksum = checksum
    if arrays is None:
        return False
    if honest:
        demand(arrays.keys() == expected.keys(), "other variables")
        demand(all(np.array_equal(arrays[name], expected[name]) for name in expected), "other values")
    demand(
        sum(a.nbytes for a in arrays.values()) <= sum(p.stat().st_size for p in path.iterdir()),
        "more than the file has",
    )
    return True
