"""Preparing the data set, and the stores that come of it."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from lhcnet.data.fer2013 import TRAIN, content_digest
from lhcnet.data.store import open_store, write_stores
from support.hostile.choices import Choices, altered_json, answer, damaged, demand, special
from support.hostile.images import altered_zip
from support.hostile.tables import LINES, VALID, altered_table


def prepared(c: Choices, folder: Path) -> bool:
    """The whole step: complete stores and report, or nothing at all."""
    from lhcnet import steps
    from lhcnet.config import Data

    data, name = (altered_zip(c)[0], "fer.zip") if c.number(2) else (altered_table(c, LINES), "fer.csv")
    source, out = folder / "in" / name, folder / "out"
    source.write_bytes(data)
    targets = (out / "trainval", out / "test", out / "report.json")
    found = answer(lambda: steps.prepare(*targets, data=Data(source=str(source))), name)
    written = sorted(path.name for path in out.iterdir())
    demand(written == (["report.json", "test", "trainval"] if found else []), f"left {written}")
    if found:
        demand(open_store(targets[0]).digest == open_store(targets[1]).digest == found.digest, "stores differ")
    return found is not None


@cache
def store_files() -> dict[str, bytes]:
    work = Path(tempfile.gettempdir(), f"hostile-store-{os.getpid()}")
    write_stores(VALID, work / "trainval", work / "test")
    files = {path.name: path.read_bytes() for path in (work / "trainval").iterdir()}
    shutil.rmtree(work)
    return files


def altered_array(c: Choices, content: bytes) -> bytes:
    """A .npy with another header, or damaged."""
    if c.one_in(2):
        return damaged(c, content)
    rest = content[128:]
    shape = c.pick(
        ["(14, 48, 48)", "(1000000000, 48, 48)", "(-1, 48, 48)", "(14,)", "()", "(2**99,)", "(0, 48, 48)", "14"]
    )
    kind = c.pick(["|u1", "<f8", "|O", "|V999999999", "<U99", "|i1", "[('a', '|u1')]", "|b1"])
    order = c.pick(["False", "True", "[]", "__import__('os')"])
    head = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + rest


def store(c: Choices, folder: Path) -> bool:
    files = dict(store_files())
    for _ in range(c.number(3)):
        name = c.pick(list(files))
        files[name] = altered_json(c, files[name]) if name == "store.json" else altered_array(c, files[name])
    if c.one_in(3):  # a forger who knows about the digest
        try:
            arrays = [np.load(io.BytesIO(files[f"{name}.npy"])) for name in ("images", "labels", "splits")]
            meta = json.loads(files["store.json"]) | {"own_digest": content_digest(*arrays)}
            files["store.json"] = json.dumps(meta).encode()
        except Exception:  # not one that can be forged
            pass
    path = folder / "in" / "store"
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    special(c, path)
    found = answer(lambda: open_store(path), str(path))
    if found is None:
        return False
    demand(isinstance(found.digest, str), "no digest")
    for split, code in (("train", TRAIN), ("validation", 1)):
        if split in found.meta["splits"]:
            images, labels = found.split(split)
            demand(images.shape == (len(labels), 48, 48) and images.dtype == labels.dtype == np.uint8, "shapes")
            demand(labels.max(initial=0) < 7 and len(labels) == (found.splits == code).sum(), "labels")
    return True
