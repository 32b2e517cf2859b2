"""The 10 % loss rule and the choice of a model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from lhcnet.config import Minimum
from lhcnet.io.atomic import atomic_directory, atomic_file
from lhcnet.io.files import write_json
from lhcnet.protocol.selection import SelectionReport, choose, judge
from lhcnet.saved import MODEL_FOLDER, open_facts
from lhcnet.steps.outputs import SELECTION, check_outputs
from lhcnet.tracking.names import plan_params
from lhcnet.tracking.record import restore, tracked

log = logging.getLogger("lhcnet")


def select(
    models: Sequence[Path],
    backbone: Sequence[Path],
    out: Path,
    *,
    loss_factor: float,
    minimum: Minimum | None = None,
    chosen: Path | None = None,
    execution: str | None = None,
) -> SelectionReport:
    """Apply the 10 % loss rule to trained models and choose the best kept one on validation (section 4.1).

    Args:
        models: model directories of sets A, B and C, or folders with their facts alone. A training that ended
            early is rejected.
        backbone: likewise, of the backbone's stages; the start of stage 4 is the last.
        out: `selection.json` to write.
        loss_factor: a model is kept if its training loss is below `loss_factor` times that of the start.
        minimum: how many models of each set must be kept; None: one LHC-Net in all.
        chosen: model directory to copy the chosen model to, which facts cannot give; None copies nothing.
        execution: name of the pipeline execution in MLflow; None logs nothing.

    Returns:
        Every model with the reason why it was kept or rejected, and the chosen model.

    Raises:
        LhcnetError: fewer models were kept than needed, or the models are not of one data set.
    """
    copy = [(chosen, MODEL_FOLDER)] if chosen is not None else []
    check_outputs((out, SELECTION), *copy, inputs=[*models, *backbone], execution=execution)
    saved = [open_facts(path) for path in models]
    stages = [open_facts(path) for path in backbone]
    first = stages[-1]
    entries = judge(saved, first, loss_factor)
    for entry in entries:
        log.info("%s %s: %s", "kept" if entry.kept else "rejected", entry.id, entry.reason)
    data, sets = first.info.provenance.data, "".join(sorted({entry.set for entry in entries}))
    with tracked(execution, data, f"select/{sets}") as run:
        if run:
            run.params({"loss_factor": loss_factor})
            run.parent().params({"selection": {"loss_factor": loss_factor}})
            run.parent().params(plan_params([model.info for model in [*stages, *saved]]))
            restore([*stages, *saved], run)
            for entry in entries:
                run.other(f"train/{entry.id}", {"kept": "yes" if entry.kept else "no", "reason": entry.reason})
        report = choose(entries, stages, loss_factor, minimum)
        if report.missing:
            ids = ", ".join(entry.id for entry in report.missing)
            log.warning("%d of %d models are missing: %s", len(report.missing), len(entries), ids)
        if chosen is not None:
            by_id = {model.id: model for model in saved}
            with atomic_directory(chosen, MODEL_FOLDER) as folder:
                by_id[report.chosen].copy(folder)
        with atomic_file(out, SELECTION) as file:
            write_json(file, report.to_dict())
        if run:
            run.tags({"chosen": report.chosen})
            run.file(out)
    return report
