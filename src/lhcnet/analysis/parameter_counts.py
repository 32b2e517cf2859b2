"""The columns Params and Att of Table A2, counted in the networks that can be built here.

They are built on PyTorch's meta device, which takes seconds and no memory. `parameter_counts.csv` holds the output of
`lhcnet sizes --out`, and a test counts again.

Parameters are counted as Keras does, with the moving statistics of BatchNorm: several of the paper's figures are those
of Keras models with 1000 classes (DenseNet121 8,062,504; EfficientNetB2 9,177,569; VGG19 143,667,240). The attention
share is that of the attention modules themselves. The paper's shares of SE-Net50 and RM-Net follow from its own column
of parameters: (27 - 25.6) / 27 = 5.2 % and (142.9 - 27.6) / 142.9 = 80.7 %, the growth over a ResNet without them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lhcnet.config import FrozenModel
from lhcnet.protocol.paper import PAPER_TABLE_A2

if TYPE_CHECKING:
    from torch import nn

COUNTED = Path(__file__).with_name("parameter_counts.csv")


class Size(FrozenModel):
    """A network of Table A2: its parameters, those in attention modules, and which implementation was counted.

    `paper_params` (millions) and `paper_share` (per cent) are the paper's columns.
    """

    model: str
    paper_params: float | None
    paper_share: float | None
    params: int
    attention: int
    counted: str

    @property
    def share(self) -> float:
        """Per cent of the parameters."""
        return 100 * self.attention / self.params


def sizes() -> tuple[Size, ...]:
    """The counted networks in the order of Table A2, read from `parameter_counts.csv`."""
    with COUNTED.open(newline="", encoding="utf-8") as file:
        return tuple(
            _size(row["model"], int(row["params"]), int(row["attention"]), row["counted"])
            for row in csv.DictReader(file)
        )


def count() -> tuple[Size, ...]:
    """Build and count the networks again; those of timm only where it is installed."""
    import torch

    from lhcnet.models.lhcnet import count_parameters

    built: dict[str, tuple[int, int, str]] = {}
    found: list[Size] = []
    for model in dict.fromkeys(row.model for row in PAPER_TABLE_A2):
        name = model.split(" [")[0]
        if name not in _BUILDERS:
            continue
        if name not in built:
            counted, build, is_attention = _BUILDERS[name]
            try:
                with torch.device("meta"):
                    network = build()
            except ModuleNotFoundError:
                continue
            attention = sum(count_parameters(part) for key, part in network.named_modules() if is_attention(key))
            built[name] = count_parameters(network), attention, counted
        found.append(_size(model, *built[name]))
    return tuple(found)


def write(rows: tuple[Size, ...], file: Path) -> None:
    """Write the CSV file that `sizes` reads: one row a network, without the paper's columns."""
    names = ("model", "params", "attention", "counted")
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: getattr(row, name) for name in names} for row in rows)


def _size(model: str, params: int, attention: int, counted: str) -> Size:
    paper = next(row for row in PAPER_TABLE_A2 if row.model == model)
    return Size(
        model=model,
        paper_params=paper.params,
        paper_share=paper.share,
        params=params,
        attention=attention,
        counted=counted,
    )


def _resnet34v2() -> nn.Module:
    from lhcnet.models.resnetv2 import ResNetV2

    return ResNetV2()


def _lhcnet(control: bool = False) -> nn.Module:
    from lhcnet.models.lhcnet import LHCNet

    return LHCNet(control=control)


def _torchvision(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        network: nn.Module = models.get_model(name, **settings)
        return network

    return build


def _timm(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        network: nn.Module = timm.create_model(name, **settings)
        return network

    return build


def _none(_key: str) -> bool:
    return False


def _slot(key: str) -> bool:
    return key == "attention"


def _block(key: str) -> bool:
    return key.endswith(".se")  # timm's name of a block's attention, whatever its kind


_PLAIN = {"aux_logits": False, "init_weights": False}
_VGG = ("torchvision vgg19, 1000 classes", _torchvision("vgg19", init_weights=False), _none)
_INCEPTION = ("torchvision inception_v3 without auxiliary head, 1000 classes", _torchvision("inception_v3", **_PLAIN))

_BUILDERS: dict[str, tuple[str, Callable[[], nn.Module], Callable[[str], bool]]] = {
    "VGG19": _VGG,
    "VGG": _VGG,
    "EffNet": ("torchvision efficientnet_b2, 1000 classes", _torchvision("efficientnet_b2"), _none),
    "Inception": (*_INCEPTION, _none),
    "Incep.v1": (
        "torchvision googlenet without auxiliary heads, 1000 classes",
        _torchvision("googlenet", **_PLAIN),
        _none,
    ),
    "ResNet34": ("torchvision resnet34, 1000 classes", _torchvision("resnet34"), _none),
    "SE-Net50": ("timm seresnet50, 1000 classes; its SE modules", _timm("seresnet50"), _block),
    "Incep.v3": (*_INCEPTION, _none),
    "ResNet34v2": ("this project, 7 classes", _resnet34v2, _none),
    "Dense121": ("torchvision densenet121, 1000 classes", _torchvision("densenet121"), _none),
    "ResNet50": ("torchvision resnet50, 1000 classes", _torchvision("resnet50"), _none),
    "ResNet152": ("torchvision resnet152, 1000 classes", _torchvision("resnet152"), _none),
    "CBAMRN50": (
        "timm resnet50 with CBAM in every block, 1000 classes; its CBAM modules",
        _timm("resnet50", block_args={"attn_layer": "cbam"}),
        _block,
    ),
    "LHC-Net": ("this project, 7 classes; its five LHC modules", _lhcnet, _slot),
    "LHC-NetC": ("this project, 7 classes; its five LHC modules and w", lambda: _lhcnet(control=True), _slot),
}
