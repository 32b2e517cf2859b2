"""LHC for any CNN (Figure 1: "any existing convolutional architecture"): modules behind named layers of a host.

model = torchvision.models.resnet18(weights="DEFAULT")
insert_lhc(model, ["layer1", "layer2"], torch.zeros(1, 3, 224, 224))
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lhcnet.geometry import partition_problem
from lhcnet.models.lhcnet import ModuleSettings, ResidualLHC, fresh_module, named_generator

MOST_HEADS = 8  # Table 2 has no more
Host = TypeVar("Host", bound=nn.Module)


class GatedResidual(nn.Module):
    """x + tanh(w) * change, the change that an attention module makes to x; w starts at 0, so nothing changes yet.

    LHC's change is LHC(x), that of a module that scales its input is the difference between output and input.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        attention = self.attention
        change: Tensor = attention.branch(x) if isinstance(attention, ResidualLHC) else attention(x) - x
        return x + change * self.w.tanh().to(change.dtype)


class LayerWithAttention(nn.Module):
    """A layer of the host and the attention module behind it, in the layer's place."""

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
    """Put an attention module behind each named layer of a network, in place; the network's weights are not touched.

    Args:
        model: any network; also returned. In its state the keys of a layer ``name`` become ``name.layer``, so load
            weights of the host before.
        at: names as in ``model.named_modules()``, or a mapping from names to settings of their own.
        example: a batch that the network takes, of the resolution it is to work with: channels, height and width of
            each layer are read off it. The layers' outputs must be (B, C, H, W), channels first.
        gated: x + tanh(w) * LHC(x) with a trained number w that starts at 0: the network's outputs stay as they are,
            to the bit, and the first step of training moves w alone. Otherwise x + LHC(x) at once, as in the paper.
        seed: equal seeds give equal modules, each layer's drawn from its own stream; None draws from torch's global
            generator.
        settings: for all layers, the keys of :class:`lhcnet.config.LHCSettings`. Without ``heads`` the largest number
            up to 8 that fits the map; without ``d`` half the pixels of a head, as in Table 2. Or ``attention``:
            ``se``, ``cbam`` or ``eca`` puts that module of timm there instead of ``lhc``.

    Raises:
        ValueError: no such layer, an output that is no (B, C, H, W), a layer that does not run exactly once, a setting
            that cannot be, attention there already. The network is then as it was.
        LhcnetError: another module than LHC is asked for and timm is not installed.
    """
    names = [at] if isinstance(at, str) else list(at)
    rows = at if isinstance(at, Mapping) else {name: {} for name in names}
    layers = _find(model, names)
    outputs = _run(model, layers, example)
    inserted = []
    for name, output in outputs.items():
        row = _complete({**settings, **rows[name]}, output.height, output.width)
        shape = (output.channels, output.height, output.width)
        attention = fresh_module(row, shape, name, bn_momentum=0.1, generator=named_generator(seed, name))
        attention = GatedResidual(attention) if gated else attention
        inserted.append(LayerWithAttention(layers[name], attention.to(device=output.device, dtype=output.dtype)))
    parents = [model.get_submodule(name.rpartition(".")[0]) for name in outputs]  # found before any is replaced
    for name, parent, after in zip(outputs, parents, inserted, strict=True):
        setattr(parent, name.rpartition(".")[2], after)
    return model


@dataclass(frozen=True)
class _Output:
    """What a layer gave for the example."""

    channels: int
    height: int
    width: int
    device: torch.device
    dtype: torch.dtype


def _find(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    if not names:
        raise ValueError("name at least one layer to put a module behind")
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
            raise ValueError(f"{name}: there is attention already")
        twins = [other for other, module in known.items() if module is layer and other != name]
        if twins:
            raise ValueError(f"{name}: the network holds this layer under other names too: {', '.join(twins)}")
        layers[name] = layer
    return layers


def _run(model: nn.Module, layers: Mapping[str, nn.Module], example: Tensor) -> dict[str, _Output]:
    """The layers' outputs for the example; training flags, BatchNorm's statistics and generators stay as they were."""
    seen: dict[str, list[object]] = {name: [] for name in layers}
    training = {module: module.training for module in model.modules()}
    hooks = [
        layer.register_forward_hook(lambda _layer, _args, output, name=name: seen[name].append(_describe(output)))
        for name, layer in layers.items()
    ]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            model.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, flag in training.items():
            module.training = flag
    outputs = {}
    for name, runs in seen.items():
        if len(runs) != 1:
            raise ValueError(f"{name}: this layer ran {len(runs)} times in one pass; a module needs one that runs once")
        if not isinstance(runs[0], _Output):
            raise ValueError(f"{name}: expected a layer whose output is a tensor (B, C, H, W), not {runs[0]}")
        outputs[name] = runs[0]
    return outputs


def _describe(output: object) -> object:
    if not isinstance(output, Tensor):
        return f"a {type(output).__name__}"
    if output.dim() != 4 or not output.is_floating_point():
        return f"{tuple(output.shape)} of {output.dtype}"
    _, C, H, W = output.shape
    return _Output(C, H, W, output.device, output.dtype)


def _complete(row: dict[str, Any], height: int, width: int) -> ModuleSettings:
    """Fill in heads and d, unless the row asks for another module than LHC."""
    if row.get("attention", "lhc") != "lhc":
        return row
    row = {key: value for key, value in row.items() if key != "attention"}
    split = row.get("split", "horizontal")
    heads = row.setdefault(
        "heads", max(n for n in range(1, MOST_HEADS + 1) if not partition_problem(split, n, height, width))
    )
    if isinstance(heads, int) and heads > 0:
        row.setdefault("d", math.ceil(height * width / heads / 2))
    return row
