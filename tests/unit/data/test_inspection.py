"""Near duplicates, contradicting labels, damaged images, shifts between splits; what is left out of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from lhcnet import steps
from lhcnet.config import Config, Data, parse
from lhcnet.data.drawn_faces import draw, write_csv
from lhcnet.data.exclusion import without
from lhcnet.data.fer2013 import TEST, TRAIN, VALIDATION, Bytes, Faces
from lhcnet.data.inspection import inspect
from lhcnet.data.near_duplicates import groups, near_duplicates
from lhcnet.data.store import open_store
from lhcnet.errors import LhcnetError
from lhcnet.tracking.journal import journal_root
from lhcnet.tracking.replay import replay


@pytest.fixture(scope="module")
def photographs() -> Bytes:
    """Smooth random images, as different from each other as photographs are."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (60, 7, 7), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((48, 48), Image.Resampling.BICUBIC)) for one in small])


def data_set(images: Bytes, labels: list[int] | None = None, splits: list[int] | None = None) -> Faces:
    """A data set of 40 images of train, 10 of validation and 10 of test."""
    n = len(images)
    found = np.asarray(splits if splits is not None else [TRAIN] * 40 + [VALIDATION] * 10 + [TEST] * 10, np.uint8)
    return Faces(images, np.asarray(labels or [i % 7 for i in range(n)], np.uint8), found, "x", "official")


def changed(image: Bytes, how: str) -> Bytes:
    """The same photograph in another copy."""
    picture = Image.fromarray(image)
    match how:
        case "brighter":
            picture = ImageEnhance.Brightness(picture).enhance(1.2)
        case "flatter":
            picture = ImageEnhance.Contrast(picture).enhance(0.6)
        case "blurred":
            picture = picture.filter(ImageFilter.GaussianBlur(0.8))
        case "watermark":
            found = image.copy()
            found[40:44, 5:30] = 255
            return found
        case "exact":
            pass
    return np.asarray(picture)


@pytest.mark.parametrize("how", ["brighter", "flatter", "blurred", "watermark", "exact"])
def test_another_copy_of_a_photograph_is_a_near_duplicate(how: str, photographs: Bytes) -> None:
    assert len(near_duplicates(photographs).first) == 0
    images = photographs.copy()
    images[57] = changed(images[3], how)
    pairs = near_duplicates(images)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([3], [57])
    assert pairs.correlation[0] >= 0.9
    assert groups(60, pairs)[3] == groups(60, pairs)[57]
    assert len(set(groups(60, pairs))) == 59


def test_blank_images_are_no_duplicates_of_each_other(photographs: Bytes) -> None:
    images = photographs.copy()
    images[[1, 50]] = 128
    found = inspect(data_set(images))
    assert len(found.pairs.first) == 0
    assert np.flatnonzero(found.blank).tolist() == [1, 50]
    assert found.figures()["blank"] == {"train": 1, "validation": 0, "test": 1}


def test_what_is_wrong_is_counted(photographs: Bytes) -> None:
    images, labels = photographs.copy(), [i % 7 for i in range(60)]
    images[45] = changed(images[0], "brighter")  # validation repeats train
    images[55] = images[10]  # test repeats train, exactly
    images[20] = changed(images[21], "blurred")  # within train
    labels[20], labels[21] = 1, 2
    labels[45], labels[55] = labels[0], labels[10]
    images[30, :40] = 7  # the upper part of a damaged file
    found = inspect(data_set(images, labels))
    figures = found.figures()
    assert figures["near_duplicates_in_train"] == {"validation": 1, "test": 1}
    assert figures["exact_duplicates_in_train"] == {"validation": 0, "test": 1}
    assert (figures["groups"], figures["images_in_groups"], figures["largest_group"]) == (3, 6, 2)
    assert (figures["groups_with_several_labels"], figures["images_in_groups_with_several_labels"]) == (1, 2)
    assert figures["damaged"] == {"train": 1, "validation": 0, "test": 0}


@pytest.mark.parametrize("measure", ["brightness", "contrast", "sharpness", None])
def test_a_split_of_another_kind_is_seen(measure: str | None) -> None:
    faces = draw(800, seed=0)
    images = faces.images.copy()
    rows = np.flatnonzero(faces.splits == TEST)
    factors = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast}
    for i in rows if measure else []:
        picture = Image.fromarray(images[i])
        kind = factors.get(str(measure))
        images[i] = np.asarray(kind(picture).enhance(0.5) if kind else picture.filter(ImageFilter.GaussianBlur(1.5)))
    shifts = inspect(replace(faces, images=images)).shifts
    differing = shifts[shifts["differs"] & (shifts["split"] == "test")]["measure"].tolist()
    if measure is None:
        assert differing == []
    else:
        assert measure in differing


def test_leaks_and_blanks_are_left_out_of_train_alone(photographs: Bytes) -> None:
    images = photographs.copy()
    images[45] = changed(images[0], "brighter")
    images[55] = images[10]
    images[20] = changed(images[21], "blurred")  # within train: stays
    images[[5, 58]] = 0
    faces = data_set(images)
    left, counts = without(faces, ["blanks", "leaks"])
    assert counts == {"blanks": 1, "leaks": 2}
    kept = np.delete(np.arange(60), [0, 5, 10])
    assert np.array_equal(left.images, images[kept])
    assert np.array_equal(left.splits, faces.splits[kept])
    assert without(faces, [])[0].digest == faces.digest


def test_prepare_leaves_out_what_the_settings_say(tmp_path: Path) -> None:
    faces = draw(300, seed=1)
    images = faces.images.copy()
    images[0], images[-1] = images[1], images[1]  # train twice, test once
    write_csv(replace(faces, images=images), tmp_path / "faces.csv")
    for name, exclude, expected in (("all", [], {}), ("some", ["leaks"], {"leaks": 2})):
        data = parse(Data, {"source": str(tmp_path / "faces.csv"), "exclude": exclude}, "data")
        folder = tmp_path / name
        folder.mkdir()
        report = steps.prepare(folder / "trainval", folder / "test", folder / "report.json", data=data)
        assert report.excluded == expected
    stores = {name: open_store(tmp_path / name / "trainval") for name in ("all", "some")}
    assert len(stores["all"].images) - len(stores["some"].images) == 2
    assert stores["some"].data_set == "faces, not FER2013 without leaks"
    assert stores["all"].data_set == ""
    assert stores["some"].digest != stores["all"].digest
    tests = [open_store(tmp_path / name / "test").images for name in ("all", "some")]
    assert np.array_equal(*tests)


def test_an_exclusion_that_does_not_exist_is_refused() -> None:
    with pytest.raises(LhcnetError, match=r"data\.exclude.*'leaks' or 'blanks'"):
        parse(Config, {"data": {"exclude": ["noise"]}}, "params.yaml")


def test_an_audit_is_a_folder_with_a_page_and_a_run_in_mlflow(tmp_path: Path, tracking: str) -> None:
    write_csv(draw(300, seed=1), tmp_path / "faces.csv")
    data = parse(Data, {"source": str(tmp_path / "faces.csv")}, "data")
    figures = steps.audit_data(tmp_path / "audit", data=data, execution="x")
    assert {file.name for file in (tmp_path / "audit").iterdir()} == {"audit.html", "audit.json", "near_duplicates.csv"}
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "Data audit of faces, not FER2013" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    replay(journal_root())
    client = mlflow.MlflowClient(tracking)
    experiments = [one.experiment_id for one in client.search_experiments()]
    (run,) = client.search_runs(experiments, "attributes.run_name = 'audit'")
    assert run.data.metrics["data/groups"] == figures["groups"]
