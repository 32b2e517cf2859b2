"""LHC in any CNN (Figure 1: "any existing convolutional architecture"): modules after named layers of a network."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lhcnet.geometry import partition_problem
from lhcnet.models.initialisation import named_generator
from lhcnet.models.residual import ModuleSettings, ResidualLHC, attention_module

MAX_HEADS = 8  # the largest number in Table 2
Host = TypeVar("Host", bound=nn.Module)


class GatedResidual(nn.Module):
    """Gated residual sum x + tanh(w) * branch(x) with a trainable number w, initially 0: the output is then x.

    The branch of LHC is LHC(x); that of a module that scales its input is the difference between output and input.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        attention = self.attention
        branch: Tensor = attention.branch(x) if isinstance(attention, ResidualLHC) else attention(x) - x
        return x + branch * self.w.tanh().to(branch.dtype)


class LayerWithAttention(nn.Module):
    """A layer of the host network followed by an attention module; it replaces the layer."""

    def __init__(self, layer: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.attention = attention.train(layer.training)
        self.training = layer.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = self.attention(self.layer(*args, **kwargs))
        return y


def insert_lhc(
    model: Host,
    at: str | Sequence[str] | Mapping[str, ModuleSettings],
    example: Tensor,
    *,
    gated: bool = True,
    seed: int | None = None,
    **settings: int | float | str | bool,
) -> Host:
    """Insert an LHC module after each named layer of a network, in place; the network's own weights stay as they are.

    Args:
        model: any network; also returned. In its state dict the keys of a layer `name` become `name.layer`, so load
            pretrained weights before.
        at: layer names as in `model.named_modules()`, or a mapping from names to settings of their own.
        example: a batch of inputs at the resolution the network will work with; channels, height and width of each
            layer's output are read from it. The outputs must be (B, C, H, W), channels first.
        gated: x + tanh(w) * LHC(x) with a trainable number w, initially 0: the network's outputs stay the same, to the
            bit, and the first training step changes w only. Otherwise x + LHC(x), as in the paper.
        seed: equal seeds give equal modules; each layer's module has a random generator of its own. None draws from
            torch's global generator.
        settings: settings of all modules: the keyword arguments of `lhcnet.LHC` without the sizes, and `norm`
            and `second_conv`. Default of `heads`: the largest number up to 8 that fits the map; of `d`: half the
            pixels of a head, as in Table 2. `attention` inserts a module of timm instead: `se`, `cbam`, `eca`.

    Raises:
        ValueError: no such layer, an output that is not (B, C, H, W), a layer that does not run exactly once, a setting
            that is unknown or out of range, or a layer that has attention already. The network stays as it was.
        LhcnetError: a baseline is asked for and timm is not installed.

    Example:
        >>> import torch, torchvision
        >>> from lhcnet import insert_lhc
        >>> model = torchvision.models.resnet18().eval()
        >>> images = torch.rand(1, 3, 64, 64)
        >>> logits = model(images)
        >>> model = insert_lhc(model, ["layer1", "layer2"], images)
        >>> torch.equal(model(images), logits)  # the gate is closed until it is trained
        True
    """
    names = [at] if isinstance(at, str) else list(at)
    rows = at if isinstance(at, Mapping) else {name: {} for name in names}
    layers = find_layers(model, names)
    outputs = layer_outputs(model, layers, example)
    inserted = []
    for name, output in outputs.items():
        row = _complete({**settings, **rows[name]}, output.height, output.width)
        shape = (output.channels, output.height, output.width)
        with torch.device("cpu"):  # the same weights for every device
            attention = attention_module(row, shape, name, bn_momentum=0.1, generator=named_generator(seed, name))
        attention = GatedResidual(attention) if gated else attention
        inserted.append(LayerWithAttention(layers[name], attention.to(device=output.device, dtype=output.dtype)))
    parents = [model.get_submodule(name.rpartition(".")[0]) for name in outputs]  # looked up before any is replaced
    for name, parent, replacement in zip(outputs, parents, inserted, strict=True):
        setattr(parent, name.rpartition(".")[2], replacement)
    return model


@dataclass(frozen=True)
class LayerOutput:
    """Output of a layer for the example."""

    channels: int
    height: int
    width: int
    device: torch.device
    dtype: torch.dtype


def find_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Look up the named layers; raises ValueError where no module can be inserted."""
    if not names:
        raise ValueError("name at least one layer to insert a module after")
    known = dict(model.named_modules(remove_duplicate=False))
    taken = set()
    for module in model.modules():
        if isinstance(module, LayerWithAttention):
            taken |= {module, module.layer, *module.attention.modules()}
    layers = {}
    for name in names:
        if not name or name not in known:
            close = difflib.get_close_matches(name, known, n=3) or [other for other, _ in model.named_children()]
            raise ValueError(f"the network has no layer {name!r}; did you mean one of {', '.join(close)}?")
        layer = known[name]
        if layer in taken:
            raise ValueError(f"{name}: this layer has attention already")
        aliases = [other for other, module in known.items() if module is layer and other != name]
        if aliases:
            raise ValueError(f"{name}: the network has this layer under other names too: {', '.join(aliases)}")
        layers[name] = layer
    return layers


def observe(model: nn.Module, example: Tensor, hooks: Sequence[RemovableHandle]) -> None:
    """Run a network once for its hooks, and remove them; flags, statistics and random generators stay unchanged."""
    training = {module: module.training for module in model.modules()}
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            model.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, flag in training.items():
            module.training = flag


def layer_outputs(model: nn.Module, layers: Mapping[str, nn.Module], example: Tensor) -> dict[str, LayerOutput]:
    """Outputs of the layers for the example; flags, BatchNorm statistics and random generators stay unchanged."""
    seen: dict[str, list[object]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_hook(lambda _layer, _args, output, name=name: seen[name].append(_describe(output)))
        for name, layer in layers.items()
    ]
    observe(model, example, hooks)
    outputs = {}
    for name, runs in seen.items():
        if len(runs) != 1:
            raise ValueError(f"{name}: this layer ran {len(runs)} times in one pass; expected a layer that runs once")
        if not isinstance(runs[0], LayerOutput):
            raise ValueError(f"{name}: expected a layer whose output is a tensor (B, C, H, W), not {runs[0]}")
        outputs[name] = runs[0]
    return outputs


def _describe(output: object) -> object:
    """Shape of a feature map, or in words what the output is instead."""
    if not isinstance(output, Tensor):
        return f"a {type(output).__name__}"
    if output.dim() != 4 or not output.is_floating_point():
        return f"{tuple(output.shape)} of {output.dtype}"
    _, C, H, W = output.shape
    return LayerOutput(C, H, W, output.device, output.dtype)


def _complete(row: dict[str, Any], height: int, width: int) -> ModuleSettings:
    """Add default heads and d, unless the row names a baseline."""
    if row.get("attention", "lhc") != "lhc":
        return row
    row = {key: value for key, value in row.items() if key != "attention"}
    split = row.get("split", "horizontal")
    heads = row.setdefault(
        "heads", max(n for n in range(1, MAX_HEADS + 1) if not partition_problem(split, n, height, width))
    )
    valid = isinstance(heads, int) and heads > 0  # otherwise LHC raises an error about heads
    row.setdefault("d", math.ceil(height * width / heads / 2) if valid else 1)
    return row
