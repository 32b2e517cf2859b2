"""ONNX files: written by PyTorch's exporter, without the paths and stack traces that it records."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lhcnet.errors import LhcnetError
from lhcnet.export.graph import ExportedNetwork, example
from lhcnet.export.record import INPUT, LOGITS, PROBABILITIES, ExportRecord

if TYPE_CHECKING:
    from onnx import ModelProto

SCOPES = "pkg.torch.onnx.name_scopes"  # metadata of a node: the modules that it belongs to, from the outside in


def to_onnx(network: ExportedNetwork) -> ModelProto:
    """The network as an ONNX model with any number of images, as PyTorch's exporter gives it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own internals
        program = torch.onnx.export(
            network,
            example(),
            input_names=[INPUT],
            output_names=[LOGITS, PROBABILITIES],
            dynamic_shapes={INPUT: {0: "N"}},
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    proto: ModelProto = program.model_proto
    return proto


def with_record(proto: ModelProto, record: ExportRecord) -> ModelProto:
    """A copy without what the exporter noted about its run, and with the record as metadata."""
    clean: Any = type(proto)()
    clean.CopyFrom(proto)
    graph = clean.graph
    parts: Iterable[Any] = (clean, graph, *graph.node, *graph.input, *graph.output, *graph.value_info)
    for part in (*parts, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for key, value in record.to_metadata().items():
        clean.metadata_props.add(key=key, value=value)
    found: ModelProto = clean
    return found


def write(proto: ModelProto, file: Path) -> None:
    """Write a model as one file. Raises `LhcnetError` if it is larger than ONNX allows without further files."""
    try:
        content = proto.SerializeToString(deterministic=True)
    except ValueError as error:
        raise LhcnetError(f"{file}: the network is too large for one ONNX file, expected 2 GiB at most") from error
    file.write_bytes(content)
