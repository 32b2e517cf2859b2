"""Any convolutional network of timm or torchvision as the backbone: its LHC modules follow named layers of it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lhcnet.errors import LhcnetError
from lhcnet.models.initialisation import named_generator
from lhcnet.models.insertion import find_layers, layer_outputs
from lhcnet.models.memory_format import memory_format
from lhcnet.models.resolution import last_layers
from lhcnet.models.slots import SLOTS, SlotNetwork

CLASSES = 7
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of all networks of torchvision


class HostNetwork(SlotNetwork):
    """A network of timm or torchvision with a slot after each of the named layers.

    The host keeps the names of its tensors, below `host.`; the modules in the slots are `attention.0` and so on, as in
    ResNet34v2. The input is normalised as the host was pretrained, so that images have values 0..255 here too.

    Args:
        backbone: `timm:<name>` or `torchvision:<name>`.
        layers: names of the layers that the slots follow; at most five. Their outputs must be (B, C, H, W).
        input_size: side S of the square images in pixels.
        dropout: probability of dropping before the classifier.
        bn_momentum: weight of the new batch in the moving statistics of each BatchNorm.
        classes: number of logits.
        seed: equal seeds give equal initial weights; None draws from torch's global generator.

    Raises:
        LhcnetError: there is no such network, it cannot work at this size, or there is no slot after a layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        backbone: str,
        layers: Sequence[str],
        input_size: int,
        dropout: float,
        bn_momentum: float,
        classes: int = CLASSES,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.layers = backbone, tuple(layers)
        self.input_size, self.classes, self.bn_momentum = input_size, classes, bn_momentum
        self.host, mean, std = create_host(backbone, dropout=dropout, classes=classes, seed=seed)
        for module in self.host.modules():
            if isinstance(module, _NormBase):
                module.momentum = bn_momentum
        self.register_buffer("mean", 255 * torch.tensor(mean)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(std)[:, None, None])
        self._format = memory_format(*(m.out_channels for m in self.host.modules() if isinstance(m, nn.Conv2d)))
        example = torch.zeros(1, 3, input_size, input_size)
        require_logits(backbone, self.host, example, classes)
        try:
            named = find_layers(self.host, self.layers)
            outputs = layer_outputs(self.host, named, example)
        except ValueError as error:
            raise LhcnetError(f"network.layers: {backbone}: {error}") from None
        for name, output in outputs.items():
            if output.height != output.width:
                raise LhcnetError(
                    f"network.layers: {backbone}: {name}: expected square maps (B, C, H, W), channels first, not "
                    f"({output.channels}, {output.height}, {output.width})"
                )
        self._shapes = tuple((output.channels, output.height, output.width) for output in outputs.values())
        self.attention = nn.ModuleList(nn.Identity() for _ in named)
        for slot, layer in enumerate(named.values()):
            layer.register_forward_hook(_Slot(self, slot))

    @property
    def slot_shapes(self) -> Sequence[tuple[int, int, int]]:
        return self._shapes

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, S, S) with values 0..255."""
        x = ((x - self.mean) / self.std).contiguous(memory_format=self._format)
        logits: Tensor = self.host(x)
        return logits

    def logits_from(self, slot: int, x: Tensor, images: Tensor) -> Tensor:
        """The whole network runs again: the rest of a foreign network cannot be run alone."""
        logits: Tensor = self(images)
        return logits


class _Slot:
    """Forward hook of a layer that hands its output to the module in a slot.

    An object instead of a function, so that a deep copy of the network has hooks that belong to the copy.
    """

    def __init__(self, network: HostNetwork, slot: int) -> None:
        self.network, self.slot = network, slot

    def __call__(self, layer: nn.Module, given: object, output: Tensor) -> Tensor:
        attended: Tensor = self.network.attention[self.slot](output)
        return attended


def default_layers(backbone: str, input_size: int) -> tuple[str, ...]:
    """Layers that the slots of a backbone follow if the settings name none: the last one of each resolution.

    Raises:
        LhcnetError: there is no such network, it cannot work at this size, or no such layer is found.
    """
    host, _, _ = create_host(backbone, dropout=0.0, classes=CLASSES, seed=0)
    example = torch.zeros(1, 3, input_size, input_size)
    require_logits(backbone, host, example, CLASSES)
    if not (layers := last_layers(host, example)):
        raise LhcnetError(
            f"network.backbone: {backbone}: no layer with square feature maps (B, C, H, W) was found at input size "
            f"{input_size}; expected a convolutional network, or names in network.layers"
        )
    return layers


def create_host(
    backbone: str, *, dropout: float, classes: int, seed: int | None
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """A network of timm or torchvision with new weights, and mean and standard deviation of its inputs (values 0..1).

    Raises:
        LhcnetError: there is no such network, or it does not take this number of classes.
    """
    library, _, name = backbone.partition(":")
    make = {"timm": _timm, "torchvision": _torchvision}[library]
    generator = named_generator(seed, "backbone")
    try:
        # on the CPU, also within `torch.device("meta")`: some hosts compute with their buffers in the constructor
        with torch.device("cpu"), torch.random.fork_rng(devices=[], enabled=generator is not None):
            if generator is not None:
                torch.default_generator.manual_seed(generator.initial_seed())
            return make(name, dropout, classes)
    except (TypeError, ValueError, RuntimeError, NotImplementedError, AssertionError, KeyError) as error:
        line = " ".join(str(error).split())[:200]
        raise LhcnetError(f"network.backbone: {backbone} cannot be built: {line}") from None


def classifier_names(backbone: str, host: nn.Module) -> tuple[str, ...]:
    """Prefixes of the tensors of the classifier, which has other classes than the pretrained one."""
    if backbone.startswith("timm:"):
        named = getattr(host, "pretrained_cfg", {}).get("classifier") or ()
        return (named,) if isinstance(named, str) else tuple(named)
    name = _last_layer(host)
    owner = name.rpartition(".")[0]
    return (owner if isinstance(host.get_submodule(owner), _Head) else name,)


class _Head(nn.Sequential):
    """Dropout and the classifier of a network of torchvision that has no dropout of its own."""


def _timm(name: str, dropout: float, classes: int) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    import timm

    if not timm.is_model(name):
        raise LhcnetError(f"network.backbone: timm has no network {name}{_close(name, timm.list_models)}")
    host: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, drop_rate=dropout)
    given: Any = getattr(host, "pretrained_cfg", {})
    return host, tuple(given.get("mean", IMAGENET_MEAN)), tuple(given.get("std", IMAGENET_STD))


def _torchvision(name: str, dropout: float, classes: int) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    from torchvision import models

    if name not in models.list_models(module=models):
        close = _close(name, lambda: models.list_models(module=models))
        raise LhcnetError(f"network.backbone: torchvision has no network for classification {name}{close}")
    more = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}  # one output
    host: nn.Module = models.get_model(name, weights=None, num_classes=classes, **more)
    dropouts = [module for module in host.modules() if isinstance(module, nn.Dropout)]
    for module in dropouts:
        module.p = dropout
    if not dropouts and (last := _last_layer(host)):
        owner, classifier = host.get_submodule(last.rpartition(".")[0]), host.get_submodule(last)
        setattr(owner, last.rpartition(".")[2], _Head(nn.Dropout(dropout), classifier))
    return host, IMAGENET_MEAN, IMAGENET_STD


def _last_layer(host: nn.Module) -> str:
    """Name of the last dense layer or convolution: the classifier of every network of torchvision."""
    names: list[str] = [name for name, module in host.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return names[-1]


def _close(name: str, known: Callable[[], list[str]]) -> str:
    close = difflib.get_close_matches(name, known(), n=3)
    return f"; did you mean one of {', '.join(close)}?" if close else "; expected the name of one"


def require_logits(backbone: str, host: nn.Module, example: Tensor, classes: int) -> None:
    """Raise LhcnetError if the network cannot work at this size, or has other outputs than logits (B, classes)."""
    was_training = host.training
    try:
        with torch.no_grad():
            output = host.eval()(example)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        line = " ".join(str(error).split())[:200]
        raise LhcnetError(
            f"network.input_size: {backbone} cannot work with images of {example.shape[-1]} pixels: {line}"
        ) from None
    finally:
        host.train(was_training)
    if not isinstance(output, Tensor) or output.shape != (1, classes):
        given = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise LhcnetError(f"network.backbone: {backbone}: expected logits (1, {classes}) of an image, not {given}")


def layer_sizes(network: SlotNetwork) -> str:
    """Slots, their layers and the sizes of their maps, for people."""
    layers = network.layers if isinstance(network, HostNetwork) else SLOTS
    named = zip(network.slots, layers, network.slot_shapes, strict=True)
    return "\n".join(f"{slot.lower()}: after {layer}, {c} channels of {h}x{w}" for slot, layer, (c, h, w) in named)
