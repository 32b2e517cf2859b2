"""Latency and throughput of a model in PyTorch float32, ONNX Runtime, ONNX Runtime int8 and OpenVINO, in one run.

python benchmarks/export.py                    # LHC-Net at 224x224 as in the paper, random weights
python benchmarks/export.py artifacts/chosen   # a trained model
python benchmarks/export.py artifacts/chosen --no-tta --images 256

needs `pip install 'lhcnet[export]'`. OpenVINO, which opens ONNX files itself, is measured where it is installed
(`pip install openvino`). All of them take grey 48x48 images; with TTA the 60 views of one image are one batch. They
take turns, and medians are printed. Speed depends neither on the weights nor on the images, so int8 is calibrated on
drawn faces; `lhcnet export --format int8 --test` measures what it loses.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from measure import machine, seconds
from serving import write_model

from lhcnet.data.drawn_faces import draw
from lhcnet.export.graph import ExportedNetwork
from lhcnet.export.int8 import quantise
from lhcnet.export.onnx_file import to_onnx, with_record
from lhcnet.export.onnx_model import open_bytes
from lhcnet.export.record import INPUT, PROBABILITIES, ExportRecord
from lhcnet.inference.predict import predict
from lhcnet.inference.tta import plain_views, tta_views
from lhcnet.runtime import Device, native_precision
from lhcnet.saved import SavedModel, open_model

BATCH = 32
FACES = draw(42, seed=0).images
Predict = Callable[[np.ndarray], object]
FLOAT32, RUNTIME, INT8, OPENVINO, OPENVINO16, OPENVINO8 = (
    "PyTorch float32",
    "ONNX Runtime",
    "ONNX Runtime int8",
    "OpenVINO float32",
    "OpenVINO bfloat16",
    "OpenVINO int8",
)


def in_pytorch(saved: SavedModel, *, tta: bool) -> Predict:
    """What `evaluate` runs."""
    network, device = saved.network(), Device(torch.device("cpu"), "float32")
    device.move(network)
    views = tta_views() if tta else plain_views()
    if not tta:
        return lambda images: predict(
            network, images, views, input_size=network.input_size, device=device, batch_size=BATCH
        )
    as_batch = ExportedNetwork(network, views)  # `predict` runs view by view: slower for one image

    def run(images: np.ndarray) -> object:
        with torch.inference_mode():
            return as_batch(torch.from_numpy(images.copy()))[1].numpy()

    return run


def in_openvino(content: bytes, threads: int, precision: str = "f32") -> Callable[[np.ndarray], list[np.ndarray]]:
    import openvino

    core: Any = openvino.Core()
    model = core.read_model(content)
    compiled = core.compile_model(
        model, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    )

    def run(images: np.ndarray) -> list[np.ndarray]:
        return [
            compiled({INPUT: images[start : start + BATCH]})[PROBABILITIES] for start in range(0, len(images), BATCH)
        ]

    return run


def candidates(saved: SavedModel, threads: int, *, tta: bool, openvino: bool) -> dict[str, Predict]:
    """The ways to run the model, with the plain view or with the 60 views of TTA."""
    views = tta_views() if tta else plain_views()
    record = ExportRecord.of(saved, views=len(views))
    proto = to_onnx(ExportedNetwork(saved.network(), views))
    int8 = quantise(proto, FACES[: 2 if tta else None], weight_bits=8, batch=1 if tta else BATCH)
    contents = [with_record(one, record).SerializeToString() for one in (proto, int8)]
    found = {FLOAT32: in_pytorch(saved, tta=tta)}
    for name, content in zip((RUNTIME, INT8), contents, strict=True):
        found[name] = open_bytes(content, name, threads=threads, batch_size=BATCH * len(views)).calibrated
    if openvino:
        found |= {n: in_openvino(c, threads) for n, c in zip((OPENVINO, OPENVINO8), contents, strict=True)}
        if native_precision() == "bfloat16":
            found[OPENVINO16] = in_openvino(contents[0], threads, "bf16")
    return found


def measured(ways: dict[str, Predict], images: np.ndarray, runs: int) -> dict[str, list[float]]:
    """Seconds of each run, sorted, after two runs that do not count; the ways take turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(runs + 2):
        for name, way in ways.items():
            spent = seconds(partial(way, images))
            if number >= 2:
                taken[name].append(spent)
    return {name: sorted(times) for name, times in taken.items()}


def show(what: str, taken: dict[str, list[float]], images: int) -> None:
    base = statistics.median(taken[FLOAT32])
    for name, times in taken.items():
        median, within = statistics.median(times), times[min(len(times) - 1, int(0.95 * len(times)))]
        cells = (what, name, f"{1000 * median:.2f} ms", f"{1000 * within:.2f} ms", f"{images / median:.1f}")
        print(f"| {' | '.join((*cells, f'{base / median:.2f}'))} |", flush=True)


def main(
    model: Annotated[Path | None, typer.Argument(help="Model directory; default: LHC-Net at 224x224.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each.")] = 2,
    images: Annotated[int, typer.Option(min=1, help="Images of a run of throughput.")] = BATCH,
    runs: Annotated[int, typer.Option(min=3, help="Runs that count; of one image ten times as many.")] = 5,
    tta: Annotated[bool, typer.Option(help="Measure TTA too.")] = True,
) -> None:
    torch.set_num_threads(threads)
    openvino = find_spec("openvino") is not None
    with tempfile.TemporaryDirectory() as work:
        if model is None:
            model = Path(work, "model")
            write_model(model)
        saved = open_model(model)
        packages = ["torch", "onnxruntime", *(["openvino"] if openvino else [])]
        print(machine(*packages), f"onnx {version('onnx')}", sep=", ")
        size = saved.info.architecture.input_size
        name = ExportRecord.of(saved, views=1).network
        print(f"{saved.id}: {name}, {size}x{size}, {threads} threads\n")
        print("| images | by | median | 95 % within | images/s | PyTorch's time / this |")
        print("| --- | --- | --- | --- | --- | --- |")
        ways = candidates(saved, threads, tta=False, openvino=openvino)
        show("one", measured(ways, FACES[:1], 10 * runs), 1)
        many = np.resize(FACES, (images, *FACES.shape[1:]))
        show(f"{images}", measured(ways, many, runs), images)
        if tta:
            del ways
            ways = candidates(saved, threads, tta=True, openvino=openvino)
            show("one, 60 views", measured(ways, FACES[:1], runs), 1)


if __name__ == "__main__":
    typer.run(main)
