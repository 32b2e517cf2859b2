"""Settings of the network: section `network`, and the attention modules of the variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from lhcnet.config_base import Count, Depth, Fraction, FrozenModel, InputSize, Name, SparseModel, Window
from lhcnet.estimate import Sizes
from lhcnet.geometry import PartitionName
from lhcnet.validation import SLOTS, in_slots

LHCNET = "lhcnet"  # the backbone of the paper, ResNet34v2 with its five slots
# a name alone: `hf-hub:` and `local-dir:` of timm download or read files
Backbone = Annotated[str, Field(pattern=rf"^({LHCNET}|(timm|torchvision):[A-Za-z0-9][A-Za-z0-9_.]*)$", max_length=100)]
Layer = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=200)]
Layers = Annotated[tuple[Layer, ...], Field(max_length=len(SLOTS))]


SIZES = ("depths", "widths", "head")  # of lhcnet


class Network(SparseModel):
    """The network without its attention modules.

    `backbone` is `lhcnet`, the ResNet34v2 of the paper with its head (Figure 1), or another network: `timm:<name>` or
    `torchvision:<name>`. `depths`, `widths` and `head` are sizes of `lhcnet`; the others have their own, and their own
    classifier. `layers` are the layers that the modules lhc1, lhc2, ... of another network follow, as in
    `named_modules()`; empty: the last layer of each resolution, found by running the network once. `lhcnet` has five
    slots of its own.

    `weights` are the initial weights of the backbone. `none`: random. Of `lhcnet`: `imagenet` (the file
    `resnet34_imagenet_1000_no_top.h5`, downloaded once into a cache), or the path of that file. Of another network:
    `imagenet` (from an installed package, for `timm:tf_efficientnet_lite0` alone), or the path of its state dict.
    A path may be an address (`s3://`, `gs://`, `https://`, `file:///`) with `#sha256=<64 hex digits>` at its end.
    """

    newer: ClassVar = frozenset({"backbone", "layers"})

    backbone: Backbone = LHCNET
    layers: Layers = ()
    input_size: InputSize = 224
    depths: tuple[Depth, Depth, Depth, Depth] = (3, 4, 6, 3)
    widths: tuple[Count, Count, Count, Count] = (64, 128, 256, 512)
    head: Annotated[tuple[Count, ...], Field(max_length=100)] = (4096, 1024)
    dropout: Fraction = 0.4
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.01
    weights: Annotated[str, Field(min_length=1)] = "imagenet"

    @property
    def is_lhcnet(self) -> bool:
        return self.backbone == LHCNET

    def sizes(self, modules: Modules | None = None) -> Sizes | None:
        """Sizes of this network, for estimates of its memory; None if the backbone is not `lhcnet`."""
        if not self.is_lhcnet:
            return None
        return Sizes(
            self.input_size, self.depths, self.widths, self.head, module_arguments(modules) if modules else None
        )

    def unused(self) -> set[str]:
        return super().unused() | (set() if self.is_lhcnet else set(SIZES))

    @model_validator(mode="after")
    def _settings_apply_to_backbone(self) -> Network:
        if self.is_lhcnet:
            if self.layers:
                raise ValueError(f"layers: {LHCNET} has five slots of its own; expected no layers, or another backbone")
            return self
        if len(set(self.layers)) != len(self.layers):
            raise ValueError(f"layers: expected names that differ from each other, not {', '.join(self.layers)}")
        for key in SIZES:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: is a size of {LHCNET}, and {self.backbone} has its own; remove the key")
        return self

    def count_problem(self, modules: Modules) -> str:
        """Why this number of modules does not fit the backbone, or an empty string; unknown until it is built: none."""
        wanted = len(SLOTS) if self.is_lhcnet else len(self.layers)
        if not wanted or len(modules) == wanted:
            return ""
        given = ", ".join(SLOTS[: len(modules)])
        if self.is_lhcnet:
            return f"expected the five slots {', '.join(SLOTS)}, not {given}"
        return f"expected {', '.join(SLOTS[:wanted])}, one for each of network.layers, not {given}"


class LHCSettings(FrozenModel):
    """One LHC module, a row of Table 2; the heads must fit the feature map at its slot.

    The last three are options that section 5 leaves open; the defaults are the paper's: how the map is cut into heads
    (`split`), BatchNorm before or after LHC (`norm`), a second convolution of size `kernel` before the residual sum.
    """

    heads: Count
    d: Count
    pool: Window = 3
    g: Annotated[float, Field(ge=0)] = 1.0
    kernel: Window = 3
    split: PartitionName = "horizontal"
    norm: Literal["none", "before", "after", "both"] = "none"
    second_conv: bool = False


class BaselineSettings(FrozenModel):
    """A baseline attention module instead of LHC: Squeeze and Excitation, CBAM or ECA, from timm."""

    attention: Literal["se", "cbam", "eca"]


HIDDEN = ("<lhc>", "<baseline>")  # pydantic adds them to the location of an error; `parse` removes them


def _tag(row: object) -> str:
    is_baseline = "attention" in row if isinstance(row, Mapping) else isinstance(row, BaselineSettings)
    return HIDDEN[is_baseline]


Row = Annotated[
    Annotated[LHCSettings, Tag(HIDDEN[0])] | Annotated[BaselineSettings, Tag(HIDDEN[1])], Discriminator(_tag)
]

Modules = Annotated[
    tuple[Row, ...], BeforeValidator(in_slots), Field(min_length=1, max_length=len(SLOTS))
]  # as many as the backbone has slots

TABLE_2: Modules = (
    LHCSettings(heads=8, d=196),
    LHCSettings(heads=8, d=196),
    LHCSettings(heads=7, d=56),
    LHCSettings(heads=7, d=14),
    LHCSettings(heads=1, d=25),
)


def module_arguments(modules: Modules) -> list[dict[str, Any]]:
    """Plain keyword arguments of the modules, as `lhcnet.LHCNet` and `insert_modules` take them."""
    return [module.to_dict() for module in modules]


class Variant(FrozenModel):
    """Named settings of the modules, one for each slot of the backbone."""

    name: Name
    modules: Modules
