"""The comparison that ends the stand-alone pipeline."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from lhcnet.config import Evaluation
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.files import write_json
from lhcnet.protocol.standalone import PAPER, StandaloneModel, StandaloneReport, pair, pair_rows, rows
from lhcnet.report.formatting import write_csv
from lhcnet.saved import open_model
from lhcnet.steps.context import RunContext
from lhcnet.steps.scored_splits import ScoredSplits
from lhcnet.tracking.record import restore, tracked

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
    labels, own = splits.splits["test"][1], ~splits.twin["test"]
    with tracked(context.execution, splits.data, "compare-standalone") as run:
        device = context.device()
        scored, right = [], {}
        for model in sorted(saved, key=lambda model: model.id):
            p, m = model.info.provenance, model.metrics
            scores, predicted = splits.score(
                model.network(), model.info.architecture.input_size, evaluation, device, tta=False
            )
            right[model.id] = predicted["test"].argmax(1) == labels
            log.info("%s: test accuracy %.4f", model.id, scores["test"].accuracy)
            scored.append(
                StandaloneModel(
                    id=model.id,
                    variant=p.variant,
                    seed=p.seed,
                    stage=p.stage,
                    best_epoch=m.best_epoch,
                    val_accuracy=m.val_accuracy,
                    train_loss=m.train_loss,
                    test=scores["test"],
                    test_distinct=scores["test_distinct"],
                    history=model.history,
                )
            )
        report = StandaloneReport(data=splits.data, models=tuple(scored), pairs=tuple(pair(scored, right, own)))
        for one in report.pairs:
            log.info(one.sentence)
        _write(report, out)
        if run:
            restore(saved, run)
            for scored_model in report.models:
                accuracies = {
                    "test_accuracy": scored_model.test.accuracy,
                    "test_distinct_accuracy": scored_model.test_distinct.accuracy,
                }
                run.other(f"train/{scored_model.id}", {}).metrics(accuracies)
            for file in sorted(out.iterdir()):
                run.file(file)
            run.end_parent()
    return report


def _write(report: StandaloneReport, out: Path) -> None:
    from lhcnet.report.page import Chapter, page
    from lhcnet.report.plots import standalone_curves

    after, pairs = rows(report), pair_rows(report)
    how = "Early stopping looked at validation alone; the test images chose nothing. No TTA."
    chapters = [
        Chapter("In words", [PAPER, *(p.sentence for p in report.pairs)]),
        Chapter("After every stage", [how], [("Accuracy in per cent", how, after)]),
        Chapter("LHC-Net against ResNet34v2", [], [("McNemar's exact test, the same images and data seed", "", pairs)]),
        Chapter("Curves", [], [], [("Validation accuracy", "", standalone_curves(report))]),
    ]
    with atomic_directory(out, "standalone.json") as folder:
        write_json(folder / "standalone.json", report.to_dict())
        for name, table in (("standalone", after), ("comparisons", pairs)):
            write_csv(folder / f"{name}.csv", table)
        (folder / "report.html").write_text(page("LHC-Net, stand-alone", chapters), encoding="utf-8")
