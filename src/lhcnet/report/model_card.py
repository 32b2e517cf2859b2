"""The model card: what a registered model is, what it was scored on, what it must not be used for. Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from lhcnet.data.audit import DataReport
from lhcnet.model_record import CLASSES, Architecture, ModelInfo
from lhcnet.protocol.confidence import BINS, calibration_error, scaled
from lhcnet.protocol.results import ModelScores
from lhcnet.protocol.statistics import wilson
from lhcnet.report.protocol_chapter import official


def model_card(
    name: str, info: ModelInfo, scores: ModelScores, data: DataReport, predictions: Mapping[str, NDArray[Any]]
) -> str:
    """The card of a model.

    Args:
        name: of the registered model.
        info: of the model.
        scores: of the model.
        data: report of `prepare` on its data.
        predictions: the arrays of `predictions.npz`.

    Returns:
        Markdown, less than 5000 characters.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    is_fer2013 = official(data)
    labels, predicted = predictions["labels/test"], predictions[f"{info.provenance.id}/test"].argmax(1)
    rows = {
        "validation": scores.validation,
        "test": scores.test,
        "test without duplicates in train": scores.test_distinct,
    }
    rows |= {"test, TTA": scores.test_tta} if scores.test_tta else {}
    environment = Environment(
        loader=PackageLoader("lhcnet", "report"),
        autoescape=False,  # Markdown of our own values
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2").render(
        name=name,
        network=_network(info.architecture),
        classes=CLASSES,
        model={"id": info.provenance.id, "weights": str(info.weights)},
        data=data.to_dict(),
        data_name=data_name(data),
        protocol=_protocol(info),
        scores=[_row(images, round(s.accuracy * s.n), s.n) for images, s in rows.items()],
        confidence=_confidence(scores, labels, predictions[f"{info.provenance.id}/test"]),
        by_class=[
            _row(class_, int((predicted[labels == number] == number).sum()), int((labels == number).sum()))
            for number, class_ in enumerate(CLASSES)
        ],
        label_noise=(
            "People agree with FER2013's labels in about 65 % of the images (Goodfellow et al., 2013)."
            if is_fer2013
            else "Of drawn faces, `lhcnet faces` makes 5 % of the labels wrong on purpose."
        ),
        bias=(
            "Bias: FER2013 was collected by web search with emotion words. Age, sex and skin colour are not "
            "known and unbalanced, many faces are posed, disgust is rare; accuracy on other people may be lower."
            if is_fer2013
            else "Bias: nothing can be said about photographs of people: these images are not FER2013."
        ),
    )


def _confidence(scores: ModelScores, labels: NDArray[Any], p: NDArray[Any]) -> str:
    """Temperature and calibration error on test, without TTA; empty if there is no temperature."""
    if (temperature := scores.temperature) is None:
        return ""
    correct = p.argmax(1) == labels
    before, after = (calibration_error(q.max(1), correct) for q in (p.astype(float), scaled(p, temperature)))
    return (
        f"Confidence: temperature {temperature:.3f}, fitted on validation (p becomes p^(1/T), normalised, in the "
        f"answers of this model). Expected calibration error on test ({BINS} equally wide bins): {before:.4f} before, "
        f"{after:.4f} after scaling."
    )


def _network(architecture: Architecture) -> str:
    if architecture.plain_name == "ResNet34v2" and architecture.has_lhc:
        return "LHC-Net"
    return f"{architecture.full_name} with {'LHC' if architecture.has_lhc else 'attention'} modules"


def data_name(data: DataReport) -> str:
    """What the images are, in words: FER2013 is known by its counts."""
    if official(data):
        return f"FER2013, {data.images} images with its own splits"
    return f"{data.images} images that are not FER2013, such as the drawn faces of `lhcnet faces`: a demonstration"


def _protocol(info: ModelInfo) -> str:
    p = info.provenance
    training = p.training
    fitted = "not trained"
    if training:
        ends = f"at most {training.epochs} epochs, early stopping after {training.patience} without gain on validation"
        if training.patience is None:
            ends = f"{training.epochs} epochs, the best on validation is kept"
        parts = [
            f"{training.optimizer}, learning rate {training.learning_rate:g}, batches of {training.batch_size}",
            ends,
            *training.recipe(),
        ]
        fitted = ", ".join(parts)
    started = f", from {p.start_weights}" if p.start_weights else ""
    return (
        f"Stage {p.stage} of training, set {p.set}, variant {p.variant or 'none'}, seed {p.seed}: {fitted}. "
        f"The backbone was trained in stages 1-3{started}. Models with too high a training loss are rejected "
        "(10 % rule); of the others the best on validation is chosen. Test images were read once, after that choice."
    )


def _row(images: str, hits: int, n: int) -> dict[str, Any]:
    low, high = wilson(hits, n) if n else (0.0, 0.0)
    return {"images": images, "n": n, "accuracy": hits / n if n else 0.0, "low": low, "high": high}
