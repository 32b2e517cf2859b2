"""docs/results.md: made of the data in docs/results/, and of nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import results

    return results


def test_the_page_has_the_figures_of_the_data(pages: ModuleType) -> None:
    assert pages.PAGE.read_text(encoding="utf-8") == pages.render(pages.DATA)


def test_all_figures_of_the_page_are_there_and_no_images_of_fer2013(pages: ModuleType) -> None:
    wanted = set(re.findall(r"\(results/([\w/.]+)\)", pages.PAGE.read_text(encoding="utf-8")))
    assert wanted
    for name in wanted:
        assert (pages.DATA / name).is_file(), name
    drawings = {path.name for path in pages.DATA.rglob("*") if path.suffix not in (".csv", ".json", ".yaml", ".md", "")}
    assert drawings <= {f"{name}.png" for name in pages.DRAWINGS}
