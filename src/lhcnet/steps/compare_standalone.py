"""The comparison that ends the stand-alone pipeline."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from lhcnet.config import Evaluation
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.files import write_json
from lhcnet.protocol.standalone import StandaloneModel, StandaloneReport, pair
from lhcnet.runtime import memory_errors
from lhcnet.saved import open_model
from lhcnet.steps.context import RunContext
from lhcnet.steps.outputs import STANDALONE_FOLDER, check_outputs
from lhcnet.steps.scored_splits import ScoredSplits
from lhcnet.tracking.names import plan_params, score_metrics, standalone_metrics
from lhcnet.tracking.record import restore, tracked
from lhcnet.tracking.source import NOTE

log = logging.getLogger("lhcnet")


def compare_standalone(
    models: Sequence[Path], trainval: Path, test: Path, out: Path, *, evaluation: Evaluation, context: RunContext
) -> StandaloneReport:
    """Compare LHC-Net with ResNet34v2 after every stage, on the test split without TTA (section 4.2).

    The test images choose nothing.

    Args:
        models: model directories of the stand-alone pipeline, of exactly two networks.
        trainval: store with the splits train and validation.
        test: store with the sealed split test.
        out: folder to write: `standalone.json`, tables (CSV) and `report.html`.
        evaluation: batch size.
        context: device and execution.

    Returns:
        The scores of all models, and their differences with McNemar's test.

    Raises:
        LhcnetError: the models are not those of two networks with a stage and seed in common, or of other data.
    """
    from lhcnet.report.standalone import pair_sentence, write_report

    check_outputs((out, STANDALONE_FOLDER), inputs=[*models, trainval, test], execution=context.execution)
    saved = [open_model(path) for path in models]
    if strangers := [model.id for model in saved if model.info.provenance.set != "standalone"]:
        raise LhcnetError(f"expected models of the stand-alone pipeline, not {', '.join(strangers)}")
    trained_at: dict[str | None, set[tuple[int, int]]] = {}
    for p in (model.info.provenance for model in saved):
        trained_at.setdefault(p.variant, set()).add((p.stage, p.seed))
    if len(trained_at) != 2 or None not in trained_at:
        raise LhcnetError("expected models of two networks, ResNet34v2 and one LHC-Net, to compare")
    if not set.intersection(*trained_at.values()):
        raise LhcnetError(
            "expected both networks after the same stage and with the same seed, at least once, to compare"
        )
    splits = ScoredSplits.open(trainval, test)
    if others := [model.id for model in saved if model.info.provenance.data != splits.data]:
        raise LhcnetError(f"{test}: is of data {splits.data[:12]}, on which {', '.join(others)} was not trained")
    labels, distinct = splits.splits["test"][1], ~splits.train_duplicate["test"]
    with tracked(context.execution, splits.data, "compare-standalone") as run, memory_errors("evaluation"):
        device = context.device()
        scored, correct = [], {}
        for model in sorted(saved, key=lambda model: model.id):
            found = splits.score(
                model.id, model.network(), model.info.architecture.input_size, evaluation, device, tta=False
            )
            correct[model.id], scores = found.predicted["test"].argmax(1) == labels, found.scores
            log.info("%s: test accuracy %.4f", model.id, scores["test"].accuracy)
            scored.append(
                StandaloneModel(record=model.record(), test=scores["test"], test_distinct=scores["test_distinct"])
            )
        report = StandaloneReport(data=splits.data, models=tuple(scored), pairs=tuple(pair(scored, correct, distinct)))
        for one in report.pairs:
            log.info(pair_sentence(one))
        with atomic_directory(out, STANDALONE_FOLDER) as folder:
            write_json(folder / "standalone.json", report.to_dict())
            write_report(folder, report)
        if run:
            restore(saved, run)
            for scored_model in report.models:
                accuracies = {
                    "test_accuracy": scored_model.test.accuracy,
                    "test_distinct_accuracy": scored_model.test_distinct.accuracy,
                }
                run.other(f"train/{scored_model.record.id}", {}).metrics(score_metrics(accuracies))
            for file in sorted(out.iterdir()):
                run.file(file)
            parent = run.parent()
            parent.params(plan_params([model.info for model in saved]))
            parent.metrics(standalone_metrics(report))
            parent.tags({NOTE: "\n".join(f"- {pair_sentence(one)}" for one in report.pairs[-5:])})
            parent.file(out / "report.html")
            run.end_parent()
    return report
