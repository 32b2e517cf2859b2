"""Throughput and latency of `mlflow models serve`: LHC-Net at 224x224 behind MLflow's server on this machine.

python benchmarks/serving.py                  # a minute and a half on two idle cores
python benchmarks/serving.py --requests 500   # more requests for each line

The weights are random: speed does not depend on them. Clients and server share the machine.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import mlflow
import numpy as np
import typer
from measure import machine
from network import SIZE, noise
from PIL import Image

from lhcnet.config import parse
from lhcnet.profiles import profile
from lhcnet.saved import Architecture, Epoch, Metrics, ModelInfo, Provenance, save
from lhcnet.serving.package import pyfunc_arguments


def write_model(folder: Path) -> None:
    """A model directory with LHC-Net as the paper has it, and random weights."""
    settings = profile("paper").model_dump(mode="json")
    values = {name: value for name, value in settings["network"].items() if name in Architecture.model_fields}
    values |= {"input_size": SIZE, "modules": settings["variants"]["table2"]}
    architecture = parse(Architecture, values, "paper")
    provenance = Provenance(id="C/seed-0", set="C", stage=4, seed=0, variant="table2", data="0" * 64, start="none")
    history = [Epoch(epoch=0, val_accuracy=0.5, val_loss=1.0)]
    info = ModelInfo(architecture=architecture, provenance=provenance)
    save(folder, architecture.build(seed=1), info, Metrics(status="trained", train_loss=1.0), history)


@contextmanager
def server(logged: Path) -> Iterator[tuple[str, int]]:
    """A running server; yields the address that takes requests, and its process group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(logged), "--env-manager", "local"]
    started = time.perf_counter()
    null = subprocess.DEVNULL
    process = subprocess.Popen(
        [*command, "--port", port], env=environment, stdout=null, stderr=null, start_new_session=True
    )
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)}: ended with status {process.returncode}") from None
                time.sleep(0.1)
        print(f"up after {time.perf_counter() - started:.1f} s\n", flush=True)
        yield f"http://127.0.0.1:{port}/invocations", process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def cpu_seconds(group: int) -> float:
    """Processor time that the living processes of a group have used."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def body(images: np.ndarray, *, tta: bool, as_files: bool) -> bytes:
    """A request with these images, as PNG files in base64 or as numbers."""
    values: list[Any] = images.tolist()
    if as_files:
        values = []
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            values.append(base64.b64encode(file.getvalue()).decode())
    return json.dumps({"inputs": values, "params": {"tta": tta}}).encode()


def ask(address: str, content: bytes, images: int) -> float:
    """Seconds until the answer has arrived."""
    start = time.perf_counter()
    request = urllib.request.Request(address, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        if len(json.load(answer)["predictions"]) != images:
            raise SystemExit("an answer is not complete")
    return time.perf_counter() - start


def main(
    requests: Annotated[int, typer.Option(min=1, help="Requests for a line; with TTA a twentieth.")] = 100,
) -> None:
    print(machine("torch", "mlflow"))
    print(f"{os.environ.get('OMP_NUM_THREADS') or os.cpu_count()} threads in the server, LHC-Net at {SIZE}x{SIZE}")
    pixels = noise(32).images
    with tempfile.TemporaryDirectory() as work:
        write_model(Path(work, "model"))
        mlflow.pyfunc.save_model(Path(work, "logged"), **pyfunc_arguments(Path(work, "model")))
        with server(Path(work, "logged")) as (address, group):
            print("| request | clients | images/s | median latency | 95 % within | processor time an image |")
            print("| --- | --- | --- | --- | --- | --- |")
            for what, images, clients, tta, as_files in (
                ("a PNG file", 1, 1, False, True),
                ("a list of numbers", 1, 1, False, False),
                ("a PNG file", 1, 8, False, True),
                ("a PNG file", 1, 64, False, True),
                ("32 PNG files", 32, 1, False, True),
                ("a PNG file, 60 views (`tta`)", 1, 1, True, True),
            ):
                content = body(pixels[:images], tta=tta, as_files=as_files)
                count = max(3, clients, requests // (20 if tta else images))
                ask(address, content, images)
                with ThreadPoolExecutor(clients) as pool:
                    start, used = time.perf_counter(), cpu_seconds(group)
                    taken = sorted(pool.map(lambda _: ask(address, content, images), range(count)))  # noqa: B023
                    wall, used = time.perf_counter() - start, cpu_seconds(group) - used
                within = taken[min(count - 1, int(0.95 * count))]
                median = statistics.median(taken)
                rates = f"{count * images / wall:.1f}", f"{median:.3f} s", f"{within:.3f} s"
                print(f"| {' | '.join((what, str(clients), *rates, f'{used / (count * images):.3f} s'))} |", flush=True)
    print(f"\nload average at the end: {os.getloadavg()[1]:.1f} in 5 minutes; other work on the machine counts")


if __name__ == "__main__":
    typer.run(main)
