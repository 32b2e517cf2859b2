"""Data that are not FER2013 itself: names of classes, other sizes, Parquet, labels of FER+."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.source_files import FACES, csv_lines, encoded, folder, message, pngs, text, zipped

from lhcnet.config import Data, parse
from lhcnet.data.fer2013 import CLASSES, FOLDERS, SPLITS
from lhcnet.data.ferplus import NO_MAJORITY, VOTES, majority
from lhcnet.data.reading import Reading
from lhcnet.data.sources import read
from lhcnet.errors import LhcnetError

NAMES = {name: [name] for name in CLASSES} | {"happiness": ["Joy", "happy"], "left_out": ["contempt"]}


def reading(**settings: Any) -> Reading:
    return Reading.of(parse(Data, settings, "data"))


def test_class_folders_of_any_name(tmp_path: Path) -> None:
    """Two folders are one class, one is left out and counted, and FER2013's own names are no classes any more."""
    files = {}
    for i, (name, content) in enumerate(pngs().items()):
        part, old, file = name.split("/")
        label = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral").index(old)
        joy = ("joy", "happy")[i % 2]
        files[f"{part}/{joy if label == 3 else CLASSES[label]}/{file}"] = content
    files["train/contempt/Training_1.png"] = next(iter(pngs().values()))
    source = zipped(tmp_path / "in.zip", files)
    faces = read(source, reading=reading(classes=NAMES))
    assert (faces.digest, faces.shape) == (
        FACES.digest,
        "image folder (split in file names), left out: 1 of contempt",
    )
    assert "unknown class folder joy, expected angry, " in message(source)


def test_accents_are_the_same_in_one_letter_and_in_two(tmp_path: Path) -> None:
    """macOS writes names of folders with the accent as a letter of its own."""
    two, one = unicodedata.normalize("NFD", "Überraschung"), unicodedata.normalize("NFC", "überraschung")
    files = {name.replace("/surprise/", f"/{two}/"): content for name, content in pngs().items()}
    own = {name: [name, FOLDERS[label]] for label, name in enumerate(CLASSES)} | {"surprise": [one]}
    faces = read(zipped(tmp_path / "in.zip", files), reading=reading(classes=own))
    assert faces.digest == FACES.digest


def test_names_of_classes_are_checked() -> None:
    with pytest.raises(LhcnetError, match=r"classes: .*Joy is a name of anger and of happiness"):
        parse(Data, {"classes": NAMES | {"anger": ["joy"]}}, "data")
    with pytest.raises(LhcnetError, match="fear: required key is missing"):
        parse(Data, {"classes": {name: names for name, names in NAMES.items() if name != "fear"}}, "data")
    assert Data().to_dict().keys() == {"source", "validation_fraction", "split_seed"}  # digests stay as they were


def test_other_sizes_are_resized_where_the_settings_say_so(tmp_path: Path) -> None:
    files = {}
    for name, content in pngs().items():
        image = Image.open(io.BytesIO(content)).resize((96, 64), Image.Resampling.NEAREST)
        files[name] = encoded(image.convert("RGB"))
    source = folder(tmp_path / "in", files)
    assert "is 96x64, expected 48x48; data.resize: 48 resizes other sizes" in message(source)
    faces = read(source, reading=reading(resize=48))
    assert faces.images.shape == FACES.images.shape
    assert (faces.labels == FACES.labels).all()
    same = read(folder(tmp_path / "same", pngs()), reading=reading(resize=48))
    assert same.digest == FACES.digest  # 48x48 grey stays as it is
    colour = Image.new("RGB", (48, 48), (255, 0, 0))
    first = next(iter(files))
    red = read(folder(tmp_path / "red", {**pngs(), first: encoded(colour)}), reading=reading(resize=48))
    assert (red.images == 76).all(axis=(1, 2)).sum() == 1  # ITU-R 601
    clear = zipped(tmp_path / "clear.zip", {**pngs(), first: encoded(Image.new("RGBA", (50, 50)))})
    with pytest.raises(LhcnetError, match="has transparent pixels"):
        read(clear, reading=reading(resize=48))


def parquet(split: int, label: str, names: list[str] | None = None, without: int = 0) -> bytes:
    """The images of a split as `datasets` writes them: labels as names, or as numbers of the names in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = np.flatnonzero(FACES.splits == split)
    images: list[dict[str, bytes | None]] = [
        {"bytes": encoded(Image.fromarray(FACES.images[i])), "path": None} for i in rows
    ]
    of = [CLASSES[FACES.labels[i]] for i in rows]
    if without:
        images[without - 1]["bytes"] = None
    table = pa.table({"image": images, label: [names.index(name) for name in of] if names else of})
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def test_parquet(tmp_path: Path) -> None:
    names = sorted(CLASSES)  # numbers that are not FER2013's
    for place, form, own in (
        ("hub", "data/{}-00000-of-00001.parquet", names),
        ("api", "default/{}/0000.parquet", None),
    ):
        files = {form.format(split): parquet(i, "label", own) for i, split in enumerate(SPLITS)}
        faces = read(folder(tmp_path / place, files))
        assert (faces.digest, faces.shape, faces.validation) == (FACES.digest, "Parquet", "official")
    wrong = {"train.parquet": parquet(0, "emotion"), "test.parquet": parquet(2, "label")}
    assert "test.parquet" not in (error := message(folder(tmp_path / "wrong", wrong)))
    assert "train.parquet: no column label, expected image and label" in error
    part = {"part-0.parquet": parquet(0, "label")}
    assert "its name says no split" in message(folder(tmp_path / "part", part))
    assert "cannot be read" in message(folder(tmp_path / "damaged", {"train.parquet": b"PAR1 and no more"}))
    upper = {f"{split}-00000-of-00001.PARQUET": parquet(i, "label") for i, split in enumerate(SPLITS)}
    assert read(folder(tmp_path / "upper", upper)).digest == FACES.digest
    hole = {"train.parquet": parquet(0, "label", without=7)}
    assert "train.parquet, row 7: expected the bytes of an image file, and a label" in message(
        folder(tmp_path / "hole", hole)
    )


def test_majority_of_the_votes() -> None:
    def votes(**counts: int) -> list[int]:
        return [counts.get(name, 0) for name in VOTES]

    assert majority(votes(neutral=6, sadness=4)) == "neutral"
    assert majority(votes(neutral=5, sadness=5)) == NO_MAJORITY
    assert majority(votes(neutral=4, fear=2, anger=1, sadness=1, disgust=1)) == "neutral"  # single votes do not count
    assert majority(votes(nf=10)) == "nf"


def test_labels_of_ferplus(tmp_path: Path) -> None:
    lines = csv_lines()
    header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    rows = []
    for number, line in enumerate(lines[1:]):
        emotion, _, usage = line.split(",")
        votes = dict.fromkeys(VOTES, 0) | {CLASSES[int(emotion)]: 9, "unknown": 1}
        rows.append(",".join([usage, f"fer{number:07}.png", *(str(votes[name]) for name in VOTES)]))
    files = {"fer2013.csv": text(lines), "fer2013new.csv": text([header, *rows])}
    ferplus = reading(labels="ferplus")
    assert read(folder(tmp_path / "same", files)).digest == FACES.digest  # not asked for
    assert read(folder(tmp_path / "same", files), reading=ferplus).digest == FACES.digest

    usage = rows[0].split(",")[0]
    contempt = [f"{usage},fer0000000.png,0,0,0,0,0,0,0,8,1,1", *rows[1:]]
    faces = read(folder(tmp_path / "less", files | {"fer2013new.csv": text([header, *contempt])}), reading=ferplus)
    assert len(faces.images) == len(FACES.images) - 1
    assert faces.shape == "csv with Usage, labels of FER+ (left out: 1 contempt)"

    for name, wrong, expected in (
        ("short", {"fer2013new.csv": text([header, *rows[1:]])}, "expected one for an image"),
        ("order", {"fer2013new.csv": text([header, *rows[::-1]])}, "in the same order"),
        ("votes", {"fer2013new.csv": text([header, rows[0][:-1] + "x", *rows[1:]])}, "row 2: expected Usage and ten"),
    ):
        with pytest.raises(LhcnetError, match=expected):
            read(folder(tmp_path / name, files | wrong), reading=ferplus)
    with pytest.raises(LhcnetError, match="no folders of images; found 0 of the one and 0 of the other"):
        read(folder(tmp_path / "images", pngs()), reading=ferplus)


def test_rafdb(tmp_path: Path) -> None:
    lines, files, classes = [], {}, ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    for number, (image, label, split) in enumerate(zip(FACES.images, FACES.labels, FACES.splits, strict=True)):
        name = f"{'test' if split == 2 else 'train'}_{number:05}"
        lines.append(f"{name}.jpg {1 + classes.index(CLASSES[label])}")
        files[f"basic/Image/aligned/{name}_aligned.jpg"] = encoded(Image.fromarray(image).convert("RGB"))
        files[f"basic/Image/original/{name}.jpg"] = b"not read"
    listed = "basic/EmoLabel/list_patition_label.txt"
    source = folder(tmp_path / "in", files | {listed: text(lines)})
    faces = read(source, reading=reading(resize=48))
    assert (faces.shape, faces.validation) == ("RAF-DB (aligned images)", "cut from train")
    ours = {(image.tobytes(), int(label)) for image, label in zip(FACES.images, FACES.labels, strict=True)}
    assert {(image.tobytes(), int(label)) for image, label in zip(faces.images, faces.labels, strict=True)} == ours
    for name, wrong, expected in (
        ("label", [*lines[:-1], f"{lines[-1][:-1]}8"], f"line {len(lines)}: expected a file name and a label 1..7"),
        ("unlisted", lines[1:], "is not in .*list_patition_label.txt, expected a label for every image"),
        ("absent", [*lines, "train_99999.jpg 1"], "has no image train_99999_aligned"),
    ):
        with pytest.raises(LhcnetError, match=expected):
            read(folder(tmp_path / name, files | {listed: text(wrong)}), reading=reading(resize=48))


AFFECTNET = {"anger": 6, "disgust": 5, "fear": 4, "happiness": 1, "sadness": 2, "surprise": 3, "neutral": 0}
NUMBERS = {name: [str(number)] for name, number in AFFECTNET.items()} | {"left_out": ["7", "10"]}


def same_faces(faces: Any) -> bool:
    """FACES, whose validation images became test, and of whose training images some became validation."""
    found, expected = (
        {(image.tobytes(), int(label), int(split == 0)) for image, label, split in zip(*arrays, strict=True)}
        for arrays in (
            (faces.images, faces.labels, np.where(faces.splits == 2, 1, 0)),
            (FACES.images, FACES.labels, np.where(FACES.splits > 0, 1, 0)),
        )
    )
    return found == expected


def test_lists_of_affectnet(tmp_path: Path) -> None:
    """Faces are cut out by their boxes; classes that are left out are counted, unknown ones are errors."""
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    lists: dict[str, list[str]] = {"training.csv": [header], "validation.csv": [header]}
    files = {}
    for number, (image, label, split) in enumerate(zip(FACES.images, FACES.labels, FACES.splits, strict=True)):
        picture = Image.new("RGB", (60, 70), "white")
        picture.paste(Image.fromarray(image), (7, 9))
        files[f"Manually_Annotated_Images/{number % 3}/{number}.png"] = encoded(picture)
        of = lists["validation.csv" if split else "training.csv"]
        of.append(f"{number % 3}/{number}.png,7,9,48,48,1.5;2;3;4,{AFFECTNET[CLASSES[label]]},-0.5,0.1")
    lists["training.csv"] += ["0/0.png,NULL,NULL,9,9,,1,0,0", "no/such.png,0,0,9,9,,7,0,0"]
    named = {name: text(lines) for name, lines in lists.items()}
    source = folder(tmp_path / "in", files | named)
    faces = read(source, reading=reading(classes=NUMBERS, resize=48))
    assert same_faces(faces)
    assert (faces.shape, faces.validation) == (
        "AffectNet (2 lists), left out: 1 of 7, left out: 1 of images without a box",
        "cut from train",
    )
    assert "expected data.resize: 48 and data.classes with AffectNet's numbers" in message(source)
    for name, row, expected in (
        ("unknown", "0/0.png,7,9,48,48,,8,0,0", r"line 2: unknown expression 8, expected .*left_out in data\.classes"),
        ("absent", "9/9.png,7,9,48,48,,1,0,0", "line 2: its image is not in"),
        ("box", "0/0.png,7,x,48,48,,1,0,0", "line 2: expected face_x, .* as whole numbers"),
        ("outside", "0/0.png,90,9,48,48,,1,0,0", "line 2: the box lies outside of"),
        ("cells", "0/0.png,90", "line 2: 2 cells, expected 9"),
    ):
        with pytest.raises(LhcnetError, match=expected):
            read(
                folder(tmp_path / name, files | named | {"training.csv": text([header, row])}),
                reading=reading(classes=NUMBERS, resize=48),
            )
    with pytest.raises(LhcnetError, match=r"automatic\.csv: its name says no split"):
        read(
            folder(tmp_path / "more", named | {"automatic.csv": text([header])}),
            reading=reading(classes=NUMBERS, resize=48),
        )


def saved(value: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(value), allow_pickle=True)
    return file.getvalue()


def test_annotations_of_affectnet(tmp_path: Path) -> None:
    files = {}
    for number, (image, label, split) in enumerate(zip(FACES.images, FACES.labels, FACES.splits, strict=True)):
        part, expression = "val_set" if split else "train_set", AFFECTNET[CLASSES[label]]
        files[f"{part}/images/{number}.jpg"] = encoded(Image.fromarray(image).convert("RGB"))
        files[f"{part}/annotations/{number}_exp.npy"] = saved(str(expression) if number % 2 else expression)
        files[f"{part}/annotations/{number}_lnd.npy"] = b"not read"
    settings = reading(classes=NUMBERS, resize=48)
    assert same_faces(faces := read(folder(tmp_path / "in", files), reading=settings))
    assert faces.shape == "AffectNet (annotations)"
    for name, wrong, expected in (
        (
            "pickle",
            {"train_set/annotations/0_exp.npy": saved({"a": 1})},
            "0_exp.npy cannot be read, .*allow_pickle=False",
        ),
        ("many", {"train_set/annotations/0_exp.npy": saved([1, 2])}, "expected a NumPy file with a number"),
        ("alone", {"train_set/annotations/none_exp.npy": saved("1")}, "none_exp.npy: its image is not in"),
        ("place", {"other/annotations/0_exp.npy": saved("1")}, "is misplaced, expected train_set/annotations/"),
    ):
        with pytest.raises(LhcnetError, match=expected):
            read(folder(tmp_path / name, files | wrong), reading=settings)
