"""Where a model comes from: a model directory, a registered model, a run of MLflow."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from lhcnet.prediction.predictor import FaceFinder, Predictor
    from lhcnet.saved import SavedModel

EXPECTED = (
    "expected a model directory, models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/PATH, or an exported .onnx file"
)


def load(
    model: str | Path,
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    batch_size: int = 32,
    finder: FaceFinder | None = None,
    mean_grey: float | None = None,
) -> Predictor:
    """Load a trained model for predictions.

    No code and no pickles of the model are run: it is its weights and its record, with digests.

    Args:
        model: a model directory (`artifacts/chosen`); `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/ID/PATH`
            of the MLflow that MLFLOW_TRACKING_URI names; or an exported file, `.onnx`.
        device: where to compute.
        batch_size: number of images that the network sees at once.
        finder: finds the faces of a picture: `lhcnet.prediction.faces.FaceDetector()`. None: each picture is one face.
        mean_grey: scale crops to this mean grey value; FER2013's is 129.

    Raises:
        LhcnetError: there is no such model, it cannot be read, or there is no GPU.

    Example:
        >>> import lhcnet
        >>> predictor = lhcnet.load("models:/lhcnet@champion")  # doctest: +SKIP
        >>> predictor.predict("face.png")[0].label  # doctest: +SKIP
        'happiness'
        >>> lhcnet.load("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lhcnet.errors.LhcnetError: nowhere: does not exist; expected a model directory, models:/NAME@ALIAS, ...
    """
    from lhcnet.prediction.predictor import Predictor

    if device not in ("cpu", "cuda"):
        raise LhcnetError(f"device: expected cpu or cuda, not {device}")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise LhcnetError(f"batch_size: expected a whole number of 1 or more, not {batch_size}")
    if str(model).lower().endswith(".onnx"):
        if device == "cuda":
            raise LhcnetError(
                f"{model}: ONNX Runtime computes on the CPU here; expected device cpu, or a model directory"
            )
        from lhcnet.export.onnx_model import open_onnx

        return Predictor(open_onnx(Path(model), batch_size=batch_size), finder, mean_grey=mean_grey)
    import torch

    from lhcnet.prediction.network import NetworkModel
    from lhcnet.runtime import Device

    if device == "cuda" and not torch.cuda.is_available():
        raise LhcnetError("device: cuda was asked for, but torch finds no CUDA GPU; expected a GPU, or cpu")
    with opened(str(model)) as saved:
        network = NetworkModel.of(saved, Device(torch.device(device), "float32"), batch_size)
    return Predictor(network, finder, mean_grey=mean_grey)


def opened(model: str) -> AbstractContextManager[SavedModel]:
    """The model directory that a name leads to; a copy from MLflow is removed at the end of the context."""
    from lhcnet.saved import MARKER, open_model

    if model.startswith(("models:", "runs:")):
        from lhcnet.tracking.download import downloaded

        return downloaded(model)
    folder = Path(model)
    if not model or not folder.is_dir():
        problem = "is a file" if folder.is_file() else "does not exist" if model else "is empty"
        raise LhcnetError(f"{model or 'model'}: {problem}; {EXPECTED}")
    served = folder / "artifacts" / "model"  # a folder that MLflow downloaded
    return nullcontext(open_model(served if (served / MARKER).is_file() else folder))
