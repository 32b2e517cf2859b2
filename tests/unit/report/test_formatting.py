"""Tables of numbers as text: formats, styles, missing values; and the terminal, which loses nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.drawn_results import draw_results

from lhcnet import steps
from lhcnet.io.files import write_json
from lhcnet.profiles import profile
from lhcnet.report.formatting import Table, duration, frame, markdown, read_csv, shown, write_csv
from lhcnet.report.terminal import SHOWN, print_report, print_table

ROWS = [
    {
        "model": "A/seed-0",
        "test": 0.7,
        "ci95_low": 0.65,
        "ci95_high": 0.75,
        "n": 3589,
        "p": 0.0001,
        "significant": True,
    },
    {"model": "B | x", "test": None, "ci95_low": None, "ci95_high": None, "n": None, "p": 0.5, "significant": False},
]


def test_numbers_become_text_in_one_place() -> None:
    columns = {column.name: column for column in shown(frame(ROWS))}
    assert {name: column.cells for name, column in columns.items()} == {
        "model": ["A/seed-0", "B | x"],
        "test": ["70.00", "-"],
        "ci95": ["65.00–75.00", "-"],
        "n": ["3,589", "-"],
        "p": ["< 0.001", "0.500"],
        "significant": ["yes", "no"],
    }
    assert {name for name, column in columns.items() if column.style == "number"} == {"test", "ci95", "n", "p"}
    assert columns["significant"].marked == [True, False]
    assert markdown(frame(ROWS)).splitlines()[3].startswith(r"| B \| x | - | - | - | 0.500 | no |")


def test_long_texts_wrap() -> None:
    (column,) = shown(frame([{"reason": "word " * 20}]))
    assert column.style == "words"


def test_csv_holds_plain_numbers_and_comes_back(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", frame(ROWS))
    assert (tmp_path / "x.csv").read_text().splitlines()[1:] == [
        "A/seed-0,0.7,0.65,0.75,3589,0.0001,True",
        "B | x,,,,,0.5,False",
    ]
    assert shown(read_csv(tmp_path / "x.csv")) == shown(frame(ROWS))


def test_durations() -> None:
    assert [duration(s) for s in (0.04, 59.44, 61, 7325)] == ["0.0 s", "59.4 s", "1 min 01 s", "2 h 02 min"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's profile, whose names are long."""
    at = tmp_path_factory.mktemp("terminal")
    drawn = draw_results(profile("paper", {"seeds.a": [0, 1], "seeds.c": [1]}), counts=[[10] * 7, [20] * 7, [30] * 7])
    (at / "ev").mkdir()
    write_json(at / "selection.json", drawn.results.selection.to_dict())
    write_json(at / "ev" / "evaluation.json", drawn.results.evaluation.to_dict())
    write_json(at / "data.json", drawn.data_report.to_dict())
    import numpy as np

    np.savez(at / "ev" / "predictions.npz", **drawn.results.predictions)
    steps.compare(at / "selection.json", at / "ev", at / "out", data_report=at / "data.json")
    return at / "out"


@pytest.mark.parametrize("columns", [80, 50, 200])
def test_the_terminal_loses_no_name_and_no_number(
    columns: int, report: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_report(report)
    printed = capsys.readouterr().out
    assert "…" not in printed
    lines = printed.splitlines()
    assert max(map(len, lines[:-1])) <= columns
    models = read_csv(report / "models.csv")
    cells = {cell for line in lines for cell in re.split(r" {2,}", line.strip())}
    assert set(models["model"]) <= cells
    words = set(printed.replace(",", "").split())
    for name in ("best", "spread", "models", "table7", "table_a2"):
        wanted = SHOWN[name][1].split()
        columns_of_file = [column for column in shown(read_csv(report / f"{name}.csv")) if column.name in wanted]
        assert len(columns_of_file) >= 4, name
        for column in columns_of_file:  # in the table, or named below it
            assert set(column.header.split()) <= words, column.header


def test_the_chosen_model_and_the_means_come_first(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report)
    printed = capsys.readouterr().out
    titles = ["Chosen: ", "Best models on validation", "Means of the sets", "\nModels"]
    places = [printed.index(title) for title in titles]
    assert places == sorted(places)


def test_columns_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    print_table(Table("t", "", frame([{"model": "a" * 20, "train_loss": 1.0, "brier": 2.0}])))
    printed = " ".join(capsys.readouterr().out.split())
    assert "a" * 20 in printed
    assert "More columns on a wider terminal: training loss, Brier score" in printed
