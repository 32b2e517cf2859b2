"""The model card: data, scores by class with intervals, limits, use."""

from __future__ import annotations

import numpy as np
import pytest
from support.hostile.models import model_files

from lhcnet.config import Stage
from lhcnet.data.audit import DataReport, audit
from lhcnet.data.drawn_faces import draw
from lhcnet.data.fer2013 import CLASSES, OFFICIAL_COUNTS, SPLITS
from lhcnet.model_record import ModelInfo, StartWeights
from lhcnet.protocol.results import ModelScores
from lhcnet.protocol.score import score
from lhcnet.protocol.statistics import wilson
from lhcnet.report.model_card import model_card

LABELS = np.repeat(np.arange(7, dtype=np.uint8), 10)
LABELS[LABELS == 1] = 0  # no image of disgust


def probabilities(right: int) -> np.ndarray:
    """Of a model that is right in the first `right` images of each ten."""
    predicted = np.where(np.arange(70) % 10 < right, LABELS, (LABELS + 1) % 7)
    return np.eye(7, dtype=np.float32)[predicted]


@pytest.fixture(scope="module")
def drawn() -> DataReport:
    return audit(draw(100, seed=0))


def card(
    data: DataReport,
    training: Stage | None = None,
    temperature: float | None = None,
    start: StartWeights | None = None,
    depths: tuple[int, int, int, int] = (1, 1, 1, 1),
) -> str:
    info = ModelInfo.model_validate_json(model_files("modules")["model.json"])
    info = info.model_copy(update={"architecture": info.architecture.model_copy(update={"depths": depths})})
    settings = {"training": training, "start_weights": start}
    info = info.model_copy(update={"provenance": info.provenance.model_copy(update=settings)})
    id_ = info.provenance.id
    found = {"labels/test": LABELS, f"{id_}/test": probabilities(7)}
    scores = ModelScores(
        id=id_,
        weights="a" * 64,
        validation=score(probabilities(8), LABELS, split="validation", views=1),
        test=score(probabilities(7), LABELS, split="test", views=1),
        test_distinct=score(probabilities(7)[:35], LABELS[:35], split="test", views=1),
        temperature=temperature,
    )
    return model_card("faces", info, scores, data, found)


def test_scores_with_intervals(drawn: DataReport) -> None:
    text = card(drawn)
    low, high = wilson(56, 70)
    assert f"| validation | 70 | 0.8000 | {low:.4f} - {high:.4f} |" in text
    assert "| test without duplicates in train | 35 |" in text
    assert "TTA |" not in text
    low, high = wilson(14, 20)
    assert f"| anger | 20 | 0.700 | {low:.3f} - {high:.3f} |" in text
    assert "| disgust | 0 | - | - |" in text


def test_only_the_network_of_the_paper_is_called_lhc_net(drawn: DataReport) -> None:
    assert card(drawn).startswith("# faces: ResNet10v2 with LHC modules for facial expressions")
    assert card(drawn, depths=(3, 4, 6, 3)).startswith("# faces: LHC-Net for facial expressions")


def test_confidence_is_one_line_where_a_temperature_is_known(drawn: DataReport) -> None:
    assert "temperature" not in card(drawn)
    assert "Confidence: temperature 4.000, fitted on validation" in card(drawn, temperature=4.0)
    assert "(15 equally wide bins): 0.3000 before, 0.3000 after scaling.\n\nShare" in card(drawn, temperature=4.0)


def test_the_recipe_is_named(drawn: DataReport) -> None:
    text = card(drawn, Stage())
    assert "sgd, learning rate 0.01, batches of 64, at most 300 epochs, early stopping after 3 without gain" in text
    stage = Stage(epochs=9, patience=None, momentum=0.9, schedule="one_cycle", warmup=0.25, sizes=((4, 64), (5, 96)))
    text = card(drawn, stage)
    assert (
        "batches of 64, 9 epochs, the best on validation is kept, momentum 0.9, schedule one_cycle, warmup 0.25, "
        "sizes 4 x 64 px, 5 x 96 px. The backbone" in text
    )


def test_start_weights_are_named_with_their_licence(drawn: DataReport) -> None:
    assert "trained in stages 1-3. Models" in card(drawn)
    start = StartWeights(sha256="a" * 64, source="shipped", license="Apache-2.0")
    assert "in stages 1-3, from shipped (SHA-256 aaaaaaaaaaaa, licence: Apache-2.0)." in card(drawn, start=start)


def test_drawn_faces_are_named(drawn: DataReport) -> None:
    text = card(drawn)
    assert "100 images that are not FER2013, such as the drawn faces of `lhcnet faces`: a demonstration" in text
    assert "Of drawn faces, `lhcnet faces` makes 5 % of the labels wrong on purpose" in text
    assert "web search" not in text
    assert f"{drawn.train_duplicates['test']} test images occur in train too" in text


def test_fer2013_is_named(drawn: DataReport) -> None:
    rows = OFFICIAL_COUNTS.tolist()
    counts = {split: dict(zip(CLASSES, row, strict=True)) for split, row in zip(SPLITS, rows, strict=True)}
    images = int(OFFICIAL_COUNTS.sum())
    official = DataReport.model_validate(drawn.to_dict() | {"counts": counts, "images": images})
    text = card(official, temperature=1.5)
    assert f"FER2013, {images} images with its own splits" in text
    assert "People agree with FER2013's labels in about 65 %" in text
    assert "Bias: FER2013 was collected by web search" in text
    assert len(text) < 5000
    for chapter in ("## Data", "## Protocol", "## Scores", "## Limits", "## Intended use", "## Citation"):
        assert chapter in text
    assert "Not intended: any decision about a person" in text
    assert "https://doi.org/10.3390/info13090419" in text
