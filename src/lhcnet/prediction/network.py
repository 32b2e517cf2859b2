"""A trained network in PyTorch as the model of a predictor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lhcnet.data.fer2013 import Bytes
from lhcnet.errors import LhcnetError
from lhcnet.inference.predict import batches, predict
from lhcnet.inference.tta import View, fitted_views, plain_views, tta_views
from lhcnet.models.host import HostNetwork, classifier_names
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.models.slots import SlotNetwork
from lhcnet.runtime import Device
from lhcnet.saved import SavedModel

CPU = Device(torch.device("cpu"), "float32")
PAPER_VIEWS = tuple(tta_views())


@dataclass(frozen=True)
class NetworkModel:
    """A network in PyTorch.

    Attributes:
        network: maps images (B, 3, S, S) with values 0..255 to logits; it is on the device.
        name, classes: as in `lhcnet.prediction.model.ProbabilityModel`.
        device: where it computes, and in which precision.
        batch_size: number of images that the network sees at once.
        views: of test-time augmentation.
        temperatures: of plain predictions and of those with TTA; None where none was fitted.
    """

    network: SlotNetwork
    name: str
    classes: tuple[str, ...]
    device: Device = CPU
    batch_size: int = 32
    views: tuple[View, ...] = PAPER_VIEWS
    temperatures: tuple[float | None, float | None] = (None, None)

    @classmethod
    def of(cls, saved: SavedModel, device: Device, batch_size: int = 32) -> NetworkModel:
        """The network of a model directory.

        Raises:
            LhcnetError: its training ended early or diverged, or its weights cannot be read.
        """
        saved.require_trained()
        network = saved.network()
        device.move(network)
        views = fitted_views(saved.info.fitted)
        temperatures = saved.temperature, saved.temperature_tta
        return cls(network, saved.id, saved.info.classes, device, batch_size, tuple(views), temperatures)

    def probabilities(self, images: Bytes, *, tta: bool = False) -> NDArray[np.float32]:
        try:
            return predict(
                self.network,
                images,
                self.views if tta else plain_views(),
                input_size=self.network.input_size,
                device=self.device,
                batch_size=self.batch_size,
            )
        except FloatingPointError as error:
            raise LhcnetError(f"{self.name}: {error}") from None

    @torch.inference_mode()
    def embeddings(self, images: Bytes) -> NDArray[np.float32]:
        """Input of the first layer after the pool, (N, D): of the dense head, or of the classifier of another host."""
        self.network.eval()
        with _inputs_of_head(self.network) as found:
            for _, pixels in batches(images, self.network.input_size, False, self.device, self.batch_size):
                with self.device.autocast():
                    self.network(pixels.expand(-1, 3, -1, -1))
        return torch.cat(found).numpy()

    @torch.inference_mode()
    def observed(self, images: Bytes, *, tta: bool = False) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """`probabilities` and `embeddings` in one pass: the first view is the image itself."""
        with _inputs_of_head(self.network, every=len(self.views) if tta else 1) as found:
            p = self.probabilities(images, tta=tta)
        return p, torch.cat(found).numpy()

    def temperature(self, *, tta: bool = False) -> float | None:
        return self.temperatures[tta]


@contextmanager
def _inputs_of_head(network: SlotNetwork, every: int = 1) -> Iterator[list[Tensor]]:
    """Collects the inputs (B, D) of the head, of each `every`-th pass from the first on."""
    found: list[Tensor] = []
    passes = count()

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if next(passes) % every == 0:
            found.append(inputs[0].flatten(1).float().cpu())

    hook = _head(network).register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        hook.remove()


def _head(network: SlotNetwork) -> nn.Module:
    """The first layer that sees pooled features."""
    if isinstance(network, HostNetwork):
        names = classifier_names(network.backbone, network.host)
        if len(names) != 1:
            raise LhcnetError(f"{network.backbone}: has {len(names)} classifiers, expected one for its features")
        return network.host.get_submodule(names[0])
    if not isinstance(network, ResNetV2):
        raise TypeError(f"expected a ResNetV2 or a HostNetwork, not {type(network).__name__}")
    return network.hidden[0] if len(network.hidden) else network.logits
