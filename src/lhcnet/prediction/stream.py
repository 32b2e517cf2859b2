"""Predictions for any number of pictures, in batches and with bounded memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from PIL import Image
from tqdm import tqdm

from lhcnet.errors import LhcnetError
from lhcnet.prediction.inputs import Input, Unreadable
from lhcnet.prediction.predictor import Face, Predictor

MOST_PIXELS = 25_000_000  # of the pictures of a batch, unless one alone is larger: 75 MB in colour


@dataclass(frozen=True)
class Predicted:
    """A picture and its faces."""

    input: Input
    picture: Image.Image
    faces: tuple[Face, ...]


@dataclass
class Failures:
    """Says what cannot be read on standard error, beside the progress bar, and counts it."""

    count: int = 0

    def __call__(self, why: str) -> None:
        self.count += 1
        say(why)

    def require_none(self, answered: int) -> None:
        """Raise LhcnetError if there were any, beside so many pictures that were answered."""
        if self.count:
            raise LhcnetError(f"{self.count:,} of {answered + self.count:,} inputs could not be read")


def say(why: str) -> None:
    """Print a sentence on standard error, above the progress bar."""
    tqdm.write(f"lhcnet: {why}", file=sys.stderr)


@dataclass
class _Batch:
    """Pictures that wait for the network."""

    inputs: list[Input] = field(default_factory=list)
    pictures: list[Image.Image] = field(default_factory=list)
    pixels: int = 0

    def add(self, one: Input, picture: Image.Image) -> None:
        self.inputs.append(one)
        self.pictures.append(picture)
        self.pixels += picture.width * picture.height

    def predict(self, predictor: Predictor, *, tta: bool, abstain_below: float) -> Iterator[Predicted]:
        faces = predictor.predict_read(self.pictures, tta=tta, abstain_below=abstain_below)
        for index, (one, picture) in enumerate(zip(self.inputs, self.pictures, strict=True)):
            yield Predicted(one, picture, tuple(face for face in faces if face.picture == index))


def predict_stream(
    predictor: Predictor,
    inputs: Iterable[Input | Unreadable],
    report: Callable[[str], None],
    *,
    batch_size: int = 32,
    tta: bool = False,
    abstain_below: float = 0.0,
) -> Iterator[Predicted]:
    """Predict pictures as they come.

    Args:
        predictor: the model.
        inputs: read one after the other, never ahead of a batch.
        report: called with one sentence for each input that cannot be read; the others go on.
        batch_size: number of pictures in a batch; one with large pictures has fewer (`MOST_PIXELS`).
        tta, abstain_below: as in `lhcnet.prediction.predictor.Predictor.predict`.

    Yields:
        The pictures in their order.

    Raises:
        LhcnetError: the model cannot answer.
    """
    batch = _Batch()
    for one in inputs:
        if isinstance(one, Unreadable):
            report(one.why)
            continue
        try:
            picture = one.read()
        except LhcnetError as error:
            report(str(error))
            continue
        except MemoryError:
            report(f"{one.name}: there is not enough memory to read it")
            continue
        batch.add(one, picture)
        if len(batch.inputs) >= batch_size or batch.pixels >= MOST_PIXELS:
            yield from batch.predict(predictor, tta=tta, abstain_below=abstain_below)
            batch = _Batch()
    if batch.inputs:
        yield from batch.predict(predictor, tta=tta, abstain_below=abstain_below)
