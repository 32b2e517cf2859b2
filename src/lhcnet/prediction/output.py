"""What `lhcnet predict` says: a table, JSON lines or CSV, a row a face, as soon as it is known; and its threshold."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any, Literal

from lhcnet.prediction.predictor import Face
from lhcnet.prediction.stream import Predicted

if TYPE_CHECKING:
    from lhcnet.model_record import Answered

Format = Literal["table", "jsonl", "csv"]
_NAME, _LABEL = 40, 10  # characters of columns of the table; longer names push the rest of their row to the right


class Writer:
    """Writes predictions in one format.

    A row has `file`, `seconds` (time in a video), `face` (number in the picture), `label` (null if abstained),
    `confidence` (the highest probability), `calibrated`, `abstained`, `unlike`, the box in pixels of the upright
    picture, and the probability of each class. A picture without a face has one row whose `face` is null.

    Args:
        file: a text file.
        format: `table` for people, `jsonl` with an object a line, or `csv`.
        classes: names of the classes.
    """

    def __init__(self, file: IO[str], format: Format, classes: Sequence[str]) -> None:
        self._file, self._format, self._classes = file, format, classes
        self._csv = csv.writer(file, lineterminator="\n")
        if format == "table":
            self._line("file", "label", "probability", "")
        elif format == "csv":
            self._csv.writerow([*_flat(_row(None, 0, "", None)), *classes])

    def write(self, predicted: Predicted) -> None:
        """Write the faces of a picture."""
        name, seconds = predicted.input.name, predicted.input.seconds
        for number, face in enumerate(predicted.faces or (None,)):
            row = _row(face, number, name, seconds)
            if self._format == "jsonl":
                probabilities = None if face is None else face.probabilities
                self._file.write(json.dumps(row | {"probabilities": probabilities}, ensure_ascii=False) + "\n")
            elif self._format == "csv":
                shares = [""] * len(self._classes) if face is None else face.probabilities.values()
                self._csv.writerow([*_flat(row).values(), *shares])
            elif face is None:
                self._line(name, "-", "", "no face")
            else:
                more = f"x {face.box.left}-{face.box.right}, y {face.box.top}-{face.box.bottom}"
                notes = [more] if len(predicted.faces) > 1 or not _is_whole(face, predicted) else []
                notes += ["not calibrated"] if not face.calibrated else []
                notes += [f"perhaps {face.best}"] if face.abstained else []
                notes += [face.unlike] if face.unlike else []
                self._line(name, face.label or "unsure", f"{face.confidence:.3f}", "; ".join(notes))
        self._file.flush()

    def _line(self, name: str, label: str, probability: str, notes: str) -> None:
        self._file.write(f"{name:<{_NAME}} {label:<{_LABEL}} {probability:<11} {notes}".rstrip() + "\n")


def _is_whole(face: Face, predicted: Predicted) -> bool:
    box = face.box
    return (box.left, box.top, box.right, box.bottom) == (0, 0, predicted.picture.width, predicted.picture.height)


def _row(face: Face | None, number: int, name: str, seconds: float | None) -> dict[str, Any]:
    row: dict[str, Any] = {"file": name, "seconds": seconds}
    keys = ("face", "label", "confidence", "calibrated", "abstained", "unlike", "box")
    if face is None:
        return row | dict.fromkeys(keys)
    box = [face.box.left, face.box.top, face.box.right, face.box.bottom]
    values = (number, face.label, face.confidence, face.calibrated, face.abstained, face.unlike or None, box)
    return row | dict(zip(keys, values, strict=True))


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The row with a column for each side of the box."""
    values = {key: "" if value is None else value for key, value in row.items() if key != "box"}
    return values | dict(zip(("left", "top", "right", "bottom"), row["box"] or [""] * 4, strict=True))


def on_validation(found: Answered | None) -> str:
    """What a threshold did on validation, in one sentence."""
    if found is None:
        return "The model does not store what this threshold did on validation."
    from lhcnet.protocol.statistics import wilson

    with_what = f"with the threshold {found.threshold:g}, {found.answered:,} of {found.n:,} images got a label"
    if not found.answered:
        return f"On validation, {with_what}."
    low, high = wilson(found.right, found.answered)
    share, right = 100 * found.answered / found.n, 100 * found.right / found.answered
    return (
        f"On validation, {with_what} ({share:.1f} %), and {right:.1f} % of these were right "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f})."
    )
