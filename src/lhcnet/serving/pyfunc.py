"""The registered model: MLflow's pyfunc, made of this code and a model directory (safetensors and JSON)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray


class FacialExpressions(PythonModel):
    """Images (N, 48, 48), whole grey values 0..255 -> a probability a class."""

    def load_context(self, context: PythonModelContext) -> None:
        from lhcnet.saved import open_model

        self.saved = open_model(Path(context.artifacts["model"]))
        self.network = self.saved.network()

    # MLflow warns of every type hint on model_input that is not a list: the signature says what it takes
    def predict(self, context, model_input, params=None) -> pd.DataFrame:  # type: ignore[no-untyped-def]
        from lhcnet.config import Compute
        from lhcnet.inference.predict import predict
        from lhcnet.inference.tta import plain_views
        from lhcnet.runtime import open_device

        pixels = _grey(model_input)
        probabilities = predict(
            self.network,
            pixels,
            plain_views(),
            input_size=self.saved.info.architecture.input_size,
            device=open_device(Compute(device="cpu")),
        )
        return pd.DataFrame(probabilities, columns=list(self.saved.info.classes))


def _grey(model_input: object) -> NDArray[np.uint8]:
    """(N, 48, 48) of whatever was sent."""
    from lhcnet.errors import LhcnetError

    try:
        pixels = np.asarray(model_input)
    except (ValueError, TypeError, OverflowError) as error:  # rows of different lengths
        raise LhcnetError(f"images: expected (N, 48, 48) whole grey values of 0..255: {error}") from None
    if (
        pixels.dtype.kind not in "uif"
        or pixels.shape[1:] not in ((48, 48), (2304,))
        or not len(pixels)
        or not ((pixels >= 0) & (pixels <= 255) & (pixels == np.floor(pixels))).all()
    ):
        raise LhcnetError(
            f"images: expected (N, 48, 48) whole grey values of 0..255, got {pixels.dtype} {pixels.shape}"
        )
    return pixels.reshape(-1, 48, 48).astype(np.uint8)


set_model(FacialExpressions())
