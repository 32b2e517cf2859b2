"""What it came to: the comparison with the paper, and the registered model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lhcnet.config import parse
from lhcnet.data.atomic import complete_or_absent
from lhcnet.errors import LhcnetError
from lhcnet.evaluation.selection import SelectionReport
from lhcnet.evaluation.summary import EvaluationReport, Summary, summarise, write_tables
from lhcnet.models.saved import open_model, read_json, write_json
from lhcnet.tracking.record import restore, tracked
from lhcnet.tracking.runs import Execution, child, missing
from lhcnet.tracking.runs import register as register_model

log = logging.getLogger("lhcnet")


def compare(selection: Path, evaluation: Path, out: Path, *, execution: str | None = None) -> Summary:
    """Table 7 and Table A2 beside the paper's figures, the table of sets, and the metrics digest."""
    chosen = parse(SelectionReport, read_json(selection), str(selection))
    scored = parse(EvaluationReport, read_json(evaluation / "evaluation.json"), str(evaluation / "evaluation.json"))
    if (scored.chosen, scored.data) != (chosen.chosen, chosen.data):
        raise LhcnetError(f"{evaluation}: was made for {scored.chosen}, but {selection} chose {chosen.chosen}")
    summary = summarise(chosen, scored)
    with complete_or_absent(out, "summary.json") as folder:
        write_json(folder / "summary.json", summary.to_dict())
        write_tables(folder, chosen, scored)
    with tracked(execution, chosen.data, "compare") as run:
        if run:
            for file in sorted(out.iterdir()):
                run.file(file)
            parent = run.parent()
            parent.metrics(scored.chosen_model().accuracies())
            parent.tags({"chosen": chosen.chosen, "metrics_digest": summary.metrics_digest})
    return summary


def register(chosen: Path, evaluation: Path, out: Path, *, name: str, execution: str) -> dict[str, Any]:
    """Register the chosen model with the alias `champion`; ends the execution's parent run."""
    saved = open_model(chosen)
    scored = parse(EvaluationReport, read_json(evaluation / "evaluation.json"), str(evaluation / "evaluation.json"))
    if scored.chosen != saved.id:
        raise LhcnetError(f"{chosen}: is {saved.id}, but {evaluation} was made for {scored.chosen}")
    accuracies = scored.chosen_model().accuracies()
    weights = saved.weights_digest()
    tags = {"weights": weights, "data_digest": saved.info.provenance.data, "trained_as": saved.id}
    tags |= {key: f"{value:.4f}" for key, value in accuracies.items()}
    name_ = Execution(execution, saved.info.provenance.data)
    # the run of an earlier time is what a registered version points to: it is added to, never replaced
    with child(name_, "register", tags={}, mode="own" if missing(name_, ["register"]) else "add") as run:
        restore([saved], name_)
        run.metrics(accuracies)
        version = register_model(run, name, chosen, tags=tags)
        run.tags({"registered": f"{name} version {version}"})
        run.parent().metrics(accuracies)
        run.end_parent()
    result = {"name": name, "version": version, "alias": "champion", "weights": weights, "model": saved.id}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, result)
    log.info("registered %s as %s version %d, alias champion", saved.id, name, version)
    return result
