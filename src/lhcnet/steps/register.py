"""Registration of the chosen model."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lhcnet.config import Registry
from lhcnet.data.audit import DataReport
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_file
from lhcnet.io.files import write_json
from lhcnet.protocol.gate import PREDICTIONS, ValidationResult
from lhcnet.protocol.results import EvaluationReport, read_predictions, require_fitting
from lhcnet.saved import open_model
from lhcnet.steps.outputs import REGISTERED, check_outputs
from lhcnet.tracking.bounded import deliver
from lhcnet.tracking.journal import Execution, journaled
from lhcnet.tracking.record import restore
from lhcnet.tracking.registry import CARD, MODEL
from lhcnet.tracking.registry import register as register_model
from lhcnet.versioned import read_versioned

log = logging.getLogger("lhcnet")


def register(
    chosen: Path, evaluation: Path, out: Path, *, data_report: Path, registry: Registry, execution: str
) -> dict[str, Any]:
    """Register the chosen model in MLflow with its model card, and end the execution's parent run.

    The version gets the alias `challenger`, and `champion` by the rule `registry.champion`.

    Args:
        chosen: model directory of the chosen model.
        evaluation: the folder that `evaluate` wrote.
        out: file to write (JSON): name, version, alias, digest of the weights, reason of the gate.
        data_report: the data report of `prepare`.
        registry: name of the registered model, and the rule for the champion.
        execution: name of the pipeline execution in MLflow.

    Returns:
        What was written to `out`.

    Raises:
        LhcnetError: the files do not belong to one execution, or MLflow does not answer.
    """
    from lhcnet.report.model_card import model_card

    check_outputs((out, REGISTERED), inputs=[chosen, evaluation, data_report], execution=execution)
    saved = open_model(chosen)
    scored = read_versioned(EvaluationReport, evaluation / "evaluation.json")
    if scored.chosen != saved.id:
        raise LhcnetError(f"{chosen}: is {saved.id}, but {evaluation} was made for {scored.chosen}")
    saved.require_weights(scored.chosen_model().weights, evaluation / "evaluation.json")
    data = read_versioned(DataReport, data_report)
    if data.digest != scored.data:
        raise LhcnetError(f"{data_report}: expected the report on the data {scored.data[:12]} of {evaluation}")
    file = evaluation / "predictions.npz"
    predictions = read_predictions(file)
    try:
        require_fitting(predictions, [scored.chosen_model()])
    except (ValueError, KeyError) as error:
        raise LhcnetError(f"{file}: expected the predictions that evaluate wrote: {error}") from None
    result = ValidationResult(
        data=scored.data,
        predicted=predictions[f"{saved.id}/validation"].argmax(1).astype(np.uint8),
        labels=predictions["labels/validation"],
    )
    weights = saved.weights_digest()
    tags = {"weights": weights, "data_digest": saved.info.provenance.data, "trained_as": saved.id}
    if known := saved.info.provenance.start_weights:
        tags |= {"start_weights": known.source, "start_weights_license": known.license}
    tags |= {key: f"{value:.4f}" for key, value in scored.chosen_model().accuracies().items()}
    # the run of an earlier time is added to, never replaced
    with journaled(
        Execution(execution, saved.info.provenance.data), "register", tags={}, mode="keep", deliver=deliver
    ) as run:
        restore([saved], run)
        with TemporaryDirectory(prefix="lhcnet-") as folder:
            content = Path(folder)
            (content / MODEL).mkdir()
            # its own files alone; MLflow follows no links
            saved.copy(content / MODEL, fitted=scored.fitted(predictions))
            result.save(content / PREDICTIONS)
            card = model_card(registry.model, saved.info, scored.chosen_model(), data, predictions)
            (content / CARD).write_text(card, encoding="utf-8")
            done = register_model(run, registry.model, content, rule=registry.champion, tags=tags)
        version, alias = done["version"], "champion" if done["champion"] else "challenger"
        run.tags({"registered_as": f"{registry.model} version {version}", "gate": done["gate"]})
        run.parent().params({"registry.model": registry.model})
        run.end_parent()
    written = {"name": registry.model, "version": version, "alias": alias, "weights": weights, "model": saved.id}
    written["gate"] = done["gate"]
    with atomic_file(out, REGISTERED) as file:
        write_json(file, written)
    log.info("registered %s as %s version %d, alias %s (%s)", saved.id, registry.model, version, alias, done["gate"])
    return written
