"""The registered model as MLflow serves it: a pyfunc made of this code and a model directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray


class FacialExpressions(PythonModel):
    """A trained network behind MLflow's pyfunc interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the model directory, which is the artifact "model"."""
        from lhcnet.saved import open_model

        self.saved = open_model(Path(context.artifacts["model"]))
        self.network = self.saved.network()

    # MLflow warns of every type hint on model_input that is not a list: the signature says what it takes
    def predict(self, context, model_input, params=None) -> pd.DataFrame:  # type: ignore[no-untyped-def]
        """Predict expressions.

        Args:
            context: not used.
            model_input: images (N, 48, 48) or (N, 2304), whole grey values 0..255 of any numeric type. There is no
                signature, so MLflow hands them over as they were sent.
            params: not used.

        Returns:
            probabilities (N, 7), with the classes as columns.

        Raises:
            LhcnetError: the images have other shapes or values, or the model's outputs are not finite.
        """
        from lhcnet.config import Compute
        from lhcnet.errors import LhcnetError
        from lhcnet.inference.predict import predict
        from lhcnet.inference.tta import plain_views
        from lhcnet.runtime import open_device

        pixels = _grey(model_input)
        size, device = self.saved.info.architecture.input_size, open_device(Compute(device="cpu"))
        try:
            probabilities = predict(self.network, pixels, plain_views(), input_size=size, device=device)
        except FloatingPointError as error:
            raise LhcnetError(f"{self.saved.id}: {error}") from None
        return pd.DataFrame(probabilities, columns=list(self.saved.info.classes))


def _grey(model_input: object) -> NDArray[np.uint8]:
    """The request's images as (N, 48, 48) uint8, checked."""
    from lhcnet.errors import LhcnetError

    try:
        pixels = np.asarray(model_input)
    except (ValueError, TypeError, OverflowError) as error:  # rows of different lengths
        raise LhcnetError(f"images: expected (N, 48, 48) whole grey values of 0..255: {error}") from None
    expected = "images: expected (N, 48, 48) whole grey values of 0..255"
    if pixels.dtype.kind not in "uif" or pixels.shape[1:] not in ((48, 48), (2304,)) or not len(pixels):
        raise LhcnetError(f"{expected}, got {pixels.dtype} {pixels.shape}")
    if not ((pixels >= 0) & (pixels <= 255) & (pixels == np.floor(pixels))).all():
        scaled = " (they look scaled: undo that, multiply by 255 and round)" if np.abs(pixels).max() <= 8 else ""
        low, high = float(pixels.min()), float(pixels.max())
        raise LhcnetError(f"{expected}, got {pixels.dtype} from {low:g} to {high:g}{scaled}")
    if pixels.dtype.kind == "f" and pixels.max() <= 1:
        raise LhcnetError(
            f"images: expected whole grey values of 0..255, got {pixels.dtype} with no value above 1: they look scaled "
            "to 0..1; multiply by 255 and round (black images: send whole numbers, 0 instead of 0.0)"
        )
    return pixels.reshape(-1, 48, 48).astype(np.uint8)


set_model(FacialExpressions())
