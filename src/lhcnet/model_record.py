"""The record of a model: its architecture, where it comes from, and what it reached. Loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)

from lhcnet import __version__
from lhcnet.config import (
    LHCNET,
    Backbone,
    Compute,
    Count,
    Depth,
    Family,
    Fraction,
    FrozenModel,
    InputSize,
    Layers,
    LHCSettings,
    Modules,
    Name,
    Network,
    SetName,
    Stage,
    module_arguments,
)
from lhcnet.config_base import Needed, SparseModel
from lhcnet.config_network import SIZES
from lhcnet.estimate import Sizes, problem
from lhcnet.validation import SLOTS, whole
from lhcnet.versioned import Versioned

if TYPE_CHECKING:
    from lhcnet.models.slots import SlotNetwork

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


_OF_OTHERS = ("backbone", "layers")  # keys of another backbone than lhcnet


class Architecture(SparseModel):
    """Everything that is needed to build the network again; `modules` is null for the plain backbone.

    The ResNet34v2 of the paper (`backbone` is `lhcnet`) has `depths`, `widths` and `head`; another backbone has none of
    them, and `layers`, which its attention modules follow. Files have the keys of the one or of the other.
    """

    backbone: Backbone = LHCNET
    layers: Layers = ()
    input_size: InputSize
    depths: tuple[Depth, Depth, Depth, Depth] | None = None
    widths: tuple[Count, Count, Count, Count] | None = None
    head: Annotated[tuple[Count, ...], Field(max_length=100)] | None = None
    dropout: Fraction
    bn_momentum: float
    modules: Modules | None = None
    control: bool = False

    @property
    def sizes(self) -> Sizes | None:
        """Sizes of this network, for estimates of its memory; None if the backbone is not `lhcnet`."""
        if self.depths is None or self.widths is None or self.head is None:
            return None
        modules = None if self.modules is None else module_arguments(self.modules)
        return Sizes(self.input_size, self.depths, self.widths, self.head, modules)

    @property
    def is_lhcnet(self) -> bool:
        return self.backbone == LHCNET

    @property
    def plain_name(self) -> str:
        """Name of the network without modules, for people: ResNet34v2 has four stages of 3, 4, 6 and 3 blocks."""
        if self.depths is None:
            return self.backbone.partition(":")[2]
        return f"ResNet{2 * sum(self.depths) + 2}v2"

    @property
    def full_name(self) -> str:
        """The same with the library that the network comes from: `ResNet18v2`, `timm:resnet18`."""
        return self.plain_name if self.is_lhcnet else self.backbone

    @model_validator(mode="after")
    def _can_be_built(self) -> Architecture:
        needed, foreign = (SIZES, _OF_OTHERS) if self.is_lhcnet else (_OF_OTHERS, SIZES)
        for key in needed:
            if getattr(self, key) is None or (key == "layers" and not self.layers):
                raise ValueError(f"{key}: required key is missing")
        for key in set(foreign) & self.model_fields_set:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: does not belong to the backbone {self.backbone}")
        slots = len(SLOTS) if self.is_lhcnet else len(self.layers)
        if self.modules is not None and len(self.modules) != slots:
            raise ValueError(f"modules: expected {slots}, one for each slot of the backbone, not {len(self.modules)}")
        if (sizes := self.sizes) and (why := problem(sizes)):
            raise ValueError(why)
        return self

    def unused(self) -> set[str]:
        return set(_OF_OTHERS if self.is_lhcnet else SIZES)

    @property
    def has_lhc(self) -> bool:
        """Whether there is an LHC module in each slot."""
        return self.modules is not None and all(isinstance(row, LHCSettings) for row in self.modules)

    @classmethod
    def of(cls, network: Network) -> Architecture:
        """The architecture that settings name; another backbone than `lhcnet` is built if they do not name its layers.

        Raises:
            LhcnetError: there is no such backbone, or its layers cannot be found.
        """
        values = network.model_dump(exclude={"weights"})
        if not network.is_lhcnet and not network.layers:
            from lhcnet.models.host import default_layers

            values["layers"] = default_layers(network.backbone, network.input_size)
        return cls(**values)

    def build(self, seed: int | None, device: str = "cpu") -> SlotNetwork:
        """The network with new weights.

        Args:
            seed: draws the weights.
            device: `cpu`, or `meta` for the shapes alone, without a seed: only where the backbone is `lhcnet`.

        Raises:
            LhcnetError: the backbone cannot be built here.
        """
        import torch

        from lhcnet.models.lhcnet import LHCNet, add_control, insert_modules
        from lhcnet.models.resnetv2 import ResNetV2

        sizes = self.model_dump(exclude={"modules", "control"})
        with torch.device(device):
            if not self.is_lhcnet:
                from lhcnet.models.host import HostNetwork

                network: SlotNetwork = HostNetwork(**sizes, seed=seed)
                if self.modules is not None:
                    insert_modules(network, module_arguments(self.modules), seed)
            elif self.modules is None:
                network = ResNetV2(**sizes, seed=seed)
            else:
                network = LHCNet(module_arguments(self.modules), **sizes, seed=seed)
            return add_control(network) if self.control else network


class StartWeights(FrozenModel):
    """The file of weights that stage 1 of a backbone started from, and the licence of the weights."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    source: Annotated[str, Field(min_length=1, max_length=300)]
    license: Annotated[str, Field(min_length=1, max_length=100)]

    def __str__(self) -> str:
        return f"{self.source} (SHA-256 {self.sha256[:12]}, licence: {self.license})"


class Provenance(SparseModel):
    """Where a model comes from.

    `start` is the SHA-256 of the weights file that training started from, or the word `none`. `training` and `compute`
    are the settings of the training; null if there was none. `lhcnet` is the version that trained the model.
    `start_weights` is what the first stage of its backbone started from, if not from random weights.
    """

    newer: ClassVar = frozenset({"start_weights"})

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
    start_weights: StartWeights | None = None


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


class Answered(FrozenModel):
    """What a threshold of the confidence does on all `n` validation images.

    `answered` of them have a confidence, after temperature scaling, of at least `threshold`; `right` of those are
    predicted right.
    """

    threshold: Fraction
    answered: Needed
    right: Needed
    n: Count

    @model_validator(mode="after")
    def _in_order(self) -> Answered:
        if not self.right <= self.answered <= self.n:
            raise ValueError(f"expected right <= answered <= n, not {self.right}, {self.answered}, {self.n}")
        return self


class Fitted(SparseModel):
    """What `evaluate` fitted on validation for predictions with a model.

    With a temperature T, a probability p becomes p^(1/T), normalised (`lhcnet.protocol.confidence.scaled`).
    `temperature` is for plain predictions. `temperature_tta` is for the mean over views, and null if the model was not
    predicted with TTA; those views are the paper's 60, or with `tta_families` the views of
    `lhcnet.inference.tta.family_views`. Both take the angle `tta_rotation`. `thresholds` and `thresholds_tta` say what
    thresholds of the confidence do on validation, the lowest first. `features` is the SHA-256 of
    `features.safetensors`, what is typical of the training images; models of earlier versions have none.
    """

    newer: ClassVar = frozenset({"features"})

    temperature: Annotated[float, Field(gt=0)]
    temperature_tta: Annotated[float, Field(gt=0)] | None = None
    tta_families: tuple[Family, ...] | None = None
    tta_rotation: float
    thresholds: tuple[Answered, ...] = ()
    thresholds_tta: tuple[Answered, ...] = ()
    features: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class ModelInfo(Versioned, SparseModel):
    """`model.json`. `weights` is the SHA-256 of `model.safetensors`.

    It is null in memory, until `save` has written both, and where the training ended early. `fitted` is in the chosen
    model that `evaluate` writes and `register` registers; all others have no such key.
    """

    newer: ClassVar = frozenset({"fitted"})

    architecture: Architecture
    preprocessing: Literal["48x48 grey 0..255, bilinear to input_size, copied to 3 channels"] = (
        "48x48 grey 0..255, bilinear to input_size, copied to 3 channels"
    )
    classes: Annotated[tuple[str, ...], AfterValidator(_the_seven)] = CLASSES
    provenance: Provenance
    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    fitted: Fitted | None = None


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
