"""How a model directory is logged in MLflow: code, files, requirements, signature and an example of a request."""

from __future__ import annotations

import base64
import io
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lhcnet.config import BaselineSettings
from lhcnet.saved import CLASSES, Architecture, open_facts

OF_TIMM, OF_TORCHVISION = ("timm", "torchvision"), ("torchvision",)  # what such a network is built with
REQUIREMENTS = ("torch", "numpy", "pandas", "pydantic", "ruamel.yaml", "safetensors", "pillow", "scipy")


def pyfunc_arguments(model: Path) -> dict[str, Any]:
    """Arguments of `mlflow.pyfunc.log_model` and `save_model` for a model directory.

    The input column has the type Any. With any other type MLflow's server would cast the values of a request before
    the model sees them: with whole numbers, 0.97 would become 0.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    package = Path(__file__).parents[1]
    inputs: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), "image")]  # type: ignore[no-untyped-call]  # MLflow's
    outputs: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "label")]
    outputs += [ColSpec(DataType.float, name) for name in CLASSES]
    return {
        "python_model": str(package / "serving" / "pyfunc.py"),
        "artifacts": {"model": str(model)},
        "code_paths": [str(package)],
        "pip_requirements": [f"{name}=={version(name)}" for name in requirements(open_facts(model).info.architecture)],
        "signature": ModelSignature(
            inputs=Schema(inputs),
            outputs=Schema(outputs),
            params=ParamSchema([ParamSpec("tta", DataType.boolean, default=False)]),
        ),
        "input_example": (example(), {"tta": False}),
    }


def requirements(architecture: Architecture) -> tuple[str, ...]:
    """Packages that the network of a model is built and run with."""
    baseline = any(isinstance(row, BaselineSettings) for row in architecture.modules or ())
    if baseline or architecture.backbone.startswith("timm:"):
        return REQUIREMENTS + OF_TIMM
    return REQUIREMENTS if architecture.is_lhcnet else REQUIREMENTS + OF_TORCHVISION


def example() -> Any:
    """A request with one image, a grey ramp, as a data frame."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    file, ramp = io.BytesIO(), np.arange(48, dtype=np.uint8)
    Image.fromarray(np.add.outer(2 * ramp, 2 * ramp)).save(file, "PNG")
    return pd.DataFrame({"image": [base64.b64encode(file.getvalue()).decode()]})
