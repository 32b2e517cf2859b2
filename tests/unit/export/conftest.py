"""A tiny network with LHC modules, and its ONNX model, which takes seconds to make: once for all tests."""

from __future__ import annotations

from typing import Any

import pytest
from support.host import BACKBONE, LAYERS
from support.random_model import MODULE, write_model

from lhcnet.saved import SavedModel


@pytest.fixture(scope="session")
def lhc_net(tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    """A host whose hooks run two modules: even pool and kernel, a grid, a learnt partition, control weights."""
    modules = [
        MODULE | {"heads": 4, "kernel": 2, "pool": 2, "split": "grid", "norm": "both"},
        MODULE | {"heads": 2, "split": "learnt"},
    ]
    folder = tmp_path_factory.mktemp("lhc_net") / "model"
    return write_model(folder, {"backbone": BACKBONE, "layers": LAYERS[1:3], "modules": modules, "control": True})


@pytest.fixture(scope="session")
def proto(lhc_net: SavedModel) -> Any:
    """The ONNX model of `lhc_net`, as PyTorch's exporter gives it."""
    from lhcnet.export.graph import ExportedNetwork
    from lhcnet.export.onnx_file import to_onnx

    return to_onnx(ExportedNetwork(lhc_net.network()))
