"""`lhcnet predict`: formats, annotated pictures, abstention, exit status."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.grey_model import GreyModel
from support.hostile.images import encoded
from typer.testing import CliRunner

from lhcnet.cli import app
from lhcnet.data.drawn_faces import draw
from lhcnet.data.fer2013 import CLASSES
from lhcnet.errors import LhcnetError
from lhcnet.model_record import Answered
from lhcnet.prediction import loading
from lhcnet.prediction.predictor import Box, Predictor

FACES = draw(42, seed=0).images
Command = Callable[..., Any]


@pytest.fixture
def predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command in a folder with two pictures, with a model that needs no network."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for number in range(2):
        picture = Image.fromarray(FACES[number]).resize((48, 49))  # 48x48 would be a crop, whatever is found in it
        (tmp_path / "in" / f"{number}.png").write_bytes(encoded(picture))
    two = [Box(0, 0, 48, 48), Box(8, 8, 40, 40)]
    finders = {"crops": None, "two": lambda _: two, "none": lambda _: []}

    def load(model: str, **_: Any) -> Predictor:
        rows = (Answered(threshold=0.25, answered=900, right=720, n=1000),)
        return Predictor(GreyModel(2.0, rows) if model == "two" else GreyModel(), finders[model])

    monkeypatch.setattr(loading, "load", load)
    return lambda *words: CliRunner().invoke(app, ["predict", *words])


def test_a_table_is_the_default(predict: Command) -> None:
    done = predict("crops", "in")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].split() == ["file", "label", "probability"]
    assert [line.split()[0] for line in lines[1:]] == ["in/0.png", "in/1.png"]
    assert all(line.endswith("0.520       not calibrated") for line in lines[1:])


def test_json_lines_and_csv_say_the_same(predict: Command) -> None:
    rows = [json.loads(line) for line in predict("two", "in", "--format", "jsonl").output.splitlines()]
    assert [(row["file"], row["face"]) for row in rows] == [(f"in/{i}.png", face) for i in (0, 1) for face in (0, 1)]
    assert list(rows[0]["probabilities"]) == list(CLASSES)
    assert rows[1]["box"] == [8, 8, 40, 40]
    expected = {"calibrated": True, "abstained": False, "unlike": None, "seconds": None}
    assert {key: rows[0][key] for key in expected} == expected
    table = list(csv.DictReader(io.StringIO(predict("two", "in", "--format", "csv").output)))
    assert [row["label"] for row in table] == [row["label"] for row in rows]
    assert [float(row["fear"]) for row in table] == [row["probabilities"]["fear"] for row in rows]
    assert [int(table[1][side]) for side in ("left", "top", "right", "bottom")] == [8, 8, 40, 40]


def test_no_face_is_an_answer(predict: Command) -> None:
    assert predict("none", "in").exit_code == 0
    row = json.loads(predict("none", "in/0.png", "--format", "jsonl").output)
    assert (row["file"], row["face"], row["box"], row["probabilities"]) == ("in/0.png", None, None, None)
    assert "no face" in predict("none", "in/0.png").output
    assert predict("none", "in/0.png", "--format", "csv").output.splitlines()[1].startswith("in/0.png,,,")


def test_below_the_threshold_the_label_is_unsure(predict: Command) -> None:
    rows = predict("crops", "in", "--format", "jsonl", "--abstain-below", "0.6").stdout.splitlines()
    assert [(json.loads(row)["label"], json.loads(row)["abstained"]) for row in rows] == [(None, True)] * 2
    assert "unsure     0.520" in predict("crops", "in", "--abstain-below", "0.6").output


def test_a_threshold_says_what_it_did_on_validation(predict: Command) -> None:
    said = predict("two", "in", "--abstain-below", "0.26").stderr
    assert said == (
        "On validation, with the threshold 0.25, 900 of 1,000 images got a label (90.0 %), and 80.0 % of these were "
        "right (95 % interval 77.3 to 82.5).\n"
    )
    assert "does not store" in predict("crops", "in", "--abstain-below", "0.6").stderr
    assert not predict("two", "in").stderr


def test_what_cannot_be_read_is_reported_and_the_status_is_1(predict: Command) -> None:
    Path("in/00.png").write_bytes(b"no picture")
    done = predict("crops", "in", "gone.png", "--out", "out.csv", "--format", "csv")
    assert isinstance(done.exception, LhcnetError)
    assert str(done.exception) == "2 of 4 inputs could not be read"
    assert done.stderr.count("\n") == 2
    assert "lhcnet: in/00.png cannot be read" in done.stderr
    assert not done.stdout
    assert [row["file"] for row in csv.DictReader(Path("out.csv").read_text().splitlines())] == ["in/0.png", "in/1.png"]


def test_annotated_pictures_keep_their_paths_and_show_boxes(predict: Command) -> None:
    Path("in/sub").mkdir()
    Path("in/sub/0.png").write_bytes(Path("in/0.png").read_bytes())
    assert predict("two", "in", "in/0.png", "--annotate", "seen").exit_code == 0
    found = sorted(str(path.relative_to("seen")) for path in Path("seen").rglob("*.jpg"))
    assert found == ["0-2.jpg", "0.jpg", "1.jpg", "sub/0.jpg"]
    pixels = np.asarray(Image.open("seen/0.jpg").convert("RGB")).astype(int)
    assert min(pixels.shape[:2]) >= 320
    blue = (pixels[..., 2] - pixels[..., 0]) > 60  # the picture is grey, boxes and captions are not
    side = pixels.shape[1]
    assert blue[side // 2, round(side / 6) + 1]  # left side of the inner box
    assert not blue[side // 2, side // 2]
    done = predict("two", "in", "--annotate", "seen")
    assert "seen: is not empty" in str(done.exception)


def test_annotated_pictures_are_bounded_and_their_names_are_plain(predict: Command) -> None:
    Image.new("L", (9000, 8)).save("in/a b\x1b;$(x).png")
    assert predict("crops", "in", "--annotate", "seen").exit_code == 0
    (wide,) = set(Path("seen").iterdir()) - {Path("seen/0.jpg"), Path("seen/1.jpg")}
    assert wide.name == "a_b____x_.jpg"
    assert max(Image.open(wide).size) <= 4096


def test_annotated_pictures_in_the_folder_of_the_pictures_are_not_read_again(predict: Command) -> None:
    done = predict("crops", "in", "--annotate", "in/0seen", "--format", "csv", "--batch-size", "1")
    assert len(done.stdout.splitlines()) == 3
    assert sorted(path.name for path in Path("in/0seen").iterdir()) == ["0.jpg", "1.jpg"]


def test_annotated_pictures_keep_names_of_any_language(predict: Command) -> None:
    for name in ("Müller", "张三", "李四", "e" + "\u0301" * 90):
        Path(f"in/{name}.png").write_bytes(Path("in/0.png").read_bytes())
    Path("in/1").mkdir()
    Path("in/1/1.png").write_bytes(Path("in/0.png").read_bytes())
    assert predict("crops", "in/李四.png", "in", "--annotate", "seen").exit_code == 0
    found = {path.name for path in Path("seen").iterdir()}
    assert {"Müller.jpg", "张三.jpg", "李四.jpg", "李四-2.jpg", "0.jpg", "1.jpg", "1"} < found


def test_a_file_and_a_folder_of_one_name_are_kept_apart(predict: Command) -> None:
    with zipfile.ZipFile("faces.zip", "w") as file:
        for name in ("a.gif", "a.jpg/x.png"):
            file.write("in/0.png", name)
    done = predict("crops", "faces.zip", "--annotate", "seen")
    assert done.exit_code == 0, done.output
    found = sorted(str(path.relative_to("seen")) for path in Path("seen").rglob("*.jpg") if path.is_file())
    assert found == ["a.jpg", "a.jpg-2/x.jpg"]


def test_a_picture_is_not_overwritten_and_no_answer_writes_no_file(predict: Command) -> None:
    before = Path("in/0.png").read_bytes()
    for words in (["in/0.png", "--out", "in/0.png"], ["in", "--out", "new.zip"]):
        assert "expected another file for the rows" in str(predict("crops", *words).exception)
    assert Path("in/0.png").read_bytes() == before
    Path("rows.csv").write_text("of yesterday")
    assert predict("crops", "nothing.png", "--out", "rows.csv").exit_code == 1
    assert Path("rows.csv").read_text() == "of yesterday"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--abstain-below", "2"], "abstain-below"),
        (["--format", "xml"], "format"),
        (["--batch-size", "0"], "batch-size"),
    ],
)
def test_wrong_options_are_refused(words: list[str], says: str, predict: Command) -> None:
    done = predict("crops", "in", *words)
    assert done.exit_code == 2
    assert says in done.stderr


def test_a_camera_is_ended_by_hand(predict: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def frames(*_: Any) -> Any:
        yield 0, 0.0, Image.fromarray(FACES[0])
        raise SystemExit(130)  # as Ctrl-C

    monkeypatch.setattr("lhcnet.prediction.inputs.frames", frames)
    done = predict("crops", "camera:0", "--format", "jsonl", "--out", "seen.jsonl")
    assert done.exit_code == 0, done.output
    assert json.loads(Path("seen.jsonl").read_text())["file"] == "camera:0#0"
