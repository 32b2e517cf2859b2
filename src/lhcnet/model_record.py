"""The record of a model: its architecture, where it comes from, and what it reached. Loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lhcnet import __version__
from lhcnet.config import (
    Compute,
    Count,
    Depth,
    Fraction,
    FrozenModel,
    InputSize,
    LHCSettings,
    Modules,
    Name,
    Network,
    SetName,
    Stage,
    module_arguments,
)
from lhcnet.config_base import SparseModel
from lhcnet.estimate import Sizes, problem
from lhcnet.validation import whole
from lhcnet.versioned import Versioned

if TYPE_CHECKING:
    from lhcnet.models.resnetv2 import ResNetV2

CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
Unfinished = Literal["crashed", "out of memory", "time limit"]  # how a training ends early; its model has no weights
Status = Literal["trained", "diverged", "dead", "inserted", Unfinished]  # dead: an LHC module's attention is uniform
UNFINISHED: tuple[Unfinished, ...] = get_args(Unfinished)


class Epoch(SparseModel):
    """One row of `history.csv`. Training figures are running means over the epoch, under augmentation and dropout.

    `train_accuracy` of mixed images (mixup, CutMix) counts the label with the larger share. `grad_norm` is the largest
    of a batch (Euclidean, over all trained weights). `learning_rate` is that of the last batch; it is left out where
    the rate is constant.
    """

    newer: ClassVar = frozenset({"learning_rate"})

    epoch: Annotated[int, BeforeValidator(whole)]
    train_loss: float | None = None
    train_accuracy: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    val_loss: float | None = None
    val_accuracy: float


class Architecture(FrozenModel):
    """Everything that is needed to build the network again; `modules` is null for the plain ResNet34v2."""

    input_size: InputSize
    depths: tuple[Depth, Depth, Depth, Depth]
    widths: tuple[Count, Count, Count, Count]
    head: Annotated[tuple[Count, ...], Field(max_length=100)]
    dropout: Fraction
    bn_momentum: float
    modules: Modules | None = None
    control: bool = False

    @property
    def sizes(self) -> Sizes:
        """Sizes of this network, for estimates of its memory."""
        modules = None if self.modules is None else module_arguments(self.modules)
        return Sizes(self.input_size, self.depths, self.widths, self.head, modules)

    @model_validator(mode="after")
    def _can_be_built(self) -> Architecture:
        if why := problem(self.sizes):
            raise ValueError(why)
        return self

    @property
    def has_lhc(self) -> bool:
        """Whether there is an LHC module in each of the five slots."""
        return self.modules is not None and all(isinstance(row, LHCSettings) for row in self.modules)

    @classmethod
    def of(cls, network: Network) -> Architecture:
        return cls(**network.model_dump(exclude={"weights"}))

    def build(self, seed: int | None, device: str = "cpu") -> ResNetV2:
        """The network with new weights; `device` is `cpu`, or `meta` for the shapes alone, without a seed."""
        import torch

        from lhcnet.models.lhcnet import LHCNet, add_control
        from lhcnet.models.resnetv2 import ResNetV2

        sizes = self.model_dump(exclude={"modules", "control"})
        with torch.device(device):
            if self.modules is None:
                network = ResNetV2(**sizes, seed=seed)
            else:
                network = LHCNet(module_arguments(self.modules), **sizes, seed=seed)
            return add_control(network) if self.control else network


class Provenance(FrozenModel):
    """Where a model comes from.

    `start` is the SHA-256 of the weights file that training started from, or the word `none`. `training` and `compute`
    are the settings of the training; null if there was none. `lhcnet` is the version that trained the model.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_./-]+$")]
    set: SetName
    stage: Annotated[int, Field(ge=0, lt=100)]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    variant: Name | None
    data: str
    start: str
    training: Stage | None = None
    compute: Compute | None = None
    lhcnet: str = __version__


class Metrics(FrozenModel):
    """Metrics of the final weights, in evaluation mode and without augmentation; null if not measured or not finite.

    `attention_entropy` has one value for each LHC module, from 0 (every channel attends to one channel) to 1 (uniform).
    """

    status: Status
    reason: str = ""
    best_epoch: int = 0
    epochs: int = 0
    train_loss: float | None = None
    train_accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    attention_entropy: dict[str, float] = Field(default_factory=dict)

    @property
    def unfinished(self) -> bool:
        """Whether the training ended early; then there are no weights."""
        return self.status in UNFINISHED


def _the_seven(classes: tuple[str, ...]) -> tuple[str, ...]:
    if classes != CLASSES:
        raise ValueError(f"expected {', '.join(CLASSES)}, in this order")
    return classes


class ModelInfo(Versioned):
    """`model.json`. `weights` is the SHA-256 of `model.safetensors`.

    It is null in memory, until `save` has written both, and where the training ended early.
    """

    architecture: Architecture
    preprocessing: Literal["48x48 grey 0..255, bilinear to input_size, copied to 3 channels"] = (
        "48x48 grey 0..255, bilinear to input_size, copied to 3 channels"
    )
    classes: Annotated[tuple[str, ...], AfterValidator(_the_seven)] = CLASSES
    provenance: Provenance
    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class ModelRecord(FrozenModel):
    """What a trained model is, and what it reached.

    `selection.json` holds the record of each model of the sets A, B and C, `evaluation.json` that of each LHC-NetC; all
    other results name the model by its id. `weights` is the SHA-256 of its weights file: two models with equal weights
    are one model. It is null if the training ended early.
    """

    architecture: Architecture
    provenance: Provenance
    metrics: Metrics
    history: tuple[Epoch, ...]
    weights: str | None

    @property
    def id(self) -> str:
        return self.provenance.id

    @property
    def set(self) -> SetName:
        return self.provenance.set

    @property
    def is_its_start(self) -> bool:
        """Whether training changed nothing that was kept: epoch 0, the start, was the best on validation."""
        if self.weights is None:
            return False
        return self.weights == self.provenance.start or (self.metrics.epochs > 0 and self.metrics.best_epoch == 0)
