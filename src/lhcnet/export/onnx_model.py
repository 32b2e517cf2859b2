"""An exported ONNX file, run by ONNX Runtime. PyTorch is not needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lhcnet.cgroup import cpu_limit
from lhcnet.data.fer2013 import Bytes
from lhcnet.errors import LhcnetError
from lhcnet.export.extra import RUNNING, require
from lhcnet.export.record import INPUT, LOGITS, PROBABILITIES, ExportRecord
from lhcnet.model_record import Answered

_LARGEST = (2 << 30) - 1  # bytes of an ONNX file


@dataclass(frozen=True)
class OnnxModel:
    """An open file.

    Attributes:
        session: of ONNX Runtime.
        record: the metadata of the file.
        batch_size: number of images that are computed at once; with views a number of views.
    """

    session: Any
    record: ExportRecord
    batch_size: int = 32

    @property
    def name(self) -> str:
        """Id of the model that was exported, for messages."""
        return self.record.model

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""
        return self.record.classes

    @property
    def tta_choices(self) -> tuple[bool, ...]:
        """One: a file was exported either with views or without."""
        return (self.record.views > 1,)

    def probabilities(self, images: Bytes, *, tta: bool = False) -> NDArray[np.float32]:
        """Class probabilities as `evaluate` computes them, before any temperature.

        Args:
            images: (N, 48, 48), N >= 1.
            tta: the mean over views; the file must have been exported for it, and for nothing else.

        Returns:
            (N, classes), each row sums to 1.

        Raises:
            LhcnetError: the outputs are not finite, or the file was exported for the other value of `tta`.
        """
        if tta not in self.tta_choices:
            now, other = ("with", "without") if self.record.views > 1 else ("without", "with")
            raise LhcnetError(
                f"{self.name}: was exported {now} views of test-time augmentation: export it again {other} --tta"
            )
        logits = self._run(LOGITS, images).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        return found

    def observed(self, images: Bytes, *, tta: bool = False) -> tuple[NDArray[np.float32], NDArray[np.bool]]:
        """`probabilities`, and no image is far from the training images: the file does not store which are."""
        return self.probabilities(images, tta=tta), np.zeros(len(images), np.bool)

    def calibrated(self, images: Bytes) -> NDArray[np.float32]:
        """The output `probabilities`, (N, classes): with the temperature that is stored in the file, if any."""
        return self._run(PROBABILITIES, images)

    def embeddings(self, images: Bytes) -> NDArray[np.float32]:
        """Raises `LhcnetError`: exported files give no features."""
        raise LhcnetError(f"{self.name}: exported files give no features, expected a model directory")

    def temperature(self, *, tta: bool = False) -> float | None:
        """Temperature that was fitted on validation for what the file computes, or None if none is stored."""
        return self.record.temperature if tta in self.tta_choices else None

    def thresholds(self, *, tta: bool = False) -> tuple[Answered, ...]:
        """What thresholds of the confidence did on validation; none are known for 8 bits."""
        return self.record.thresholds if tta in self.tta_choices and self.record.precision == "float32" else ()

    def _run(self, output: str, images: Bytes) -> NDArray[np.float32]:
        step = max(1, self.batch_size // self.record.views)
        parts = [
            self.session.run([output], {INPUT: np.ascontiguousarray(images[start : start + step])})[0]
            for start in range(0, len(images), step)
        ]
        found: NDArray[np.float32] = np.concatenate(parts)
        if broken := int((~np.isfinite(found)).any(axis=1).sum()):
            raise LhcnetError(f"{self.name}: the outputs are not finite for {broken} of {len(found)} images")
        return found


def open_onnx(path: Path, *, threads: int = 0, batch_size: int = 32) -> OnnxModel:
    """Open a file that `lhcnet export` wrote.

    Args:
        path: the file.
        threads: number of CPU threads; 0 takes all cores, or as many as the CPU limit of the container allows.
        batch_size: as in `OnnxModel`.

    Raises:
        LhcnetError: ONNX Runtime is not installed, or the file is missing, damaged or of another program.
    """
    require(*RUNNING)
    try:
        if (size := path.stat().st_size) > _LARGEST:
            raise LhcnetError(f"{path}: has {size:,} bytes, expected an ONNX file of 2 GiB at most")
        content = path.read_bytes()
    except OSError as error:
        raise LhcnetError(f"{path}: expected a file that `lhcnet export` wrote: {error.strerror}") from None
    return open_bytes(content, str(path), threads=threads, batch_size=batch_size)


def open_bytes(content: bytes, where: str, *, threads: int = 0, batch_size: int = 32) -> OnnxModel:
    """`open_onnx` for the content of a file; `where` names it in messages."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cpu_limit() or os.cpu_count() or 1
    options.log_severity_level = 3  # errors; its warnings are about optimisations that it does not apply
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes derive from Exception alone
        line = " ".join(str(error).split())[:200]
        raise LhcnetError(f"{where}: expected an ONNX file that `lhcnet export` wrote: {line}") from None
    record = ExportRecord.of_metadata(session.get_modelmeta().custom_metadata_map, where)
    return OnnxModel(session, record, batch_size)
