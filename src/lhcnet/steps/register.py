"""Registration of the chosen model."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_file
from lhcnet.io.files import write_json
from lhcnet.protocol.results import EvaluationReport
from lhcnet.saved import open_model
from lhcnet.steps.outputs import REGISTERED, check_outputs
from lhcnet.tracking.bounded import deliver
from lhcnet.tracking.journal import Execution, journaled
from lhcnet.tracking.record import restore
from lhcnet.tracking.registry import register as register_model
from lhcnet.versioned import read_versioned

log = logging.getLogger("lhcnet")


def register(chosen: Path, evaluation: Path, out: Path, *, name: str, execution: str) -> dict[str, Any]:
    """Register the chosen model in MLflow with the alias `champion`, and end the execution's parent run.

    Args:
        chosen: model directory of the chosen model.
        evaluation: the folder that `evaluate` wrote.
        out: file to write (JSON): name, version, alias, digest of the weights.
        name: name of the registered model.
        execution: name of the pipeline execution in MLflow.

    Returns:
        What was written to `out`.

    Raises:
        LhcnetError: the evaluation was made for another model or other weights, or MLflow does not answer.
    """
    check_outputs((out, REGISTERED), inputs=[chosen, evaluation], execution=execution)
    saved = open_model(chosen)
    scored = read_versioned(EvaluationReport, evaluation / "evaluation.json")
    if scored.chosen != saved.id:
        raise LhcnetError(f"{chosen}: is {saved.id}, but {evaluation} was made for {scored.chosen}")
    saved.require_weights(scored.chosen_model().weights, evaluation / "evaluation.json")
    accuracies = scored.chosen_model().accuracies()
    weights = saved.weights_digest()
    tags = {"weights": weights, "data_digest": saved.info.provenance.data, "trained_as": saved.id}
    tags |= {key: f"{value:.4f}" for key, value in accuracies.items()}
    # the run of an earlier time is what a registered version points to: it is added to, never replaced
    with journaled(
        Execution(execution, saved.info.provenance.data), "register", tags={}, mode="keep", deliver=deliver
    ) as run:
        restore([saved], run)
        with TemporaryDirectory(prefix="lhcnet-") as folder:  # the four files alone; MLflow follows no links
            saved.copy(Path(folder))
            version = register_model(run, name, Path(folder), tags=tags)
        run.tags({"registered": f"{name} version {version}"})
        run.parent().params({"registry.model": name})
        run.end_parent()
    result = {"name": name, "version": version, "alias": "champion", "weights": weights, "model": saved.id}
    with atomic_file(out, REGISTERED) as file:
        write_json(file, result)
    log.info("registered %s as %s version %d, alias champion", saved.id, name, version)
    return result
