"""The last layer of each resolution of a network: where its attention modules belong by default.

In the paper the modules follow the stem and the last unit of each stage (Figure 1). Here the same points of any
convolutional network are found by running it once.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from lhcnet.models.insertion import observe

MOST = 5  # as in LHC-Net


def last_layers(network: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Names of the last layer of each resolution, in the order of the network; of more than five the last five.

    Only layers on the main path count, which are the children of the network, and theirs where they are sequences:
    after a layer inside a residual block the shortcut would be missing. At a resolution that has blocks (layers with
    convolutions inside) the last block is taken, so that neither an expansion before the pool nor a norm is. Maps of
    one pixel are left out.

    Args:
        network: maps images to logits.
        example: a batch of square images (B, 3, S, S).

    Returns:
        Names as in `named_modules()`; empty if no layer on the main path has square maps.
    """
    path = dict(_main_path(network, ""))
    seen: list[tuple[str, int]] = []  # (layer, side of its maps), in the order in which they end
    hooks = [
        layer.register_forward_hook(lambda _layer, _args, output, name=name: seen.append((name, _side(output))))
        for name, layer in path.items()
    ]
    observe(network, example, hooks)
    runs = [name for name, _ in seen]
    sides = dict(seen)
    found: dict[int, list[str]] = {}
    for name, side in seen:
        if found and side > min(found):
            break  # an adaptive pool before the classifier enlarges the last maps
        inside = {sides[other] for other in path if other.startswith(f"{name}.") and other in sides}
        if side > 1 and runs.count(name) == 1 and len(inside | {side}) == 1:
            found.setdefault(side, []).append(name)
    last = [([name for name in names if _is_block(path[name])] or names)[-1] for names in found.values()]
    return tuple(last[-MOST:])


def _main_path(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Children of the module, and of those that are sequences, with their names."""
    for name, child in module.named_children():
        yield f"{prefix}{name}", child
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _main_path(child, f"{prefix}{name}.")


def _is_block(layer: nn.Module) -> bool:
    """Whether a layer is more than a convolution with its norm and activation."""
    if isinstance(layer, nn.Sequential):
        return any(map(_is_block, layer))
    return not isinstance(layer, nn.Conv2d) and any(isinstance(part, nn.Conv2d) for part in layer.modules())


def _side(output: object) -> int:
    """Side of square feature maps (B, C, S, S); 0 for any other output."""
    if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[2] != output.shape[3]:
        return 0
    return int(output.shape[3])
