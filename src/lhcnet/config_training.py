"""Settings of a training stage: `stage1` to `stage4` and `control.training` in `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from lhcnet.config_base import Count, Fraction, FrozenModel
from lhcnet.estimate import LARGEST
from lhcnet.validation import whole


class Augmentation(FrozenModel):
    """Random augmentation of each image in each epoch (Tables 3, 4): rotation in degrees, shift, zoom as fractions."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    shift: Fraction = 0.0
    zoom: Fraction = 0.0
    flip: bool = False


class Stage(FrozenModel):
    """One training stage (Tables 3-6): cross-entropy, early stopping on validation accuracy."""

    optimizer: Literal["adam", "sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    batch_size: Annotated[int, BeforeValidator(whole), Field(ge=2, lt=LARGEST)] = 64
    epochs: Count = 300
    patience: Count = 3
    augmentation: Augmentation = Augmentation()
