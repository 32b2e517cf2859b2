"""A trained network in PyTorch as the model of a predictor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from lhcnet.model_record import Answered, Fitted
from lhcnet.models.host import HostNetwork, classifier_names
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.models.slots import SlotNetwork
from lhcnet.prediction.typical import TypicalFeatures
from lhcnet.runtime import Device
from lhcnet.saved import FEATURES, SavedModel

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
        fitted: temperatures and thresholds of plain predictions and of those with TTA; None where none were fitted.
        typical: what is typical of the training images, if that is stored.
    """

    network: SlotNetwork
    name: str
    classes: tuple[str, ...]
    device: Device = CPU
    batch_size: int = 32
    views: tuple[View, ...] = PAPER_VIEWS
    fitted: Fitted | None = None
    typical: TypicalFeatures | None = None

    @classmethod
    def of(cls, saved: SavedModel, device: Device, batch_size: int = 32) -> NetworkModel:
        """The network of a model directory.

        Raises:
            LhcnetError: its training ended early or diverged, or its files cannot be read.
        """
        saved.require_trained()
        network = saved.network()
        device.move(network)
        fitted = saved.info.fitted
        content = saved.features()
        typical = None if content is None else TypicalFeatures.of(content, saved.path / FEATURES)
        views = tuple(fitted_views(fitted))
        return cls(network, saved.id, saved.info.classes, device, batch_size, views, fitted, typical)

    @property
    def tta_choices(self) -> tuple[bool, ...]:
        return False, True

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
    def observed(self, images: Bytes, *, tta: bool = False) -> tuple[NDArray[np.float32], NDArray[np.bool]]:
        if self.typical is None:
            return self.probabilities(images, tta=tta), np.zeros(len(images), np.bool)
        every = len(self.views) if tta else 1  # the first view is the image itself
        with _inputs(_middle(self.network), _moments, every) as found:
            p = self.probabilities(images, tta=tta)
        return p, self.typical.far(torch.cat(found).numpy())

    def embeddings(self, images: Bytes) -> NDArray[np.float32]:
        """Input of the first layer after the pool, (N, D): of the dense head, or of the classifier of another host."""
        return self._pass(_head(self.network), lambda x: x.flatten(1).float().cpu(), images)

    def middle(self, images: Bytes) -> NDArray[np.float32]:
        """Mean and deviation of the C channels before the second-to-last slot, (N, 2C), for `TypicalFeatures`."""
        return self._pass(_middle(self.network), _moments, images)

    @torch.inference_mode()
    def _pass(self, layer: nn.Module, of: Callable[[Tensor], Tensor], images: Bytes) -> NDArray[np.float32]:
        """A function of the inputs of a layer, (N, D)."""
        self.network.eval()
        with _inputs(layer, of) as found:
            for _, pixels in batches(images, self.network.input_size, False, self.device, self.batch_size):
                with self.device.autocast():
                    self.network(pixels.expand(-1, 3, -1, -1))
        features = torch.cat(found)
        if not features.isfinite().all():
            raise LhcnetError(f"{self.name}: the features are not finite")
        return features.numpy()

    def temperature(self, *, tta: bool = False) -> float | None:
        if self.fitted is None:
            return None
        return self.fitted.temperature_tta if tta else self.fitted.temperature

    def thresholds(self, *, tta: bool = False) -> tuple[Answered, ...]:
        if self.fitted is None:
            return ()
        return self.fitted.thresholds_tta if tta else self.fitted.thresholds


@contextmanager
def _inputs(layer: nn.Module, of: Callable[[Tensor], Tensor], every: int = 1) -> Iterator[list[Tensor]]:
    """Collects a function of the inputs of a layer, of each `every`-th pass from the first on."""
    found: list[Tensor] = []
    passes = count()

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if next(passes) % every == 0:
            found.append(of(inputs[0]))

    hook = layer.register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        hook.remove()


def _middle(network: SlotNetwork) -> nn.Module:
    """The second-to-last slot, or the only one; its input are the maps (B, C, H, W) of a stage."""
    return network.attention[max(0, len(network.attention) - 2)]


def _moments(maps: Tensor) -> Tensor:
    """Mean and standard deviation of each channel of maps (B, C, H, W), (B, 2C)."""
    deviation, mean = torch.std_mean(maps.float(), (2, 3), correction=0)
    return torch.cat([mean, deviation], 1).cpu()


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
