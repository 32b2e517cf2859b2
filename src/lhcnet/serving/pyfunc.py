"""The registered model as MLflow serves it: a pyfunc made of this code and a model directory."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from lhcnet.config import Compute
from lhcnet.errors import LhcnetError
from lhcnet.prediction.model import calibrated
from lhcnet.prediction.network import NetworkModel
from lhcnet.runtime import open_device
from lhcnet.saved import open_model
from lhcnet.serving.images import read_images


class ServingError(LhcnetError, MlflowException):
    """A request that cannot be answered; MLflow's server sends the sentence alone, without data and stack trace.

    Args:
        sentence: what is wrong.
        error_code: MLflow's code, which decides the HTTP status.
    """

    def __init__(self, sentence: str, error_code: str) -> None:
        super().__init__(sentence)
        self.sentence, self.error_code = str(self), error_code

    def serialize_as_json(self) -> str:
        """The body of the server's answer: MLflow puts the whole request into `message`, which is not sent."""
        return json.dumps({"error_code": self.error_code, "message": self.sentence})


class FacialExpressions(PythonModel):
    """A trained network behind MLflow's pyfunc interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the model directory, which is the artifact "model"."""
        self.saved = open_model(Path(context.artifacts["model"]))
        self.model = NetworkModel.of(self.saved, open_device(Compute(device="cpu")))
        self.one_at_a_time = threading.Lock()  # the server has a thread a request: it bounds the memory

    # MLflow warns of every type hint on model_input that is not a list: the signature says what it takes
    def predict(self, context, model_input, params=None) -> pd.DataFrame:  # type: ignore[no-untyped-def]
        """Predict expressions.

        Args:
            context: not used.
            model_input: data frame with the column `image`; `lhcnet.serving.images.read_images` says what it may hold.
                Without MLflow's signature: an iterable of such values.
            params: `tta`: whether the probabilities are the mean over the views of test-time augmentation; default:
                False.

        Returns:
            a row an image: `label`, the most probable class, and the probability of each class, scaled with the
            temperature that is stored with the model, if any.

        Raises:
            ServingError: an image cannot be read, or the model's outputs are not finite.
        """
        try:
            pixels = read_images(_values(model_input))
        except LhcnetError as error:
            raise ServingError(str(error), "BAD_REQUEST") from None
        classes = list(self.model.classes)
        try:
            with self.one_at_a_time:
                probabilities, _ = calibrated(self.model, pixels, tta=bool((params or {}).get("tta")))
        except LhcnetError as error:
            raise ServingError(str(error), "INTERNAL_ERROR") from None
        answers = pd.DataFrame(probabilities.astype(np.float32), columns=classes)
        answers.insert(0, "label", [classes[best] for best in probabilities.argmax(1)])
        return answers


def _values(model_input: Any) -> list[object]:
    """The images of a request, one an element."""
    if not isinstance(model_input, pd.DataFrame):
        try:
            return list(model_input)
        except TypeError:
            return [model_input]
    if list(model_input.columns) != ["image"]:
        raise LhcnetError(f"columns {', '.join(map(str, model_input.columns))}: expected the column image")
    values = list(model_input["image"])
    if len(values) == 1 and isinstance(values[0], list) and all(isinstance(value, str) for value in values[0]):
        return values[0]  # MLflow makes one row of {"inputs": [TEXT, TEXT]}
    return values


set_model(FacialExpressions())
