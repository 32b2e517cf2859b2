"""The test split through every way to a prediction: evaluate, `lhcnet predict`, MLflow's server, the page, ONNX, int8.

python benchmarks/one_accuracy.py artifacts/chosen artifacts/test artifacts/trainval

All but int8 must give the same labels, image for image; the command prints how many differ. It needs the extras
`export` and `app`; OpenVINO where it is installed.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import mlflow
import numpy as np
import typer
from export import in_openvino
from measure import machine
from PIL import Image
from serving import body, server

import lhcnet
from lhcnet.config import Compute
from lhcnet.data.fer2013 import CLASSES, Bytes
from lhcnet.data.store import open_store
from lhcnet.protocol.statistics import paired_interval, wilson
from lhcnet.report.formatting import interval, percent, points
from lhcnet.runtime import native_precision
from lhcnet.serving.package import pyfunc_arguments
from lhcnet.steps.score_store import score_store

AT_ONCE = 64  # images in a request
LHCNET = (sys.executable, "-m", "lhcnet")


def by_predict(model: Path, files: Path) -> list[str]:
    """`lhcnet predict` on PNG files; they are read in the order of their names."""
    command = [*LHCNET, "predict", str(model), str(files), "--format", "csv"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [row["label"] for row in csv.DictReader(io.StringIO(printed))]


def by_server(model: Path, images: Bytes, work: Path) -> list[str]:
    """`mlflow models serve`, PNG files in base64."""
    mlflow.pyfunc.save_model(work / "logged", **pyfunc_arguments(model))
    labels: list[str] = []
    with server(work / "logged") as (address, _):
        for start in range(0, len(images), AT_ONCE):
            content = body(images[start : start + AT_ONCE], tta=False, as_files=True)
            asked = urllib.request.Request(address, content, {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked, timeout=600) as answer:
                labels += [row["label"] for row in json.load(answer)["predictions"]]
    return labels


def by_page(model: Path, files: Sequence[Path]) -> list[str]:
    """What the page asks `lhcnet app` for each picture."""
    labels = []
    with page(model) as address:
        for file in files:
            asked = urllib.request.Request(f"{address}/api/predict?find=false", file.read_bytes(), {"Origin": address})
            with urllib.request.urlopen(asked, timeout=600) as answer:
                (face,) = json.load(answer)["faces"]
                labels.append(face["best"])
    return labels


@contextmanager
def page(model: Path) -> Iterator[str]:
    command = [*LHCNET, "app", str(model), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        found = re.match(r"http://\S+", process.stdout.readline() if process.stdout else "")
        if found is None:
            raise SystemExit(f"{' '.join(command)}: printed no address")
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def by_file(model: Path, out: Path, images: Bytes, *options: str) -> list[str]:
    """`lhcnet export`, and the exported file in ONNX Runtime."""
    subprocess.run([*LHCNET, "export", str(model), "--out", str(out), *options], check=True, capture_output=True)
    return [face.best for face in lhcnet.load(out).predict(images)]


def by_openvino(file: Path, images: Bytes, precision: str) -> list[str]:
    """The exported file in OpenVINO."""
    run = in_openvino(file.read_bytes(), os.cpu_count() or 1, precision)
    return [CLASSES[best] for best in np.concatenate(run(images)).argmax(1)]


def main(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    test: Annotated[Path, typer.Argument(help="Store with the test split.")],
    trainval: Annotated[Path, typer.Argument(help="Store whose validation images int8 is calibrated on.")],
) -> None:
    """Print the accuracy of each way, and how many labels differ from evaluate's."""
    images, truth = open_store(test).split("test")
    settings = {"split": "test", "batch_size": 32, "compute": Compute(device="cpu"), "tta": False}
    scored = score_store(str(model), test, **settings)  # type: ignore[arg-type]
    right = scored.correct[0]
    print(f"{model}, {len(images):,} test images; {machine('torch', 'onnxruntime', 'mlflow')}\n")
    print("| way | accuracy % (95 % CI) | labels unlike `lhcnet predict` | minus evaluate (points, 95 % CI) |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "faces").mkdir()
        files = [work / "faces" / f"{number:05}.png" for number in range(len(images))]
        for file, image in zip(files, images, strict=True):
            Image.fromarray(image).save(file)
        first = by_predict(model, work / "faces")

        def show(way: str, labels: Sequence[str] | None) -> None:
            correct = right if labels is None else np.array(labels) == np.array(CLASSES)[truth]
            hits, n = int(correct.sum()), len(correct)
            other = "-" if labels is None else str(sum(a != b for a, b in zip(labels, first, strict=True)))
            against = f"{points(hits / n - right.mean())} ({', '.join(map(points, paired_interval(correct, right)))})"
            print(f"| {way} | {percent(hits / n)} ({interval(wilson(hits, n))}) | {other} | {against} |", flush=True)

        show("`evaluate`, `lhcnet score`", None)
        show("`lhcnet predict`, PNG files", first)
        show("`mlflow models serve`", by_server(model, images, work))
        show("`lhcnet app`", by_page(model, files))
        show("ONNX", by_file(model, work / "model.onnx", images))
        options = ("--format", "int8", "--calibration", str(trainval))
        show("ONNX int8", by_file(model, work / "int8.onnx", images, *options))
        if find_spec("openvino"):
            show("ONNX in OpenVINO, float32", by_openvino(work / "model.onnx", images, "f32"))
            if native_precision() == "bfloat16":
                show("ONNX in OpenVINO, bfloat16", by_openvino(work / "model.onnx", images, "bf16"))
            show("ONNX int8 in OpenVINO", by_openvino(work / "int8.onnx", images, "f32"))


if __name__ == "__main__":
    typer.run(main)
