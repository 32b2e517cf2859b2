"""The analyses of section 3.2.4 on a trained model."""

from __future__ import annotations

import logging
from pathlib import Path

from lhcnet.config import Analysis, Compute, Evaluation
from lhcnet.data.store import open_store
from lhcnet.errors import LhcnetError
from lhcnet.saved import open_model
from lhcnet.tracking.record import tracked

log = logging.getLogger("lhcnet")


def analyse(
    model: Path,
    trainval: Path,
    out: Path,
    *,
    analysis: Analysis,
    evaluation: Evaluation,
    compute: Compute,
    execution: str | None = None,
) -> None:
    """Modules and heads switched off and set back, correlation, scaling and attention, on validation images.

    A model with other attention than LHC has nothing to analyse: then `analysis.json` says so.
    """
    from lhcnet.analysis import run
    from lhcnet.analysis.results import MARKER, Skipped, write
    from lhcnet.runtime import open_device

    saved, store = open_model(model), open_store(trainval)
    if saved.info.provenance.data != store.digest:
        was = saved.info.provenance.data[:12]
        raise LhcnetError(f"{model}: was trained on data {was}, not on {store.digest[:12]} of {trainval}")
    with tracked(execution, store.digest, "analyse") as tracking:
        if saved.info.architecture.has_lhc:
            images, labels = store.split("validation")
            rows = run.evenly_spaced(len(labels), analysis.images)
            device = open_device(compute)
            found = run.analyse(saved, images[rows], labels[rows], device=device, batch_size=evaluation.batch_size)
            write(found, out)
            heads = sum(found.report.necessity.heads)
            for needed in found.report.necessity.needed:
                log.info("%s: %d of %d heads needed (the others %s)", saved.id, needed.heads, heads, needed.kind)
        else:
            write(Skipped(skipped=f"{saved.id} has no LHC modules"), out)
        if tracking:
            tracking.params({"analysis": analysis.to_dict(), "model": saved.id})
            tracking.file(out / MARKER)
