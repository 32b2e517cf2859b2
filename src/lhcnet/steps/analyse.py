"""The analyses of section 3.2.4 on a trained model."""

from __future__ import annotations

import logging
from pathlib import Path

from lhcnet.config import Analysis, Evaluation
from lhcnet.data.store import open_store
from lhcnet.runtime import memory_errors
from lhcnet.saved import open_model
from lhcnet.steps.context import RunContext
from lhcnet.steps.outputs import check_outputs
from lhcnet.tracking.record import tracked

log = logging.getLogger("lhcnet")


def analyse(
    model: Path, trainval: Path, out: Path, *, analysis: Analysis, evaluation: Evaluation, context: RunContext
) -> None:
    """Analyse the LHC modules of a model on validation images (section 3.2.4).

    Modules and heads are switched off and reset to their initial weights; correlation of the heads, scaling and
    attention are measured. For a model without LHC modules, `analysis.json` says that it was skipped.

    Args:
        model: model directory.
        trainval: store with the split validation.
        out: folder to write: `analysis.json` and its tables (CSV).
        analysis: number of images.
        evaluation: batch size.
        context: device and execution.

    Raises:
        LhcnetError: the model was trained on other data than `trainval`.
    """
    from lhcnet.analysis import run
    from lhcnet.analysis.results import ANALYSIS_FOLDER, MARKER, Skipped, write

    check_outputs((out, ANALYSIS_FOLDER), inputs=[model, trainval], execution=context.execution)
    saved, store = open_model(model), open_store(trainval)
    saved.require_data(store.digest, trainval)
    saved.weights_digest()  # verified, also where the model has nothing to analyse
    with tracked(context.execution, store.digest, "analyse") as tracking, memory_errors("evaluation"):
        if saved.info.architecture.has_lhc:
            images, labels = store.split("validation")
            rows = run.evenly_spaced(len(labels), analysis.images)
            device = context.device()
            found = run.analyse(saved, images[rows], labels[rows], device=device, batch_size=evaluation.batch_size)
            write(found, out)
            heads = sum(found.report.necessity.heads)
            for needed in found.report.necessity.needed:
                log.info("%s: %d of %d heads needed (the others %s)", saved.id, needed.heads, heads, needed.kind)
        else:
            write(Skipped(skipped=f"{saved.id} has no LHC modules"), out)
        if tracking:
            tracking.params({"analysis": analysis.to_dict(), "model": saved.id})
            tracking.parent().params({"analysis": analysis.to_dict()})
            tracking.file(out / MARKER)
