"""The report: complete, self-contained, escaped, the same bytes twice, and clear about what was not computed."""

from __future__ import annotations

import base64
import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.drawn_results import Results, draw_results

from lhcnet import steps
from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from lhcnet.io.files import write_json
from lhcnet.profiles import profile
from lhcnet.protocol.paper import PAPER_TABLE_7
from lhcnet.protocol.statistics import wilson
from lhcnet.report import plots
from lhcnet.report.page import Chapter, columns, page
from lhcnet.report.protocol_chapter import differing, official
from lhcnet.saved import Epoch

TINY = {"seeds.a": [0, 1], "seeds.c": [1]}
COUNTS = [[10] * 7, [20] * 7, [30] * 7]
CHAPTERS = (
    "In short",
    "Data",
    "Protocol",
    "Training",
    "Kept and rejected",
    "Accuracy",
    "Beside the paper",
    "Comparisons",
    "LHC-NetC",
    "Classes",
    "Calibration",
    "Analyses",
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


def save(results: Results, folder: Path) -> Path:
    """The files that `compare` reads."""
    (folder / "ev").mkdir(parents=True)
    write_json(folder / "selection.json", results.selection.to_dict())
    write_json(folder / "ev" / "evaluation.json", results.evaluation.to_dict())
    write_json(folder / "data_report.json", results.data_report)
    np.savez(folder / "ev" / "predictions.npz", **results.predictions)
    return folder


def compare(results: Results, folder: Path, **more: Any) -> Path:
    save(results, folder)
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
    return profile("demo", TINY)


@pytest.fixture(scope="module")
def results(config: Config) -> Results:
    """Drawn faces; the rejected model has a hostile name and reason."""
    drawn = draw_results(config, counts=COUNTS, accuracy=0.6, reason="<script>alert(1)</script> & <b>no</b>")
    hostile = {"id": "B/<img src=//x>"}
    entries = tuple(e if e.kept else e.model_copy(update=hostile) for e in drawn.selection.entries)
    return drawn._replace(selection=drawn.selection.model_copy(update={"entries": entries}))


@pytest.fixture(scope="module")
def report(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compare(results, tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def html(report: Path) -> str:
    return (report / "report.html").read_text()


def test_every_chapter_is_there_and_filled(html: str, results: Results) -> None:
    found = Page(html)
    for number, title in enumerate(CHAPTERS, 1):
        assert found.sections[f"s{number}"].strip().startswith(f"{number}. {title}")
        assert len(found.sections[f"s{number}"]) > len(title) + 40, title
        assert f'href="#s{number}"' in html
    assert html.count("<img ") == 6
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
    assert "B/&lt;img src=//x&gt;" in html
    tables = [("<a>", "<s>", [{"<k>": "<v>"}])]
    made = page("<i>", [Chapter("<u>", ["<p>&"], tables, [("<q>", '"><img src=x>', Figure())])])
    found = Page(made)
    assert not {"i", "u", "s", "k", "v", "q"} & set(found.tags)
    assert [address[:10] for address in found.loaded] == ["data:image"]
    assert '"><img src=x>' in found.sections["s1"]


def test_the_same_results_give_the_same_bytes(results: Results, report: Path, tmp_path: Path) -> None:
    again = compare(results, tmp_path)
    assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in report.iterdir())
    for file in report.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name


def test_figures_beside_the_paper_are_not_judged_on_other_images(html: str) -> None:
    beside = texts(html)["Beside the paper"]
    assert "not judged" in beside
    assert "beyond noise\n" not in beside
    assert "These are not FER2013's official splits" in Page(html).sections["head"]
    assert "73.39" in beside


@pytest.fixture(scope="module")
def plain(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    """FER2013's own splits, without TTA, LHC-NetC and analyses."""
    folder = tmp_path_factory.mktemp("plain")
    write_json(folder / "analysis.json", {"skipped": "B/se has no LHC modules"})
    drawn = draw_results(config, accuracy=0.73, control=False, tta=False)
    return drawn, compare(drawn, folder / "x", analysis=folder)


def test_on_the_official_splits_every_figure_of_the_paper_is_judged(plain: tuple[Results, Path]) -> None:
    drawn, out = plain
    assert official(drawn.data_report)
    assert "official splits" not in Page((out / "report.html").read_text()).sections["head"]
    rows = list(csv.DictReader((out / "table_a2.csv").open()))
    chosen = drawn.evaluation.chosen_model().test
    low, high = wilson(round(chosen.accuracy * chosen.n), chosen.n)
    for row in rows:
        if row["source"] == "paper" and row["tta"] == "no":
            inside = low <= float(row["accuracy"]) / 100 <= high
            assert row["which is"] == ("within noise" if inside else "beyond noise"), row
            assert float(row["difference"]) == pytest.approx(100 * chosen.accuracy - float(row["accuracy"]), abs=0.011)
        elif row["source"] == "paper":
            assert row["which is"] == "-"  # nothing with TTA to compare with
    assert {row["which is"] for row in rows} == {"within noise", "beyond noise", "-"}
    seventh = list(csv.DictReader((out / "table7.csv").open()))
    assert [r["against the paper's"] for r in seventh if r["source"].startswith("here (")] == ["within noise"] * 2
    for row in seventh:
        if row["source"] == "paper":
            assert tuple(float(v) for v in list(row.values())[2:7]) == PAPER_TABLE_7[row["model"]]


def test_what_was_not_computed_is_said(plain: tuple[Results, Path], html: str) -> None:
    _, out = plain
    found = texts((out / "report.html").read_text())
    assert "control.models: none" in found["LHC-NetC"]
    assert "Nothing was analysed: B/se has no LHC modules." in found["Analyses"]
    assert "No analyses were made" in texts(html)["Analyses"]
    assert "TTA against plain inference" in found["Comparisons"]
    assert found["Comparisons"].count("Nothing to show.") == 2  # no TTA, no LHC-NetC
    assert not (out / "control.csv").exists()
    assert json.loads((out / "summary.json").read_text())["test_accuracy_tta"] is None


def test_the_summary_has_the_score_without_twins(results: Results, report: Path) -> None:
    summary = json.loads((report / "summary.json").read_text())
    chosen = results.evaluation.chosen_model()
    assert summary["test_accuracy"] == chosen.test.accuracy
    assert summary["test_distinct_accuracy"] == chosen.test_distinct.accuracy != chosen.test.accuracy
    assert chosen.test_distinct_tta is not None
    assert summary["test_distinct_accuracy_tta"] == chosen.test_distinct_tta.accuracy
    rows = {row["model"]: row for row in csv.DictReader((report / "models.csv").open())}
    for model in results.evaluation.models:
        assert rows[model.id]["test"] == f"{100 * model.test.accuracy:.2f}"
        assert rows[model.id]["no twin"] == f"{100 * model.test_distinct.accuracy:.2f}"
    assert {entry.id for entry in results.selection.entries} <= set(rows)


def test_the_protocol_marks_what_differs(results: Results, html: str) -> None:
    assert "differs: learning rate, batch, patience, epochs, augmentation" in texts(html)["Protocol"]
    assert differing(results.selection, results.evaluation) > 5
    paper = draw_results(profile("paper", TINY), counts=COUNTS, tta=False)
    assert differing(paper.selection, paper.evaluation) == 0
    random = paper.selection.backbone[0].model_copy(update={"start": "none"})
    started = paper.selection.model_copy(update={"backbone": (random, *paper.selection.backbone[1:])})
    assert differing(started, paper.evaluation) == 1


@pytest.mark.parametrize("spoil", ["predictions", "data", "chosen"])
def test_results_that_do_not_belong_together_are_refused(spoil: str, results: Results, tmp_path: Path) -> None:
    folder = save(results, tmp_path)
    if spoil == "predictions":
        (folder / "ev" / "predictions.npz").write_bytes(b"PK broken")
        says = r"predictions\.npz: expected"
    elif spoil == "data":
        write_json(folder / "data_report.json", results.data_report | {"digest": "f" * 64})
        says = r"data_report\.json: expected the report on the data dddd"
    else:
        write_json(folder / "selection.json", results.selection.to_dict() | {"chosen": "B/other"})
        says = "was made for"
    with pytest.raises(LhcnetError, match=says):
        steps.compare(folder / "selection.json", folder / "ev", folder / "out", data_report=folder / "data_report.json")
    assert not (folder / "out").exists()


def test_a_first_loss_in_the_hundreds_leaves_the_axis_readable(results: Results) -> None:
    figure = plots.backbone_curves(results.selection)
    loss = figure.axes[0]
    assert loss.get_ylim()[1] < 5
    assert [text.get_text() for text in loss.texts] == ["up to 312.4"]
    calm = [stage.model_copy(update={"history": stage.history[1:]}) for stage in results.selection.backbone]
    quiet = plots.backbone_curves(results.selection.model_copy(update={"backbone": tuple(calm)}))
    assert not quiet.axes[0].texts


def test_curves_of_runs_that_diverged_or_ended_at_once_are_drawn(results: Results) -> None:
    histories = ((Epoch(epoch=0, val_accuracy=0.1),), (Epoch(epoch=0, val_loss=1e30, val_accuracy=0.1),))
    entries = tuple(
        entry.model_copy(update={"history": histories[i % 2]}) for i, entry in enumerate(results.selection.entries)
    )
    figure = plots.set_curves(results.selection.model_copy(update={"entries": entries}), results.evaluation)
    assert len(figure.axes) == 4 * 3


def test_columns_of_numbers_stand_apart_from_words() -> None:
    rows: list[dict[str, object]] = [
        {"a": "1,234", "b": "+0.12", "c": "71.20-74.63", "d": "< 0.001", "e": "-", "f": "8 8 7 7 1", "g": 0.5},
        {"a": "-", "b": "-1", "c": "-", "d": "1e-05", "e": "-", "f": "x " * 30, "g": 7},
    ]
    assert columns(rows) == dict.fromkeys("abcdg", "number") | {"e": "", "f": "words"}


def test_a_figure_of_many_strokes_becomes_pixels() -> None:
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot(np.random.default_rng(0).random(40_000), ".")
    made = page("x", [Chapter("y", figures=[("dots", "", figure)])])
    assert "data:image/png;base64," in made
    assert len(made) < 400_000
