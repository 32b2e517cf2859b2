"""Model directories, and images sent to a model that is served."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import tempfile
import warnings
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from support.hostile.choices import INTEGERS, Choices, altered_json, answer, damaged, demand, special
from support.hostile.images import encoded
from support.hostile.tables import VALID

CANARY = "canary"  # a file that code from an input would leave in the folder


class Payload:
    """Leaves the canary when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder / CANARY),)


@cache
def model_files(kind: str) -> dict[str, bytes]:
    """The files of a model directory with a tiny network: plain, or with modules of several kinds."""
    from lhcnet.config import parse
    from lhcnet.saved import Architecture, Epoch, Metrics, ModelInfo, Provenance, save

    rows = [{"heads": 2, "d": 2}, {"heads": 2, "d": 2, "split": "grid"}, {"heads": 1, "d": 2, "norm": "both"}]
    rows += [{"heads": 2, "d": 2, "split": "learnt"}, {"heads": 1, "d": 2, "second_conv": True}]
    values = {"input_size": 32, "depths": [1] * 4, "widths": [2] * 4, "head": [3], "dropout": 0.4, "bn_momentum": 0.1}
    modules = {"plain": None, "modules": rows, "control": rows}[kind]
    architecture = parse(Architecture, values | {"modules": modules, "control": kind == "control"}, "here")
    provenance = Provenance(id="A/seed-0", set="A", stage=4, seed=0, variant=None, data="d" * 64, start="none")
    work = Path(tempfile.gettempdir(), f"hostile-model-{os.getpid()}")
    history = [Epoch(epoch=i, val_accuracy=0.5, val_loss=1.0) for i in range(3)]
    info = ModelInfo(architecture=architecture, provenance=provenance)
    save(work, architecture.build(seed=1), info, Metrics(status="trained", train_loss=1.5), history)
    files = {path.name: path.read_bytes() for path in work.iterdir()}
    shutil.rmtree(work)
    return files


def with_digest(record: bytes, weights: bytes) -> bytes:
    """model.json with the SHA-256 of these weights, where it has one."""
    digest = hashlib.sha256(weights).hexdigest().encode()
    return re.sub(rb'"weights": "[0-9a-f]{64}"', b'"weights": "%s"' % digest, record)


def altered_weights(c: Choices, content: bytes, folder: Path) -> bytes:
    kind = c.number(6)
    if kind == 0:
        return damaged(c, content)
    if kind == 1:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps(Payload(folder)))
        return c.pick([pickle.dumps(Payload(folder)), buffer.getvalue(), b"", b"\0" * 8, b"\x93NUMPY"])
    size = int.from_bytes(content[:8], "little")
    if kind == 2:
        return (c.pick(INTEGERS) % 2**64).to_bytes(8, "little") + content[8:]
    head = json.loads(content[8 : 8 + size])
    for _ in range(1 + c.number(2)):
        name = c.pick([name for name in head if name != "__metadata__"])
        entry, what = head[name], c.number(7)
        if what == 0:
            entry["dtype"] = c.pick(["F64", "F16", "I32", "U8", "BOOL", "F4", "F8_E8M0", "C64", "X", "", 3, None])
        elif what == 1:
            entry["shape"] = c.pick([[], [0], [1], [-1], [10**9] * 3, [2**62, 4], ["a"], None, [*entry["shape"], 1]])
        elif what == 2:
            entry["data_offsets"] = c.pick([[0, 0], [0, 2**63], [-1, 4], [8, 4], [0], None, [0, len(content)]])
        elif what == 3:
            del head[name]
            head = head or {"x": entry}
        elif what == 4:
            head[c.pick(["x", "a\nb", "", "logits.weight", "x" * 9999])] = entry
        elif what == 5:
            head["__metadata__"] = c.pick([{}, {"a": 1}, None, {"format": "pickle"}, []])
        else:
            other = c.pick([name for name in head if name != "__metadata__"])
            head[name], head[other] = head[other], head[name]
    text = json.dumps(head).encode()
    if c.one_in(8):
        text = c.pick([b"[" * 10**5, text + b" " * 10**5, text[:-1], b"{" + text])
    data = content[8 + size :]
    if c.one_in(4):
        data = np.full(len(data) // 4, c.pick([np.nan, np.inf, 3e38, -1.0]), "<f4").tobytes()
    return len(text).to_bytes(8, "little") + text + data


HISTORY = (
    b"",
    b"epoch\n",
    b"a,b\n1,2\n",
    b"epoch,val_accuracy\n0\n",
    b"epoch,val_accuracy\n0,1,2\n",
    b"epoch,val_accuracy\n1e999,1\n",
    b"\0" * 99,
    b'epoch,val_accuracy\n"' + b"x" * 200_000,
    b"epoch,val_accuracy\n0,0.5\n" * 30_000,
    b"epoch,epoch\n1,2\n",
    b"\xff\n",
    b"epoch,val_accuracy\r1,1\r",
)


def model(c: Choices, folder: Path) -> bool:
    import torch

    from lhcnet.saved import open_model

    kinds = {kind: model_files(kind) for kind in ("plain", "modules", "control")}  # made once, before the first input
    whole = c.pick(list(kinds.values()))
    files = dict(whole)
    for _ in range(c.number(3)):
        name = c.pick(
            ["model.json", "model.safetensors", "model.safetensors", "model.json", "history.csv", "metrics.json"]
        )
        if name == "model.safetensors":
            files[name] = altered_weights(c, whole[name], folder)
        elif name == "history.csv":
            files[name] = c.pick([damaged(c, files[name]), c.pick(HISTORY)])
        else:
            files[name] = altered_json(c, whole[name])
    if not c.one_in(4):  # mostly with the digest corrected, so that what lies behind it is reached
        files["model.json"] = with_digest(files["model.json"], files["model.safetensors"])
    if c.one_in(8):
        code = f"import pathlib; pathlib.Path({str(folder / CANARY)!r}).touch()"
        for name in ("pyfunc.py", "__init__.py", "sitecustomize.py", "lhcnet.py"):
            files[name] = code.encode()
        files["MLmodel"] = b"flavors: {python_function: {loader_module: pyfunc, code: .}}"
        files["pytorch_model.bin"] = pickle.dumps(Payload(folder))
    path = folder / "in" / "model"
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    special(c, path)
    saved = answer(lambda: open_model(path), str(path))
    network = answer(saved.network, str(path)) if saved else None
    if network is None:
        return False
    state = network.state_dict()
    demand(not network.training and all(t.isfinite().all() for t in state.values()), "weights")
    demand(all(t.device.type == "cpu" for t in (*network.parameters(), *network.buffers())), "not in memory")
    size = network.input_size
    with torch.inference_mode():
        logits = network(torch.full((1, 3, size, size), 100.0))
    demand(logits.shape == (1, 7), "logits")
    return True


@cache
def served() -> Any:
    from types import SimpleNamespace

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's advice, given once
        from lhcnet.serving.pyfunc import FacialExpressions

    work = Path(tempfile.gettempdir(), f"hostile-served-{os.getpid()}")
    work.mkdir()
    for name, content in model_files("modules").items():
        (work / name).write_bytes(content)
    expressions = FacialExpressions()
    expressions.load_context(SimpleNamespace(artifacts={"model": str(work)}))
    shutil.rmtree(work)
    return expressions


def prediction(c: Choices, _: Path) -> bool:
    import pandas as pd

    images = VALID.images[: 1 + c.number(3)]
    kind = c.number(12)
    sent: Any = images
    if kind == 9:
        shape = c.pick([(0, 48, 48), (48, 48), (1, 47, 8), (2304,), (1, 2304), (1, 1, 48, 48), (), (2, 48, 48, 3)])
        sent = np.zeros(shape)
    elif kind == 1:
        sent = images.astype(
            c.pick(["f4", "f8", "i8", "u4", "f2", "?", "c16", "O", "S3", "U3", "M8[s]", "m8[s]", "V8"])
        )
    elif kind == 2:
        sent = images.astype(float)
        sent[0, c.number(48), c.number(48)] = c.pick([np.nan, np.inf, -1, 256, 0.5, 1e308, -0.0, 255.0])
    elif kind == 3:
        sent = images.tolist()
        sent[0][c.number(48)] = c.pick([[], None, "x", [10**400] * 48, [1] * 47, {}])
    elif kind == 4:
        sent = c.pick(
            [None, "x", b"x", 3, {}, {"images": [1]}, [], [[]], object(), float("nan"), 10**400, [None], ["x"]]
        )
    elif kind == 5:
        sent = pd.DataFrame({c.pick(["image", "images", 0]): [encoded(Image.fromarray(image)) for image in images]})
    elif kind == 6:
        sent = images.reshape(len(images), -1)
    elif kind == 7:
        sent = images[:, ::-1, ::-1].astype(c.pick([">i4", "<i4"]))
    elif kind == 8:
        sent = np.ma.masked_array(images, mask=images == 255)
    elif kind == 10:
        size = (8 + c.number(80), 8 + c.number(80))
        colour = Image.fromarray(images[0]).convert(c.pick(["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F"]))
        sent = [encoded(colour.resize(size), c.pick(["PNG", "TIFF"]) if colour.mode in "1LRGBA" else "TIFF")]
    elif kind == 11:
        content = damaged(c, encoded(Image.fromarray(images[0]), c.pick(["PNG", "JPEG"])))
        sent = [c.pick([content, base64.b64encode(content).decode(), base64.b64encode(content).decode()[:-1]])]
    found = answer(lambda: served().predict(None, sent), "image")
    if found is None:
        return False
    demand(list(found.columns) == ["label", *served().saved.info.classes] and len(found) == len(sent), "shape")
    values = found.iloc[:, 1:].to_numpy()
    demand(list(found.columns[1:][values.argmax(1)]) == list(found["label"]), "label")
    demand(np.isfinite(values).all() and np.allclose(values.sum(1), 1, atol=1e-5), "no probabilities")
    return True
