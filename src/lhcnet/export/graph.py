"""The network as it is exported: preprocessing, views, temperature and probabilities are part of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lhcnet.data.fer2013 import SIDE
from lhcnet.data.transforms import upscale
from lhcnet.export.record import INPUT, JSON_FILE, ExportRecord
from lhcnet.inference.tta import View, plain_views, render
from lhcnet.models.slots import SlotNetwork


class ExportedNetwork(nn.Module):
    """Stored images in, logits and probabilities out, in float32, as `lhcnet.inference.predict.predict` computes them.

    Args:
        network: the trained network, on the CPU.
        views: the views whose mean it gives; all views of an image are computed as one batch.
        temperature: fitted on validation; None for none.
    """

    weights: Tensor

    def __init__(
        self, network: SlotNetwork, views: Sequence[View] | None = None, temperature: float | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.views = tuple(views or plain_views())
        self.temperature = 1.0 if temperature is None else temperature
        weights = torch.tensor([view.weight for view in self.views])
        self.register_buffer("weights", (weights / weights.sum())[:, None])
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 48, 48) uint8 to logits and probabilities, each (N, classes).

        With several views the logits are the logarithm of the mean probabilities.
        """
        grey = upscale(images, self.network.input_size, truncate=False)  # (N, 1, S, S)
        if len(self.views) > 1:
            grey = torch.stack([render(grey, view) for view in self.views], dim=1).flatten(0, 1)  # (N*views, 1, S, S)
        logits: Tensor = self.network(grey.expand(-1, 3, -1, -1)).float()
        if len(self.views) > 1:
            p = logits.softmax(1).reshape(-1, len(self.views), logits.shape[1])  # (N, views, classes)
            logits = (p * self.weights).sum(1).clamp_min(torch.finfo(torch.float32).tiny).log()
        return logits, (logits / self.temperature).softmax(1)


def example() -> tuple[Tensor]:
    """Input to trace with: three images, so that the tracer does not take their number for a constant."""
    return (torch.arange(3 * SIDE * SIDE).remainder(251).to(torch.uint8).view(3, SIDE, SIDE),)


def to_program(network: ExportedNetwork) -> ExportedProgram:
    """The network as a program of torch.export, with any number of images as input."""
    return torch.export.export(network, example(), dynamic_shapes={INPUT: {0: torch.export.Dim("N")}})


def write_program(program: ExportedProgram, record: ExportRecord, file: Path) -> None:
    """Write a program as .pt2, which `torch.export.load` opens; the record is the extra file `lhcnet.json`."""
    with file.open("wb") as opened:  # a name would have to end in .pt2
        torch.export.save(program, opened, extra_files={JSON_FILE: record.model_dump_json()})
