"""Our speed beside the reference implementation's and beside another commit's, taking turns in one run.

    git clone https://github.com/Bodhis4ttva/LHC_Net /tmp/LHC_Net
    python3.11 -m venv /tmp/keras && /tmp/keras/bin/pip install tensorflow-cpu==2.21.0 tf_keras==2.21.0
    .venv/bin/python benchmarks/reference.py --keras /tmp/keras/bin/python --checkout /tmp/LHC_Net

`--other NAME=FOLDER` adds another checkout of this project, `--plain` leaves the allocator's settings out. Every
contestant is a process that waits for its turn, so a slow minute of the machine hits all. Ours goes from stored 48x48
images to the optimiser, augmentation included; the reference gets float32 images of 224x224 that are ready.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

TRAIN, INFER = 16, 32  # images of a batch
ROOT = Path(__file__).parents[1]


def serve(tasks: dict[str, Callable[[], object]]) -> None:
    """Answer each name on stdin with the seconds that the task takes."""
    for line in sys.stdin:
        start = time.perf_counter()
        tasks[line.strip()]()
        print(f"took {time.perf_counter() - start}", flush=True)


def serve_reference(checkout: Path) -> None:
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="2", TF_USE_LEGACY_KERAS="1")
    import json

    import numpy as np
    import tensorflow as tf

    names: dict[str, object] = {"np": np}
    exec((checkout / "Lib" / "LHC_Net.py").read_text(), names)  # as the reference's own scripts do
    settings = json.loads((checkout / "Settings" / "LHC_Settings.json").read_text())
    model = names["LHC_ResNet34"](input_shape=(224, 224, 3), num_classes=7, att_params=settings)  # type: ignore[operator]
    rng = np.random.default_rng(0)
    few, many = (rng.uniform(0, 255, (n, 224, 224, 3)).astype("float32") for n in (TRAIN, INFER))
    labels = np.eye(7, dtype="float32")[rng.integers(0, 7, TRAIN)]
    model(few)
    model.compile(optimizer=tf.keras.optimizers.Adam(1e-4), loss="categorical_crossentropy")
    serve({"train": lambda: model.train_on_batch(few, labels), "infer": lambda: model.predict_on_batch(many)})


def serve_ours(precision: str) -> None:
    sys.path.insert(0, str(Path.cwd() / "benchmarks"))  # of the checkout that is measured
    import network

    from lhcnet.config import Compute
    from lhcnet.inference.predict import predict
    from lhcnet.inference.tta import plain_views
    from lhcnet.runtime import open_device

    device = open_device(Compute.model_validate({"device": "cpu", "precision": precision}))
    model, images = network.network(lhc=True), network.noise(INFER).images
    device.move(model)

    def infer() -> object:
        return predict(model, images, plain_views(), input_size=network.SIZE, device=device, batch_size=INFER)

    serve({
        "train": network.training(device, lhc=True, steps=1),
        "plain": network.training(device, lhc=False, steps=1),
        "infer": infer,
    })  # fmt: skip


class Contestant:
    """A process that measures when it is asked."""

    def __init__(self, name: str, *command: str, folder: Path = ROOT, tuned: bool = False) -> None:
        from lhcnet.allocator import environment

        given = dict(os.environ) | {"PYTHONPATH": str(folder / "src")}
        self.name, self.seconds = name, dict[str, list[float]]()
        self.process = subprocess.Popen(
            [*command],
            cwd=folder,
            env=environment(given) if tuned else given,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, task: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{task}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("took "):
                return float(line.split()[1])
        raise SystemExit(f"{self.name}: ended with status {self.process.wait()}")

    def keep(self, task: str, seconds: float) -> None:
        self.seconds.setdefault(task, []).append(seconds)

    def median(self, task: str) -> float:
        return statistics.median(self.seconds[task])


def contestants(keras: str, checkout: str, other: list[str], plain: bool) -> Iterator[Contestant]:
    if keras:
        yield Contestant("reference", keras, __file__, "--serve-reference", checkout)
    for precision in ("float32", "bfloat16"):
        for name, folder in (("ours", str(ROOT)), *(text.split("=", 1) for text in other)):
            command = (sys.executable, __file__, "--serve-ours", precision)
            yield Contestant(f"{name}, {precision}", *command, folder=Path(folder), tuned=name == "ours" and not plain)


def main(
    keras: Annotated[str, "Python that has tensorflow-cpu and tf_keras"] = "",
    checkout: str = "",
    other: list[str] | None = None,
    plain: bool = False,
    runs: int = 7,
) -> None:
    from measure import machine

    print(machine("torch"))
    running = list(contestants(keras, checkout, other or [], plain))
    for run in range(runs + 2):  # the first two choose kernels and trace graphs
        for contestant in running:
            for task in ("train", "infer") if contestant.name == "reference" else ("train", "plain", "infer"):
                seconds = contestant.measure(task)
                if run > 1:
                    contestant.keep(task, seconds)
    first = running[0]
    print(f"| | training B={TRAIN} | : {first.name} | inference B={INFER} | : {first.name} | LHC-Net : ResNet34v2 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for one in running:
        train, infer = one.median("train"), one.median("infer")
        cost = f"{train / one.median('plain'):.2f}" if "plain" in one.seconds else "-"
        print(
            f"| {one.name} | {TRAIN / train:.2f} img/s | {first.median('train') / train:.2f} "
            f"| {INFER / infer:.1f} img/s | {first.median('infer') / infer:.2f} | {cost} |"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve-reference"]:
        serve_reference(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--serve-ours"]:
        serve_ours(sys.argv[2])
    else:
        import typer

        typer.run(main)
