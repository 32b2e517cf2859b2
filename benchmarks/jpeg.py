"""The paper stores its training images as JPEG (section 4.1). How far does that move pixels, and a trained model?

python benchmarks/jpeg.py data/raw/fer2013.zip                     # pixels at 224x224, small models at 48x48
python benchmarks/jpeg.py data/raw/fer2013.zip --images 5000       # fewer training images, sooner

Quality 100, no chroma subsampling. Trains the same network with the same seeds twice, once on images that were
truncated to integers (what the library does) and once on images that were also stored as JPEG.
"""

from __future__ import annotations

import os
import platform
from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image

from lhcnet.config import Compute, Network
from lhcnet.data.fer2013 import SPLITS
from lhcnet.data.sources import read
from lhcnet.data.transforms import upscale
from lhcnet.inference.predict import loss_and_accuracy, predict
from lhcnet.inference.tta import plain_views
from lhcnet.profiles import profile
from lhcnet.protocol.statistics import mcnemar
from lhcnet.report.wording import sentence
from lhcnet.runtime import open_device
from lhcnet.saved import Architecture
from lhcnet.training.loop import DataSplit, fit

Bytes = NDArray[np.uint8]
NETWORK = Network(
    input_size=48, depths=(2, 2, 2, 2), widths=(24, 48, 96, 192), head=(256,), bn_momentum=0.1, weights="none"
)


def through_jpeg(images: Bytes) -> Bytes:
    """(N, S, S) uint8 as RGB JPEG, quality 100, 4:4:4, and back; the three channels come back equal or it fails."""
    out = np.empty_like(images)
    for i, image in enumerate(images):
        file = BytesIO()
        Image.fromarray(image).convert("RGB").save(file, "JPEG", quality=100, subsampling=0)
        pixels = np.asarray(Image.open(file))
        if not (pixels == pixels[..., :1]).all():
            raise SystemExit("the channels of a grey JPEG differ: a grey comparison would not tell the whole")
        out[i] = pixels[..., 0]
    return out


def resized(images: Bytes, size: int, *, truncate: bool) -> NDArray[np.float32]:
    """(N, 48, 48) -> (N, size, size), bilinear; floored as training sees them, or with fractions as validation does."""
    batches = torch.from_numpy(images).split(256)
    return torch.cat([upscale(batch, size, truncate=truncate)[:, 0] for batch in batches]).numpy()


def pixels(images: Bytes, size: int) -> None:
    exact, floored = (resized(images, size, truncate=truncate).astype(np.float64) for truncate in (False, True))
    stored = through_jpeg(floored.astype(np.uint8))
    print(f"\nPixels, {len(images)} training images at {size}x{size} (grey values 0..255)\n")
    print("| what | mean | mean absolute | largest | pixels moved |\n| --- | --- | --- | --- | --- |")
    for name, d in (("truncation", floored - exact), ("JPEG after truncation", stored - floored)):
        print(f"| {name} | {d.mean():+.4f} | {np.abs(d).mean():.4f} | {np.abs(d).max():.2f} | {(d != 0).mean():.1%} |")


def main(
    source: Path,
    images: Annotated[int, typer.Option(help="Training images; 0 for all.")] = 0,
    epochs: int = 4,
    seeds: int = 2,
    sample: Annotated[int, typer.Option(help="Images for the comparison of pixels.")] = 1000,
) -> None:
    config = profile("paper")
    device = open_device(Compute(device="cpu"))
    faces = read(source, validation_fraction=config.data.validation_fraction, seed=config.data.split_seed)
    of = {name: faces.splits == code for code, name in enumerate(SPLITS)}
    rows = np.flatnonzero(of["train"])
    rows = np.random.default_rng(0).permutation(rows)[: images or None]
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    pixels(faces.images[rows[:sample]], 224)

    size, augmentation = NETWORK.input_size, config.stage1.augmentation.model_copy(update={"rotation": 15.0})
    changes = {"learning_rate": 1e-3, "epochs": epochs, "patience": epochs, "augmentation": augmentation}
    stage = config.stage1.model_copy(update=changes)
    plain = resized(faces.images[rows], size, truncate=True).astype(np.uint8)
    variants = {"truncated": plain, "JPEG": through_jpeg(plain)}
    validation, test = (DataSplit(faces.images[of[n]], faces.labels[of[n]]) for n in ("validation", "test"))
    print(f"\nTrained {epochs} epochs (stage 1) on {len(rows)} images at {size}x{size}\n")
    print("| seed | trained on | validation | test | training loss on truncated | on JPEG |\n" + "| --- " * 6 + "|")
    for seed in range(seeds):
        right = {}
        for name, stored in variants.items():
            network = Architecture.of(NETWORK).build(seed)
            result = fit(
                network,
                DataSplit(stored, faces.labels[rows]),
                validation,
                stage,
                stage_number=1,
                seed=seed,
                input_size=size,
                device=device,
                title=f"seed {seed}, {name}",
            )
            predicted = predict(network, test.images, plain_views(), input_size=size, device=device).argmax(1)
            right[name] = predicted == test.labels
            losses = [
                loss_and_accuracy(network, on, faces.labels[rows], input_size=size, device=device)[0]
                for on in variants.values()
            ]
            best = result.history[result.best_epoch].val_accuracy
            figures = f"{best:.2%} | {right[name].mean():.2%} | {losses[0]:.4f} | {losses[1]:.4f}"
            print(f"| {seed} | {name} | {figures} |", flush=True)
        told = sentence("trained on JPEG", "on truncated", mcnemar(right["JPEG"], right["truncated"]))
        print(f"\nSeed {seed}: {told}\n", flush=True)


if __name__ == "__main__":
    typer.run(main)
