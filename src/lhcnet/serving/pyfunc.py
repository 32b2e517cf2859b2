"""The registered model: MLflow's pyfunc, made of this code and a model directory (safetensors and JSON)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class FacialExpressions(PythonModel):
    """Images (N, 48, 48), whole grey values 0..255 -> a probability a class."""

    def load_context(self, context: PythonModelContext) -> None:
        from lhcnet.models.saved import open_model

        self.saved = open_model(Path(context.artifacts["model"]))
        self.network = self.saved.network()

    # MLflow warns of every type hint on model_input that is not a list: the signature says what it takes
    def predict(self, context, model_input, params=None) -> pd.DataFrame:  # type: ignore[no-untyped-def]
        from lhcnet.config import Compute
        from lhcnet.device import open_device
        from lhcnet.evaluation.predict import predict
        from lhcnet.evaluation.tta import plain_views

        pixels = np.asarray(model_input)
        grey = (pixels >= 0) & (pixels <= 255) & (pixels == np.floor(pixels))
        if pixels.shape[1:] not in ((48, 48), (2304,)) or not len(pixels) or not grey.all():
            raise ValueError(f"expected (N, 48, 48) whole grey values of 0..255, got {pixels.dtype} {pixels.shape}")
        probabilities = predict(
            self.network,
            pixels.reshape(-1, 48, 48).astype(np.uint8),
            plain_views(),
            input_size=self.saved.info.architecture.input_size,
            device=open_device(Compute(device="cpu")),
        )
        return pd.DataFrame(probabilities, columns=list(self.saved.info.classes))


set_model(FacialExpressions())
