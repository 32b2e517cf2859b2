"""`lhcnet.load`: a trained model as an object that takes pictures and answers with expressions and probabilities."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lhcnet.data.fer2013 import SIDE, Bytes
from lhcnet.data.pictures import ANY, grey, read_picture
from lhcnet.errors import LhcnetError
from lhcnet.io.files import read_bytes_bounded

if TYPE_CHECKING:
    from lhcnet.model_record import Answered
    from lhcnet.prediction.model import ProbabilityModel

BLANK, FAR = "blank", "far from the training images"
NO_FACE = "no face found"


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the upright picture; `right` and `bottom` are the first ones outside of it."""

    left: int
    top: int
    right: int
    bottom: int


FaceFinder = Callable[[Image.Image], Sequence[Box]]
"""Finds the faces of a picture (mode L or RGB), with the margin that FER2013's have; none is an answer."""


def whole_picture(picture: Image.Image) -> Sequence[Box]:
    """The box of a picture that is one face."""
    return (Box(0, 0, picture.width, picture.height),)


@dataclass(frozen=True)
class Face:
    """The prediction of one face.

    Attributes:
        picture: index of the picture among those that were given.
        label: the most probable class, or None if its probability is below the threshold of an abstention.
        probabilities: of each class.
        box: the face in the picture; without a finder of faces the whole picture.
        calibrated: whether the probabilities are scaled with a temperature that was fitted on validation.
        unlike: why the image is unlike the training images: `blank`, its grey values differ by 3 at most; `no face
            found`, a picture of 48x48 pixels in which the finder finds none; `far from the training images`, farther
            than 99 % of the validation images, if the model stores how far that is. Empty otherwise. The label of
            such an image says nothing.
    """

    picture: int
    label: str | None
    probabilities: dict[str, float]
    box: Box
    calibrated: bool
    unlike: str = ""

    @property
    def best(self) -> str:
        """The most probable class, also where the label is None."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        """Probability of the most probable class."""
        return self.probabilities[self.best]

    @property
    def abstained(self) -> bool:
        return self.label is None


class Predictor:
    """A model that takes pictures of any kind.

    Args:
        model: gives the probabilities of grey 48x48 images; `lhcnet.load` opens one.
        finder: finds the faces of a picture. None: each picture is one face, as the crops of FER2013 are. A picture of
            48x48 pixels is one face also with a finder, which then says only whether there is one.
        mean_grey: scale the grey values of each crop to this mean; FER2013's is 129. A black crop stays as it is.

    Example:
        >>> import numpy as np
        >>> from lhcnet import LHCNet, Predictor
        >>> from lhcnet.prediction.network import NetworkModel
        >>> from lhcnet.data.fer2013 import CLASSES
        >>> small = [{"heads": 1, "d": 2}] * 5
        >>> network = LHCNet(small, input_size=32, depths=[1] * 4, widths=[4] * 4, head=[8], seed=0)
        >>> predictor = Predictor(NetworkModel(network, "untrained", CLASSES))
        >>> faces = predictor.predict(np.tile(np.arange(48, dtype=np.uint8), (48, 1)))
        >>> len(faces), round(sum(faces[0].probabilities.values()), 3), faces[0].calibrated
        (1, 1.0, False)
    """

    def __init__(
        self,
        model: ProbabilityModel,
        finder: FaceFinder | None = None,
        *,
        mean_grey: float | None = None,
    ) -> None:
        if mean_grey is not None and not 0 < mean_grey <= 255:
            raise LhcnetError(f"mean_grey: expected a grey value above 0 and up to 255, not {mean_grey:g}")
        self.model, self.finder, self.mean_grey = model, finder or whole_picture, mean_grey

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""
        return self.model.classes

    def predict(self, x: object, *, tta: bool = False, abstain_below: float = 0.0) -> list[Face]:
        """Predict the expressions of all faces in one picture or several.

        Args:
            x: a picture: the path of an image file, its bytes or the file opened for reading, a picture of Pillow, a
                numpy array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W), with C of 1, 3 or 4. Or several: any
                iterable of pictures, an array (N, H, W) or (N, H, W, C), a tensor (N, C, H, W).
                `lhcnet.data.pictures` says which values arrays may have.
            tta: average the probabilities over the views of test-time augmentation.
            abstain_below: faces whose highest probability is lower get the label None.

        Returns:
            The faces of the first picture, then those of the second, and so on.

        Raises:
            LhcnetError: there is no picture, one cannot be read (the message has its path or index), or the threshold
                is not in 0..1.
        """
        pictures = [_read(value, where) for value, where in _pictures(x)]
        return self.predict_read(pictures, tta=tta, abstain_below=abstain_below)

    def predict_read(
        self, pictures: Sequence[Image.Image], *, tta: bool = False, abstain_below: float = 0.0
    ) -> list[Face]:
        """`predict` for pictures that `lhcnet.data.pictures.read_picture` has read; none gives no face."""
        from lhcnet.data.audit import is_blank  # loads pydantic
        from lhcnet.prediction.model import with_temperature

        if not 0 <= abstain_below <= 1:
            raise LhcnetError(f"abstain_below: expected a probability of 0..1, not {abstain_below:g}")
        boxes = [(index, *found) for index, picture in enumerate(pictures) for found in self._boxes(picture)]
        if not boxes:
            return []
        images = np.stack([_crop(pictures[index], box) for index, box, _ in boxes])
        plain, far = self.model.observed(self._scaled(images), tta=tta)
        probabilities, is_calibrated = with_temperature(self.model, plain, tta=tta)
        faces = []
        for (index, box, unlike), blank, is_far, row in zip(boxes, is_blank(images), far, probabilities, strict=True):
            named = dict(zip(self.classes, row.tolist(), strict=True))
            label = self.classes[int(row.argmax())]
            why = BLANK if blank else unlike or (FAR if is_far else "")
            face = Face(index, label, named, box, is_calibrated, why)
            faces.append(replace(face, label=None) if face.confidence < abstain_below else face)
        return faces

    def on_validation(self, abstain_below: float, *, tta: bool = False) -> Answered | None:
        """What a threshold did on the validation images.

        Args:
            abstain_below: the threshold; the nearest stored one that is not higher is taken.
            tta: for predictions with test-time augmentation.

        Returns:
            Threshold, numbers of all, answered and rightly answered images; None if the model stores no such threshold.
        """
        rows = self.model.thresholds(tta=tta)
        return max((row for row in rows if row.threshold <= abstain_below), key=lambda row: row.threshold, default=None)

    def embed(self, x: object) -> NDArray[np.float32]:
        """Features of the faces before the head of the network.

        Args:
            x: as in `predict`.

        Returns:
            (N, D), in the order of the faces that `predict` returns.

        Raises:
            LhcnetError: as in `predict`; or the model does not give features.
        """
        pictures = [_read(value, where) for value, where in _pictures(x)]
        crops = [_crop(picture, box) for picture in pictures for box, _ in self._boxes(picture)]
        if not crops:
            raise LhcnetError("no face was found in the pictures, expected one at least")
        return self.model.embeddings(self._scaled(np.stack(crops)))

    def _boxes(self, picture: Image.Image) -> list[tuple[Box, str]]:
        """The faces of a picture, each with why it is unlike FER2013."""
        found = self.finder(picture)
        if picture.size == (SIDE, SIDE):
            return [(box, "" if found else NO_FACE) for box in whole_picture(picture)]
        return [(box, "") for box in found]

    def _scaled(self, images: Bytes) -> Bytes:
        """Crops (N, 48, 48) with the mean that was asked for, as far as white allows."""
        if self.mean_grey is None:
            return images
        means = images.mean(axis=(1, 2), keepdims=True)
        factors = np.divide(self.mean_grey, means, out=np.ones_like(means), where=means > 0)
        scaled: Bytes = np.rint(images * factors).clip(0, 255).astype(np.uint8)
        return scaled


def _crop(picture: Image.Image, box: Box) -> Bytes:
    whole = (0, 0, picture.width, picture.height)
    corners = (box.left, box.top, box.right, box.bottom)
    return grey(picture if corners == whole else picture.crop(corners))


def _pictures(x: object) -> Iterator[tuple[object, str]]:
    """The pictures in an argument of `predict`, one an element, with their names for error messages."""
    values = list(_each(x)) if (several := _is_several(x)) else [x]
    if not values:
        raise LhcnetError("pictures: expected at least one, got none")
    for index, value in enumerate(values):
        where = str(value) if isinstance(value, str | Path) else f"picture {index}" if several else "picture"
        yield value, where


def _is_several(x: Any) -> bool:
    if isinstance(x, str | Path | bytes | bytearray | memoryview | Image.Image) or hasattr(x, "read"):
        return False
    if isinstance(x, np.ndarray):
        return x.ndim > 3 or (x.ndim == 3 and x.shape[2] not in (1, 3, 4))
    return x.ndim > 3 if _is_tensor(x) else True


def _each(x: Any) -> Iterator[object]:
    try:
        found: Iterator[object] = iter(x)
    except TypeError:
        raise LhcnetError(f"pictures: expected a picture or several, got {type(x).__name__}") from None
    return found


def _is_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _read(value: Any, where: str) -> Image.Image:
    if isinstance(value, str | Path):
        try:
            value = read_bytes_bounded(Path(value), ANY.largest_file)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise LhcnetError(f"{where}: expected an image file: {reason}") from None
    elif hasattr(value, "read"):  # an open file
        value = value.read(ANY.largest_file + 1)
    elif _is_tensor(value):
        try:
            value = value.detach().cpu()
            value = (value.float() if value.is_floating_point() else value).numpy()
        except (RuntimeError, TypeError) as error:  # sparse, quantised, without values
            line = " ".join(str(error).split())[:200]
            raise LhcnetError(f"{where}: expected a dense tensor of numbers: {line}") from None
        if value.ndim == 3:
            if value.shape[0] not in (1, 3, 4):
                raise LhcnetError(
                    f"{where}: expected a tensor (H, W) or (C, H, W) with 1, 3 or 4 channels, got one of shape "
                    f"{tuple(value.shape)}; several pictures are (N, C, H, W)"
                )
            value = value.transpose(1, 2, 0)
    return read_picture(value, where)
