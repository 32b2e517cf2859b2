"""The page docs/results.md: our own results on FER2013, from the data in docs/results/.

.venv/bin/python benchmarks/results.py add artifacts --commit 1a2b3c4   # an execution -> docs/results/PROFILE/
.venv/bin/python benchmarks/results.py page                             # the page again

`add` takes the folder that `dvc repro` wrote, on the machine that trained: its processor and wall times are noted. It
copies tables and figures, no image of FER2013 and no weights. `benchmarks/stage_cost.py` writes `cost.csv` beside them,
and `page` adds it. The tables of `recipe.py` and `memory.py` lie in docs/results/ itself. What the
figures mean for LHC is written by hand, in `why.md`.
"""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import jinja2
import pandas as pd
import typer
from matplotlib.figure import Figure
from measure import machine

from lhcnet.analysis.results import Analysis, read
from lhcnet.config import load
from lhcnet.data.fer2013 import CLASSES
from lhcnet.model_record import Architecture
from lhcnet.protocol.comparisons import Statistics, statistics
from lhcnet.protocol.results import Results, Summary
from lhcnet.protocol.score import confusion
from lhcnet.report import plots, wording
from lhcnet.report.analysis_plots import figures
from lhcnet.report.execution import confidence_figures
from lhcnet.report.formatting import COLUMNS, duration, interval, markdown, percent, points, read_csv
from lhcnet.steps import RunContext
from lhcnet.tracking.timings import wall_times
from lhcnet.versioned import read_versioned

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
TEMPLATE = Path(__file__).with_name("results.md.j2")
DPI = 110
BY_HAND = ("why.md", "cost.csv")  # kept by `add`
DRAWINGS = ("accuracies", "backbone", "sets", "confusion", "reliability", "risk", "modules")  # none shows a face

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def add(
    artifacts: Annotated[Path, typer.Argument(help="Folder of an execution, as `dvc repro` writes it.")],
    commit: Annotated[str, typer.Option(help="Commit that trained the models.")],
    params: Annotated[Path, typer.Option(help="Settings of the execution.")] = Path("params.yaml"),
    note: Annotated[str, typer.Option(help="What a reader must know: machine, interruptions.")] = "",
    minutes: Annotated[list[str] | None, typer.Option(help="STEP=MINUTES of a step that was interrupted.")] = None,
) -> None:
    """Copy tables, settings and figures of an execution, and write the page."""
    config = load(params)
    folder = DATA / config.profile
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.name not in BY_HAND:
            old.unlink()
    results = Results.read(artifacts / "selection.json", artifacts / "evaluation")
    for file in sorted((artifacts / "report").iterdir()):
        if file.suffix in (".csv", ".json"):
            shutil.copy(file, folder)
    shutil.copy(params, folder / "params.yaml")
    for name, figure in _figures(results, artifacts / "analysis").items():
        figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
    by_hand = {step: 60 * float(value) for step, _, value in (text.partition("=") for text in minutes or [])}
    execution = RunContext.of_config(config).execution
    about = {
        "commit": commit,
        "machine": machine("torch", "timm"),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "note": note,
        "seconds": wall_times(execution) | by_hand if execution else by_hand,
    }
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    page()


@app.command()
def page() -> None:
    """Write docs/results.md from docs/results/."""
    PAGE.write_text(render(DATA), encoding="utf-8")


def _of_benchmark(file: Path) -> pd.DataFrame:
    """The table of a benchmark; what is no column of a report is shown as it was written."""
    table, text = read_csv(file), pd.read_csv(file, dtype="string")
    return table.assign(**{name: text[name] for name in table.columns if name not in COLUMNS})


def render(data: Path) -> str:
    """The text of the page, from the folders of all executions."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found = [_execution(folder) for folder in sorted(data.iterdir()) if (folder / "about.json").is_file()]
    more = {file.stem: markdown(_of_benchmark(file)) for file in data.glob("*.csv")}
    values = {
        "executions": found,
        "more": more,
        "percent": percent,
        "interval": interval,
        "points": points,
        "duration": duration,
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values) + "\n"


def _execution(folder: Path) -> dict[str, Any]:
    summary = read_versioned(Summary, folder / "summary.json")
    compared = read_versioned(Statistics, folder / "statistics.json")
    about, config = json.loads((folder / "about.json").read_text(encoding="utf-8")), load(folder / "params.yaml")
    tables = {file.stem: read_csv(file) for file in sorted(folder.glob("*.csv"))}
    return {
        "profile": folder.name,
        "config": config,
        "network": Architecture.of(config.network).plain_name,
        "summary": summary,
        "sentences": [wording.comparison(one) for one in compared.comparisons if one.question != "tta"],
        "why": (folder / "why.md").read_text(encoding="utf-8") if (folder / "why.md").exists() else "",
        "tables": {name: markdown(table) for name, table in tables.items()},
        "figures": [file.name for file in sorted(folder.glob("*.png"))],
        "backbone": sum(value for step, value in about["seconds"].items() if step.startswith("train/backbone/")),
        "total": sum(about["seconds"].values()),
        **about,
    }


def _figures(results: Results, analysis: Path) -> dict[str, Figure]:
    chosen = results.predictions[f"{results.selection.chosen}/test"]
    found = {
        "accuracies": plots.accuracies(results, official=True),
        "backbone": plots.backbone_curves(results.selection.backbone),
        "sets": plots.set_curves(results),
        "confusion": plots.confusion_matrix(confusion(chosen, results.labels), CLASSES),
    }
    for drawing in confidence_figures(results, statistics(results)):
        found[drawing.title.partition(" ")[0].lower()] = drawing.figure  # reliability, risk
    analysed = read(analysis) if analysis.is_dir() else None
    if isinstance(analysed, Analysis):
        found["modules"] = figures(analysed)[0].figure
    return {name: found[name] for name in DRAWINGS if name in found}


if __name__ == "__main__":
    app()
