"""Static quantisation of an ONNX model to 8 bits, with ONNX Runtime: QDQ format, a scale for each channel of a weight.

Convolutions, and what lies between them, are quantised; the preprocessing, the attention (its scores reach the
hundreds), BatchNorm that folds into no convolution, and the dense head stay float32.
"""

from __future__ import annotations

import ast
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lhcnet.data.fer2013 import Bytes
from lhcnet.errors import LhcnetError
from lhcnet.export.onnx_file import SCOPES
from lhcnet.export.record import INPUT

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

QUANTISED = ("Conv", "Relu", "Clip", "MaxPool", "Add")
NETWORK, ATTENTION = "network", "network.attention."  # names of modules in `ExportedNetwork`


def calibration_images(images: Bytes, n: int, seed: int = 0) -> Bytes:
    """A random sample of at most n images: a store is sorted by class."""
    return images[np.sort(np.random.default_rng(seed).permutation(len(images))[:n])]


def nodes_to_quantise(proto: ModelProto) -> list[str]:
    """Names of the nodes that are computed with 8 bits: see the head of this file."""
    return [node.name for node in proto.graph.node if node.op_type in QUANTISED and _may_be_quantised(node)]


def _may_be_quantised(node: NodeProto) -> bool:
    """Whether a node belongs to the network, and not to its attention unless it is a convolution."""
    noted = (entry.value for entry in node.metadata_props if entry.key == SCOPES)
    scopes: list[str] = ast.literal_eval(next(noted, "[]"))
    if NETWORK not in scopes:
        return False  # preprocessing, views
    return node.op_type == "Conv" or not any(scope.startswith(ATTENTION) for scope in scopes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that ONNX Runtime writes of every scale that it adapts."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)


def quantise(proto: ModelProto, images: Bytes, *, weight_bits: int = 7, batch: int = 16) -> ModelProto:
    """Quantise a float32 model.

    Args:
        proto: from `lhcnet.export.onnx_file.to_onnx`, with the scopes of its nodes.
        images: (N, 48, 48), to measure the ranges of the activations on.
        weight_bits: 7, which is right on every processor, or 8: more exact, but on x86 processors without VNNI the
            sums of two products overflow 16 bits.
        batch: number of images that are computed at once.

    Returns:
        The quantised model.

    Raises:
        LhcnetError: there are no images.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    if not len(images):
        raise LhcnetError("calibration: expected at least one image, got none")

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # its base has no types
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, Any]] = (
                {INPUT: np.ascontiguousarray(images[start : start + batch])} for start in range(0, len(images), batch)
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    nodes = nodes_to_quantise(proto)
    if not nodes:  # an empty list would mean all nodes
        raise LhcnetError("int8: the network has no convolutions, so there is nothing to quantise")
    prepared = type(proto)()
    prepared.CopyFrom(proto)
    add_pre_process_metadata(prepared)  # PyTorch's exporter has done what this step of ONNX Runtime does
    with tempfile.TemporaryDirectory(prefix="lhcnet-") as folder, _quiet():
        quantize_static(
            prepared,
            Path(folder, "int8.onnx"),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=weight_bits == 7,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_quantize=nodes,
        )
        quantised: ModelProto = onnx.load(Path(folder, "int8.onnx"))
    return quantised
