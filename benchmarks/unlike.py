"""How often a model says that a picture is far from its training images.

python benchmarks/unlike.py artifacts/chosen artifacts/test
python benchmarks/unlike.py artifacts/a/seed-1 artifacts/test --trainval artifacts/trainval   # fits it first
python benchmarks/unlike.py artifacts/a/seed-1 artifacts/test --trainval artifacts/trainval --head   # to compare

The test images are faces of FER2013 that the limit has not seen; half of the limit's own images would be no evidence.
The others are noise, smooth noise (8x8 enlarged), square crops of scikit-image's pictures without faces, FER2013's
faces turned and inverted, and scikit-image's subset of Labeled Faces in the Wild: 100 faces and 100 other crops, 25x25.

pip install scikit-image
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import skimage.data
import typer
from faces import WITHOUT_FACES
from measure import machine
from PIL import Image

from lhcnet.data.fer2013 import Bytes
from lhcnet.data.store import open_store
from lhcnet.prediction.network import CPU, NetworkModel
from lhcnet.prediction.typical import MOST, TypicalFeatures
from lhcnet.protocol.statistics import wilson
from lhcnet.saved import open_model

N = 500


def noise() -> Bytes:
    return np.random.default_rng(0).integers(0, 256, (N, 48, 48), np.uint8)


def smooth() -> Bytes:
    small = np.random.default_rng(1).integers(0, 256, (N, 8, 8), np.uint8)
    return np.stack([resized(Image.fromarray(one)) for one in small])


def resized(picture: Image.Image) -> Bytes:
    return np.asarray(picture.resize((48, 48), Image.Resampling.BICUBIC))


def crops() -> Bytes:
    """Squares of at least 48 pixels of pictures without faces; flat ones are left out."""
    drawn, found = np.random.default_rng(2), []
    for name in WITHOUT_FACES:
        picture = Image.fromarray(getattr(skimage.data, name)()).convert("L")
        for _ in range(N // 5):
            side = int(drawn.integers(48, min(picture.size) + 1))
            left, top = (int(drawn.integers(0, length - side + 1)) for length in picture.size)
            crop = resized(picture.crop((left, top, left + side, top + side)))
            if np.ptp(crop) > 20:
                found.append(crop)
    return np.stack(found)


def lfw() -> tuple[Bytes, Bytes]:
    pictures = (255 * skimage.data.lfw_subset()).round().astype(np.uint8)
    scaled = np.stack([resized(Image.fromarray(one)) for one in pictures])
    return scaled[:100], scaled[100:]


def main(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    test: Annotated[Path, typer.Argument(help="Store with the test split.")],
    trainval: Annotated[Path | None, typer.Option(help="Fit what is typical to this store first.")] = None,
    head: Annotated[bool, typer.Option(help="With --trainval: take the features before the head instead.")] = False,
) -> None:
    """Print the share of images that are far, with its 95 % interval."""
    network = NetworkModel.of(open_model(model), CPU, 64)
    features = network.embeddings if head else network.middle
    if trainval:
        store = open_store(trainval)
        train, validation = (store.split(name)[0] for name in ("train", "validation"))
        own = features(train[:: -(-len(train) // MOST)])
        network = replace(network, typical=TypicalFeatures.fit(own, features(validation)))
    if network.typical is None:
        raise SystemExit(f"{model}: stores nothing that is typical of its training images; expected --trainval")
    faces, _ = open_store(test).split("test")
    some, (people, others) = faces[:N], lfw()
    kinds = {
        "FER2013, test": faces,
        "LFW, faces": people,
        "LFW, other crops": others,
        "crops of pictures without faces": crops(),
        "noise": noise(),
        "smooth noise": smooth(),
        "FER2013 upside down": some[:, ::-1],
        "FER2013 turned by 90 degrees": np.rot90(some, axes=(1, 2)),
        "FER2013 inverted": 255 - some,
    }
    print(f"{model.name}, {network.typical.mean.size} features; {machine('torch', 'scikit-image')}\n")
    print("| images | n | far % (95 % CI) |\n| --- | --- | --- |")
    for name, images in kinds.items():
        far = int(network.typical.far(features(np.ascontiguousarray(images))).sum())
        low, high = wilson(far, len(images))
        print(f"| {name} | {len(images)} | {100 * far / len(images):.1f} ({100 * low:.1f}-{100 * high:.1f}) |")


if __name__ == "__main__":
    typer.run(main)
