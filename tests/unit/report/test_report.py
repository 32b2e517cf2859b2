"""The report: complete, self-contained, escaped, the same bytes twice, and clear about what was not computed."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from support.drawn_results import Drawn, change_record, draw_results

from lhcnet import steps
from lhcnet.analysis.results import Skipped, write
from lhcnet.config import Config
from lhcnet.data.fer2013 import CLASSES, SIDE
from lhcnet.errors import LhcnetError
from lhcnet.io.files import write_json
from lhcnet.profiles import profile
from lhcnet.protocol.examples import EACH, IMAGES, ROWS, example_rows
from lhcnet.protocol.paper import PAPER_TABLE_7
from lhcnet.protocol.results import Results
from lhcnet.protocol.statistics import wilson
from lhcnet.report import plots
from lhcnet.report.formatting import Table, frame
from lhcnet.report.page import Chapter, Drawing, page
from lhcnet.report.protocol_chapter import differing, official
from lhcnet.report.terminal import print_report
from lhcnet.saved import Epoch, Metrics
from lhcnet.tracking.timings import timed, wall_times

TINY = {"seeds.a": [0, 1], "seeds.c": [1]}
COUNTS = [[10] * 7, [20] * 7, [30] * 7]
CHAPTERS = (
    "Summary",
    "Models",
    "Comparison with the paper",
    "Comparisons",
    "LHC-NetC",
    "Classes",
    "Calibration",
    "Analyses",
    "Training",
    "Data",
    "Protocol",
    "Hardware, versions and times",
)


class Page(HTMLParser):
    """Text of each section, tags, and everything that a browser would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.open: list[str] = []
        self._section = "head"
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        values = dict(attributes)
        if tag == "section":
            self._section = values["id"] or ""
        loading = ("src", "srcset", "data", "poster", "background", "xlink:href")
        self.loaded += [values[name] or "" for name in loading if name in values]
        if tag == "link":
            self.loaded.append(values.get("href") or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.sections[self._section] = self.sections.get(self._section, "") + data


def save(drawn: Drawn, folder: Path) -> Path:
    """The files that `compare` reads."""
    (folder / "ev").mkdir(parents=True)
    results = drawn.results
    write_json(folder / "selection.json", results.selection.to_dict())
    write_json(folder / "ev" / "evaluation.json", results.evaluation.to_dict())
    write_json(folder / "data_report.json", drawn.data_report.to_dict())
    np.savez(folder / "ev" / "predictions.npz", **results.predictions)
    return folder


def compare(drawn: Drawn, folder: Path, **more: Any) -> Path:
    save(drawn, folder)
    steps.compare(
        folder / "selection.json", folder / "ev", folder / "out", data_report=folder / "data_report.json", **more
    )
    return folder / "out"


def texts(html: str) -> dict[str, str]:
    """Text of the chapters by title."""
    sections = Page(html).sections
    return {title: sections[f"s{number}"] for number, title in enumerate(CHAPTERS, 1)}


@pytest.fixture(scope="module")
def config() -> Config:
    return profile("demo", TINY | {"evaluation.views": "helpful"})


@pytest.fixture(scope="module")
def drawn(config: Config) -> Drawn:
    """Drawn faces; the rejected model has a hostile reason."""
    return draw_results(config, counts=COUNTS, accuracy=0.6, reason="<script>alert(1)</script> & <b>no</b>")


@pytest.fixture(scope="module")
def results(drawn: Drawn) -> Results:
    return drawn.results


@pytest.fixture(scope="module")
def report(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "0")
        return compare(drawn, tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def html(report: Path) -> str:
    return (report / "report.html").read_text()


def test_every_chapter_is_there_and_filled(html: str, results: Results) -> None:
    found = Page(html)
    for number, title in enumerate(CHAPTERS, 1):
        assert found.sections[f"s{number}"].strip().startswith(f"{number}. {title}")
        assert len(found.sections[f"s{number}"]) > len(title) + 30, title
        assert f'href="#s{number}"' in html
    assert html.count("<img ") == 8
    chosen = results.evaluation.chosen_model()
    assert f"{100 * chosen.test.accuracy:.2f} %" in found.sections["head"]
    assert f"{100 * chosen.test_distinct.accuracy:.2f} %" in found.sections["head"]
    assert results.evaluation.data[:12] in found.sections["head"]


def test_nothing_is_loaded_from_elsewhere(html: str) -> None:
    found = Page(html)
    assert found.loaded
    assert all(address.startswith("data:image/") for address in found.loaded)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    assert "@import" not in html
    assert "url(" not in html
    for address in found.loaded:
        drawing = base64.b64decode(address.partition(",")[2]).decode()
        assert not re.search(r"(href|src)=\"(?!#|data:)", drawing)


def test_hostile_words_stay_words(html: str) -> None:
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;b&gt;no&lt;/b&gt;" in html
    tables = [Table("<a>", "<s>", frame([{"<k>": "<v>"}]))]
    made = page("<i>", [Chapter("<u>", ["<p>&"], tables, [Drawing("<q>", '"><img src=x>', Figure())])])
    found = Page(made)
    assert not {"i", "u", "s", "k", "v", "q"} & set(found.tags)
    assert [address[:10] for address in found.loaded] == ["data:image"]
    assert '"><img src=x>' in found.sections["s1"]


def test_the_same_results_give_the_same_bytes(
    drawn: Drawn, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    again = compare(drawn, tmp_path)
    assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in report.iterdir())
    for file in report.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name


def test_there_are_no_rows_of_the_paper_for_other_images(html: str, report: Path) -> None:
    assert "These are not FER2013's official splits" in Page(html).sections["head"]
    assert "73.39" not in texts(html)["Comparison with the paper"]
    for name in ("table7", "table_a2"):
        data = pd.read_csv(report / f"{name}.csv")
        assert {source.partition(",")[0] for source in data["source"]} == {"here"}, name
        assert not {"paper_in_ci", "difference", "compared_with"} & set(data), name


@pytest.fixture(scope="module")
def plain(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    """FER2013's own splits, without duplicates, TTA, LHC-NetC and analyses."""
    folder = tmp_path_factory.mktemp("plain")
    write(Skipped(skipped="B/se has no LHC modules"), folder / "analysis")
    drawn = draw_results(config, accuracy=0.73, control=False, tta=False, duplicates=0.0)
    assert official(drawn.data_report)
    return drawn.results, compare(drawn, folder / "x", analysis=folder / "analysis")


def test_on_the_official_splits_every_figure_of_the_paper_is_compared(plain: tuple[Results, Path]) -> None:
    results, out = plain
    assert "official splits" not in Page((out / "report.html").read_text()).sections["head"]
    rows = pd.read_csv(out / "table_a2.csv")
    chosen = results.evaluation.chosen_model().test
    low, high = wilson(round(chosen.accuracy * chosen.n), chosen.n)
    paper = rows[(rows["source"] == "paper") & ~rows["tta"]]
    assert len(paper) == 7
    assert paper["paper_in_ci"].tolist() == [low <= accuracy <= high for accuracy in paper["accuracy"]]
    assert np.allclose(paper["difference"], chosen.accuracy - paper["accuracy"])
    with_tta = rows[(rows["source"] == "paper") & rows["tta"]]
    assert len(with_tta) == 19
    assert with_tta["paper_in_ci"].isna().all()  # no result with TTA to compare with
    seventh = pd.read_csv(out / "table7.csv")
    assert seventh["source"].tolist().count("here") == 2
    for _, row in seventh[seventh["source"] == "paper"].iterrows():
        figures = row[["top_40", "top_40_without_best", "top_25", "top_25_without_best", "best"]].astype(float)
        assert np.allclose(figures, np.array(PAPER_TABLE_7[row["network"]]) / 100)


def test_what_was_not_computed_is_said(plain: tuple[Results, Path], html: str) -> None:
    _, out = plain
    found = texts((out / "report.html").read_text())
    assert "control.models: none" in found["LHC-NetC"]
    assert "B/se has no LHC modules." in found["Analyses"]
    assert "No analysis was made" in texts(html)["Analyses"]
    assert not (out / "control.csv").exists()
    assert json.loads((out / "summary.json").read_text())["test_accuracy_tta"] is None


def test_columns_on_duplicates_are_there_where_there_are_any(plain: tuple[Results, Path], report: Path) -> None:
    _, without = plain
    for folder, wanted in ((report, True), (without, False)):
        columns = {
            name: set(pd.read_csv(folder / f"{name}.csv")) for name in ("best", "models", "classes", "differences")
        }
        assert [any("distinct" in column for column in found) for found in columns.values()] == [wanted] * 4
        assert ("duplicates" in (folder / "report.html").read_text()) == wanted


def test_csv_files_hold_the_numbers(results: Results, report: Path) -> None:
    rows = pd.read_csv(report / "models.csv").set_index("model")
    for model in results.evaluation.models:
        assert rows.loc[model.id, "test"] == pytest.approx(model.test.accuracy, abs=1e-12)
        assert rows.loc[model.id, "test_distinct"] == pytest.approx(model.test_distinct.accuracy, abs=1e-12)
        assert rows.loc[model.id, "ci95_low"] == pytest.approx(model.test.ci95[0], abs=1e-12)
    assert {entry.id for entry in results.selection.entries} <= set(rows.index)


def test_plain_and_tta_stand_side_by_side_with_their_test(results: Results, report: Path, html: str) -> None:
    rows = pd.read_csv(report / "tta.csv").set_index("model")
    assert set(rows.index) == {model.id for model in results.evaluation.models}
    chosen = results.evaluation.chosen_model()
    row = rows.loc[chosen.id]
    assert chosen.test_tta is not None
    assert (row["test"], row["test_tta"]) == pytest.approx((chosen.test.accuracy, chosen.test_tta.accuracy))
    a, b = (results.correct(f"{chosen.id}/test{suffix}") for suffix in ("_tta", ""))
    assert (row["tta_alone"], row["plain_alone"]) == ((a & ~b).sum(), (b & ~a).sum())
    assert "With TTA against without" in texts(html)["Comparisons"]


def test_the_choice_of_the_views_is_shown_with_its_gains(report: Path, plain: tuple[Results, Path], html: str) -> None:
    views = pd.read_csv(report / "views.csv")
    rows = views[views["model"] == views["model"][0]].set_index("view")
    assert rows.index.tolist() == ["plain", "flip", "shift", "flip + shift", "paper"]
    assert rows.index[rows["kept"]].tolist() == ["flip"]
    assert rows["gain"].tolist() == pytest.approx([0, 0.01, -0.01, 0.02, -0.02])
    assert len(pd.read_csv(report / "single_views.csv")) == 60
    assert "views of TTA" in texts(html)["Protocol"]
    _, without = plain
    assert not {"tta.csv", "views.csv", "single_views.csv"} & {file.name for file in without.iterdir()}


def test_confidence_is_measured_before_and_after_scaling(results: Results, report: Path, html: str) -> None:
    rows = pd.read_csv(report / "temperature.csv")
    assert len(rows) == 2 * len(results.best)
    assert (rows["ece_before_ci95_low"] <= rows["ece_before_ci95_high"]).all()
    assert set(pd.read_csv(report / "selective.csv")["wanted"]) == {0.8, 0.9}
    for title in ("Temperature", "Accuracy of the surest images", "Reliability diagram", "Risk and coverage"):
        assert title in texts(html)["Calibration"]


def test_images_right_and_wrong_stand_under_their_class_with_what_the_model_says(drawn: Drawn, tmp_path: Path) -> None:
    results = drawn.results
    p, labels = results.predictions[f"{results.selection.chosen}/test"], results.labels
    rows = example_rows(p, labels)
    right = p.argmax(1) == labels
    for label in range(len(CLASSES)):
        of_class = rows[labels[rows] == label]
        for is_right in (True, False):
            assert (right[of_class] == is_right).sum() == min(EACH, ((labels == label) & (right == is_right)).sum())
    images = np.random.default_rng(3).integers(0, 256, (len(rows), SIDE, SIDE), np.uint8)
    shown = {**results.predictions, ROWS: rows, IMAGES: images}
    figure = plots.examples(Results(results.selection, results.evaluation, shown))
    titled = [axes for axes in figure.axes if axes.get_title()]
    assert len(titled) == len(rows)
    for axes in titled:
        [drawing] = axes.get_images()
        [at] = [i for i, image in enumerate(images) if np.array_equal(image, drawing.get_array())]
        assert axes.get_title() == f"{CLASSES[p[rows[at]].argmax()]} {p[rows[at]].max():.2f}"
    out = compare(drawn._replace(results=Results(results.selection, results.evaluation, shown)), tmp_path)
    assert "Images right and wrong" in (out / "report.html").read_text(encoding="utf-8")


def test_the_summary_has_the_score_without_duplicates(results: Results, report: Path) -> None:
    summary = json.loads((report / "summary.json").read_text())
    chosen = results.evaluation.chosen_model()
    assert summary["test_accuracy"] == chosen.test.accuracy
    assert summary["test_distinct_accuracy"] == chosen.test_distinct.accuracy != chosen.test.accuracy
    assert chosen.test_distinct_tta is not None
    assert summary["test_distinct_accuracy_tta"] == chosen.test_distinct_tta.accuracy


def test_the_first_lines_say_what_a_reader_would_misunderstand(config: Config, tmp_path: Path) -> None:
    drawn = draw_results(config, counts=COUNTS, tta=False, control=False, duplicates=0.0)
    results = drawn.results
    for id_ in ("A/seed-0", "A/seed-1"):
        results = change_record(results, id_, weights=results.selection.start.weights, best_epoch=0)
    perfect = results.evaluation.chosen_model().validation.model_copy(update={"accuracy": 1.0})
    models = tuple(
        model.model_copy(update={"validation": perfect}) if model.id == "A/seed-1" else model
        for model in results.evaluation.models
    )
    evaluation = results.evaluation.model_copy(update={"models": models})
    certain = np.eye(7, dtype=np.float32)[results.predictions["labels/validation"]]
    predictions = {**results.predictions, "A/seed-1/validation": certain}
    out = compare(drawn._replace(results=Results(results.selection, evaluation, predictions)), tmp_path)
    head = Page((out / "report.html").read_text()).sections["head"]
    first_lines = (out / "report.md").read_text().partition("##")[0]
    for text in (head, first_lines):
        assert "not the best one on validation: A/seed-1 has 100.00 %" in text
        assert "did not improve A/seed-0, A/seed-1" in text
        assert "what this report calls ResNet34v2 is ResNet10v2 without modules" in text
    rows = pd.read_csv(out / "models.csv").set_index("model")
    assert rows["weights"].dropna().to_dict() == {"A/seed-0": "= start", "A/seed-1": "= start"}
    spread = pd.read_csv(out / "spread.csv").set_index("set")
    assert spread.loc["A", ["models", "different"]].tolist() == [2, 1]


def test_the_report_says_where_when_and_how_long(drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setenv("LHCNET_COMMIT", "0123456789abcdef")
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "record" / "journal"))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    with timed("named", "train/A/seed-0"):
        pass
    found = texts((compare(drawn, tmp_path / "x", execution="named") / "report.html").read_text())[CHAPTERS[-1]]
    said = ("2023-11-14 22:13 UTC", "0123456789ab", "Python 3", "torch ", "cores", "train/A/seed-0", "0.0 s")
    assert [part for part in said if part not in found] == []
    assert set(wall_times("named")) == {"train/A/seed-0", "compare"}
    assert wall_times("other") == {}


def test_the_protocol_marks_what_differs(results: Results, html: str) -> None:
    assert "differs: learning rate, batch, patience, epochs, augmentation" in texts(html)["Protocol"]
    assert differing(results) > 5
    paper = draw_results(profile("paper", TINY), counts=COUNTS, tta=False).results
    assert differing(paper) == 0
    first, *rest = paper.selection.backbone
    random = first.model_copy(update={"provenance": first.provenance.model_copy(update={"start": "none"})})
    started = paper.selection.model_copy(update={"backbone": (random, *rest)})
    assert differing(Results(started, paper.evaluation, paper.predictions)) == 1


def test_predictions_that_do_not_fit_their_scores_are_refused(drawn: Drawn, tmp_path: Path) -> None:
    folder, good = save(drawn, tmp_path), dict(drawn.results.predictions)
    chosen = f"{drawn.results.selection.chosen}/test"
    spoiled = {
        chosen: [good[chosen][:3], good[chosen] * np.nan, good[chosen].ravel(), good[chosen][::-1], good[chosen] - 1],
        "labels/test": [good["labels/test"] + 200, good["labels/test"].astype("M8[s]"), np.array(3)],
        "train_duplicate/test": [good["train_duplicate/test"].astype("u1"), good["train_duplicate/test"][:1]],
        ROWS: [np.array([0]), np.array([10**6]), np.array([0.5])],
    }
    for key, arrays in spoiled.items():
        for array in arrays:
            np.savez(folder / "ev" / "predictions.npz", **(good | {key: array}))
            with pytest.raises(LhcnetError, match=r"predictions\.npz: "):
                Results.read(folder / "selection.json", folder / "ev")


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe", b"model,kept,val\nx,True,y\n"])
def test_a_damaged_table_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "models.csv").write_bytes(content)
    (tmp_path / "spread.csv").write_text("set,score\n")
    with pytest.raises(LhcnetError, match=r"models\.csv: expected"):
        print_report(tmp_path)


@pytest.mark.parametrize("spoil", ["predictions", "data", "chosen", "version"])
def test_results_that_do_not_belong_together_are_refused(spoil: str, drawn: Drawn, tmp_path: Path) -> None:
    folder, results = save(drawn, tmp_path), drawn.results
    if spoil == "predictions":
        (folder / "ev" / "predictions.npz").write_bytes(b"PK broken")
        says = r"predictions\.npz: expected"
    elif spoil == "data":
        write_json(folder / "data_report.json", drawn.data_report.to_dict() | {"digest": "f" * 64})
        says = r"data_report\.json: expected the report on the data dddd"
    elif spoil == "version":
        write_json(folder / "selection.json", results.selection.to_dict() | {"schema_version": 2})
        says = r"selection\.json: has schema version 2.* run the step that wrote it again"
    else:
        other = next(
            model.id for model in results.selection.kept if model.set != "A" and model.id != results.selection.chosen
        )
        write_json(folder / "selection.json", results.selection.to_dict() | {"chosen": other})
        says = "was made for"
    with pytest.raises(LhcnetError, match=says):
        steps.compare(folder / "selection.json", folder / "ev", folder / "out", data_report=folder / "data_report.json")
    assert not (folder / "out").exists()


@pytest.mark.parametrize("name", ["summary.json", "statistics.json"])
def test_show_refuses_another_schema_version(name: str, drawn: Drawn, tmp_path: Path) -> None:
    out = compare(drawn, tmp_path)
    values = json.loads((out / name).read_text())
    (out / name).write_text(json.dumps(values | {"schema_version": 7}))
    with pytest.raises(LhcnetError, match=rf"{name}: has schema version 7"):
        print_report(out)


def test_a_first_loss_in_the_hundreds_leaves_the_axis_readable(results: Results) -> None:
    backbone = results.selection.backbone
    loss = plots.backbone_curves(backbone).axes[0]
    assert loss.get_ylim()[1] < 5
    assert [text.get_text() for text in loss.texts] == ["up to 312.4"]
    calm = [stage.model_copy(update={"history": stage.history[1:]}) for stage in backbone]
    assert not plots.backbone_curves(calm).axes[0].texts


def test_curves_of_runs_that_diverged_or_ended_at_once_are_drawn(results: Results) -> None:
    histories = ((Epoch(epoch=0, val_accuracy=0.1),), (Epoch(epoch=0, val_loss=1e30, val_accuracy=0.1),))
    entries = tuple(
        entry.model_copy(update={"record": entry.record.model_copy(update={"history": histories[i % 2]})})
        for i, entry in enumerate(results.selection.entries)
    )
    selection = results.selection.model_copy(update={"entries": entries})
    figure = plots.set_curves(Results(selection, results.evaluation, results.predictions))
    assert len(figure.axes) == 4 * 3


def test_panels_that_are_compared_have_equal_axes(results: Results) -> None:
    axes = np.array(plots.set_curves(results).axes).reshape(4, 3)
    for column in axes.T:
        assert len({panel.get_ylim() for panel in column}) == 1
    for row in np.array(plots.backbone_curves(results.selection.backbone).axes).reshape(2, 3):
        assert len({panel.get_ylim() for panel in row}) == 1


def test_long_tables_are_folded() -> None:
    rows = [{"a": i} for i in range(13)]
    short, long = (page("x", [Chapter("y", tables=[Table("t", "", frame(rows[:n]))])]) for n in (12, 13))
    assert ["<details>" in html for html in (short, long)] == [False, True]


def test_a_figure_of_many_strokes_becomes_pixels() -> None:
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot(np.random.default_rng(0).random(40_000), ".")
    made = page("x", [Chapter("y", figures=[Drawing("dots", "", figure)])])
    assert "data:image/png;base64," in made
    assert len(made) < 400_000


def test_models_that_are_missing_are_named_first(drawn: Drawn, tmp_path: Path) -> None:
    """A training of set A and one of an LHC-NetC ended early: the report says so, and its figures are of the others."""
    results, reason = drawn.results, "not finished within 60 s"
    best = results.best["ResNet34v2"]
    lost = next(entry for entry in results.selection.entries if entry.set == "A" and entry.id != best)
    metrics = Metrics(status="time limit", reason=reason)
    record = lost.record.model_copy(update={"metrics": metrics, "history": (), "weights": None})
    rejected = lost.model_copy(update={"kept": False, "reason": f"time limit: {reason}", "record": record})
    entries = tuple(rejected if entry is lost else entry for entry in results.selection.entries)
    control = next(o.record.id for o in results.evaluation.control if o.record.id != results.evaluation.chosen_control)
    evaluation = results.evaluation.model_copy(
        update={
            "models": tuple(model for model in results.evaluation.models if model.id not in (lost.id, control)),
            "control": tuple(one for one in results.evaluation.control if one.record.id != control),
            "control_missing": {control: "crashed: boom"},
        }
    )
    changed = Results(results.selection.model_copy(update={"entries": entries}), evaluation, results.predictions)
    out = compare(drawn._replace(results=changed), tmp_path)
    planned = len(entries) + len(results.evaluation.control)
    for name in ("report.html", "report.md"):
        text = (out / name).read_text()
        assert f"2 of {planned} models are missing, because their training ended early" in text
        assert f"{lost.id}: time limit: {reason}. {control}: crashed: boom." in text
    assert lost.id not in changed.same_weights()
