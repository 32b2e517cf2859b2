"""Export of a trained model to files that other programs run: ONNX, ONNX with 8 bits, torch.export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lhcnet.config import Compute
from lhcnet.data.drawn_faces import draw
from lhcnet.data.fer2013 import Bytes
from lhcnet.data.store import Store, open_store
from lhcnet.errors import LhcnetError
from lhcnet.export.extra import RUNNING, WRITING, require
from lhcnet.export.graph import ExportedNetwork, to_program, write_program
from lhcnet.export.record import AccuracyLoss, Calibration, ExportRecord, Parity
from lhcnet.inference.predict import predict
from lhcnet.inference.tta import View, fitted_views, plain_views
from lhcnet.io.atomic import atomic_file
from lhcnet.io.preflight import output_file
from lhcnet.models.slots import SlotNetwork
from lhcnet.protocol.confidence import scaled
from lhcnet.protocol.statistics import mcnemar, paired_interval
from lhcnet.runtime import Device, open_device
from lhcnet.saved import SavedModel, open_model

if TYPE_CHECKING:
    from onnx import ModelProto

Format = Literal["onnx", "int8", "torch-export"]
ENDINGS: dict[str, str] = {"onnx": ".onnx", "int8": ".onnx", "torch-export": ".pt2"}
TOLERANCE = 1e-4  # of a probability
_FACES = 42  # drawn for the comparison with PyTorch: two of each class and split


@dataclass(frozen=True)
class Quantisation:
    """How a model is quantised.

    Args:
        calibration: store with the split validation.
        test: store with the split test, on which the loss of accuracy is measured; None measures none.
        images: number of validation images that the ranges are measured on.
        weight_bits: 7 or 8, as in `lhcnet.export.int8.quantise`.
    """

    calibration: Path
    test: Path | None = None
    images: int = 512
    weight_bits: Literal[7, 8] = 7

    def stores(self) -> tuple[Store, Store | None]:
        """Both stores, opened; raises `LhcnetError` if one cannot be read, or lacks its split."""
        store, test = open_store(self.calibration), open_store(self.test) if self.test else None
        store.split("validation")
        if test:
            test.split("test")
        return store, test


def export_model(
    model: Path, out: Path, *, format: Format, tta: bool = False, quantisation: Quantisation | None = None
) -> ExportRecord:
    """Export a model directory.

    A float32 file is compared with PyTorch on drawn faces before it is written; int8 is not equal to PyTorch, so its
    accuracy is measured instead, if there is a test store.

    Args:
        model: model directory.
        out: file to write: .onnx, or .pt2 for torch-export.
        format: `onnx`, `int8` (ONNX with 8 bits) or `torch-export`.
        tta: the file gives the mean over the model's views (`fitted_views`), which it computes from each image.
        quantisation: for `int8`, and for nothing else.

    Returns:
        What the file says about itself.

    Raises:
        LhcnetError: a package of the extra is missing, the model or a store cannot be read, the output cannot be
            written or has another ending, or the file would differ from PyTorch.
    """
    if out.suffix != (ending := ENDINGS[format]):
        raise LhcnetError(f"{out}: expected a name that ends in {ending}")
    if (quantisation is not None) != (format == "int8"):
        raise LhcnetError("export: expected --calibration with --format int8, and with no other format")
    require(*(() if format == "torch-export" else WRITING + RUNNING))
    output_file(out, None)
    saved = open_model(model)
    saved.require_trained()
    views = fitted_views(saved.info.fitted) if tta else plain_views()
    if tta and len(views) == 1:
        raise LhcnetError(f"{model}: its views were chosen on validation: the image alone; export it without --tta")
    record = ExportRecord.of(saved, views=len(views))
    task = _Task(saved, saved.network(), views, record.temperature, open_device(Compute(device="cpu")))
    if format == "torch-export":
        return task.write_program(out, record)
    return task.write_onnx(out, record, quantisation)


@dataclass(frozen=True)
class _Task:
    """One export."""

    saved: SavedModel
    network: SlotNetwork
    views: Sequence[View]
    temperature: float | None
    device: Device

    @property
    def exported(self) -> ExportedNetwork:
        return ExportedNetwork(self.network, self.views, self.temperature)

    def write_program(self, out: Path, record: ExportRecord) -> ExportRecord:
        program = to_program(self.exported)
        run = program.module()
        with torch.inference_mode():
            record = self._compared(record, out, lambda images: run(torch.from_numpy(images.copy()))[1].numpy())
        with atomic_file(out) as file:
            write_program(program, record, file)
        return record

    def write_onnx(self, out: Path, record: ExportRecord, quantisation: Quantisation | None) -> ExportRecord:
        from lhcnet.export.onnx_file import to_onnx, with_record, write
        from lhcnet.export.onnx_model import open_bytes

        stores = quantisation.stores() if quantisation else None  # before the work
        proto = to_onnx(self.exported)
        runnable = open_bytes(with_record(proto, record).SerializeToString(), str(out))
        record = self._compared(record, out, runnable.calibrated)
        if quantisation and stores:
            proto, record = self._quantised(proto, record, quantisation, *stores)
        with atomic_file(out) as file:
            write(with_record(proto, record), file)
        return record

    def _compared(self, record: ExportRecord, out: Path, run: Callable[[Bytes], NDArray[np.float32]]) -> ExportRecord:
        """The record with the difference from PyTorch on drawn faces; raises LhcnetError if it is too large."""
        faces = draw(_FACES, seed=0).images[:: 2 if len(self.views) == 1 else 16]
        p = scaled(self._probabilities(faces), self.temperature or 1.0)
        found = np.concatenate([run(faces[:-1]), run(faces[-1:])])  # one image alone: some exporters take 1 for fixed
        largest = float(np.abs(found - p).max())
        if not largest <= TOLERANCE:
            raise LhcnetError(
                f"{out}: is not written, because its probabilities differ from PyTorch's by {largest:.2g}, expected "
                f"{TOLERANCE:g} at most"
            )
        return record.model_copy(update={"parity": Parity(largest_difference=largest, n=len(faces))})

    def _probabilities(self, images: Bytes) -> NDArray[np.float32]:
        """As `evaluate` computes them, without a temperature."""
        self.device.move(self.network)
        size = self.network.input_size
        try:
            return predict(self.network, images, self.views, input_size=size, device=self.device)
        except FloatingPointError as error:
            raise LhcnetError(f"{self.saved.path}: {error}") from None

    def _quantised(
        self, proto: ModelProto, record: ExportRecord, quantisation: Quantisation, store: Store, test: Store | None
    ) -> tuple[ModelProto, ExportRecord]:
        """The model with 8 bits, and the record with its calibration and its loss of accuracy."""
        from lhcnet.export.int8 import calibration_images, quantise
        from lhcnet.export.onnx_file import with_record
        from lhcnet.export.onnx_model import open_bytes

        images = calibration_images(store.split("validation")[0], quantisation.images)
        bits = quantisation.weight_bits
        proto = quantise(proto, images, weight_bits=bits, batch=max(1, 16 // len(self.views)))
        calibration = Calibration(n=len(images), data=store.digest, weight_bits=bits)
        record = record.model_copy(update={"precision": "int8", "calibration": calibration, "parity": None})
        if test:
            pixels, labels = test.split("test")
            int8 = open_bytes(with_record(proto, record).SerializeToString(), "int8")
            ours = int8.probabilities(pixels, tta=len(self.views) > 1).argmax(1) == labels
            theirs = self._probabilities(pixels).argmax(1) == labels
            record = record.model_copy(update={"accuracy_loss": _loss(ours, theirs, test.digest)})
        return proto, record


def _loss(int8: NDArray[np.bool], float32: NDArray[np.bool], data: str) -> AccuracyLoss:
    """Paired comparison of two models, from the images that each of them classifies correctly, (n,)."""
    paired = mcnemar(int8, float32)
    return AccuracyLoss(
        accuracy=paired.accuracy_a,
        accuracy_float32=paired.accuracy_b,
        difference=paired.difference,
        ci95=paired_interval(int8, float32),
        p=paired.p,
        n=paired.n,
        data=data,
    )
