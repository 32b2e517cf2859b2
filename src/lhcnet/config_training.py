"""Settings of a training stage: `stage1` to `stage4` and `control.training` in `params.yaml`.

The defaults of the keys in `newer` are off: without them a stage is the paper's.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from lhcnet.config_base import Count, Fraction, InputSize, Needed, Patience, SparseModel
from lhcnet.estimate import LARGEST
from lhcnet.validation import whole

Alpha = Annotated[float, Field(ge=0, le=100)]  # parameter of Beta(alpha, alpha); 0 is off


class Augmentation(SparseModel):
    """Random augmentation of each image in each epoch (Tables 3, 4): rotation in degrees, the others as fractions."""

    newer: ClassVar = frozenset({"brightness", "contrast"})

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    shift: Fraction = 0.0
    zoom: Fraction = 0.0
    flip: bool = False
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0


class Stage(SparseModel):
    """One training stage (Tables 3-6): cross-entropy, early stopping on validation accuracy.

    docs/extending.md explains every key.
    """

    newer: ClassVar = frozenset(
        {
            "momentum",
            "nesterov",
            "weight_decay",
            "schedule",
            "warmup",
            "label_smoothing",
            "class_weights",
            "mixup",
            "cutmix",
            "mixup_off",
            "random_erasing",
            "ema",
            "sizes",
        }
    )

    optimizer: Literal["adam", "sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    batch_size: Annotated[int, BeforeValidator(whole), Field(ge=2, lt=LARGEST)] = 64
    epochs: Count = 300
    patience: Patience = 3
    augmentation: Augmentation = Augmentation()
    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: Fraction = 0.0
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    warmup: Fraction = 0.0
    label_smoothing: Fraction = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    mixup: Alpha = 0.0
    cutmix: Alpha = 0.0
    mixup_off: Needed = 0
    random_erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    ema: Fraction = 0.0
    sizes: tuple[tuple[Count, InputSize], ...] = ()

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Stage:
        if why := self._problem():
            raise ValueError(why)
        return self

    def _problem(self) -> str:
        """Why the keys do not fit together, or an empty string. No key may be given that changes nothing."""
        if self.momentum and self.optimizer != "sgd":
            return f"momentum: {self.momentum:g} applies to sgd only; expected 0 with optimizer: {self.optimizer}"
        if self.nesterov and not self.momentum:
            return "nesterov: needs momentum; expected momentum above 0, for example 0.9"
        if self.warmup and self.schedule == "constant":
            return f"warmup: {self.warmup:g} applies to a schedule; expected schedule: cosine or one_cycle"
        if self.schedule == "one_cycle" and not self.warmup:
            return "warmup: one_cycle begins with a rising rate; expected a fraction above 0, for example 0.25"
        if self.schedule != "constant" and self.patience is not None:
            return f"patience: {self.patience} would cut schedule: {self.schedule}; expected patience: none"
        if self.mixup_off and not (self.mixup or self.cutmix):
            return f"mixup_off: {self.mixup_off} applies to mixup and cutmix; expected one of them above 0"
        if self.mixup_off >= self.epochs:
            return f"mixup_off: {self.mixup_off} leaves no epoch with mixup; expected less than epochs: {self.epochs}"
        if self.sizes and (total := sum(n for n, _ in self.sizes)) != self.epochs:
            return f"sizes: have {total} epochs in all; expected as many as epochs: {self.epochs}"
        if self.sizes and self.patience is not None:
            return f"patience: {self.patience} would cut sizes; expected patience: none"
        return ""

    def size(self, epoch: int, input_size: int) -> int:
        """Side of the images of an epoch (counted from 1) in pixels; `input_size` where `sizes` is not set."""
        for epochs, size in self.sizes:
            if epoch <= epochs:
                return size
            epoch -= epochs
        return input_size

    @property
    def first_kept(self) -> int:
        """First epoch whose weights may be kept: the first one at the last of `sizes`."""
        return self.epochs - self.sizes[-1][0] + 1 if self.sizes else 1

    @property
    def more_copies(self) -> int:
        """Copies of all weights that a training holds besides those of the paper's stages: momentum and average."""
        return (self.momentum > 0) + (self.ema > 0)

    def recipe(self) -> list[str]:
        """The newer keys that are not at their default, in words: `["momentum 0.9", "schedule one_cycle"]`."""
        words = []
        for name, value in self.to_dict().items():
            if name == "sizes" and value:
                words.append("sizes " + ", ".join(f"{epochs} x {size} px" for epochs, size in value))
            elif name in self.newer:
                words.append(f"{name.replace('_', ' ')} {str(value).lower()}")
        return words
