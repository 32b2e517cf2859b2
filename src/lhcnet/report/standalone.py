"""Tables and report of the stand-alone pipeline: LHC-Net and ResNet34v2 after every stage (section 4.2)."""

from __future__ import annotations

from pathlib import Path

from lhcnet.config import PLAIN
from lhcnet.protocol.standalone import StagePair, StandaloneReport
from lhcnet.report.formatting import Table, frame, score_columns, write_csv
from lhcnet.report.page import Chapter, Drawing, page
from lhcnet.report.plots import standalone_curves
from lhcnet.report.wording import sentence

PAPER = (
    "The paper trained both networks with the same data seeds. LHC-Net was better than ResNet34v2 at the end of every "
    "stage; the paper gives no figures."
)


def pair_sentence(pair: StagePair) -> str:
    """The comparison of one stage and seed."""
    return f"Stage {pair.stage}, seed {pair.seed}: {sentence('LHC-Net', 'ResNet34v2', pair.test)}"


def models_table(report: StandaloneReport) -> Table:
    """One row a network and stage."""
    duplicates = any(pair.distinct for pair in report.pairs)
    rows = []
    for model in sorted(report.models, key=lambda model: (*model.stage_and_seed, not model.is_plain)):
        (stage, seed), record = model.stage_and_seed, model.record
        rows.append(
            {
                "stage": stage,
                "seed": seed,
                "network": record.provenance.variant or PLAIN,
                "best_epoch": record.metrics.best_epoch,
                "train_loss": record.metrics.train_loss,
                "val": record.metrics.val_accuracy,
                **score_columns(model.test, "test"),
                **({"test_distinct": model.test_distinct.accuracy} if duplicates else {}),
            }
        )
    note = "Early stopping looked at validation alone; nothing was chosen on test. Without TTA."
    return Table("Accuracy after every stage", note, frame(rows))


def pairs_table(report: StandaloneReport) -> Table:
    """One row a stage and seed."""
    rows = [
        {
            "stage": pair.stage,
            "seed": pair.seed,
            "difference": pair.test.difference,
            "first_alone": pair.test.b,
            "second_alone": pair.test.c,
            "p": pair.test.p,
            "significant": pair.test.significant,
            "difference_distinct": pair.distinct.difference if pair.distinct else None,
            "significant_distinct": pair.distinct.significant if pair.distinct else None,
        }
        for pair in report.pairs
    ]
    note = "LHC-Net minus ResNet34v2 with the same data seed, by McNemar's exact test on the same test images."
    return Table("LHC-Net against ResNet34v2", note, frame(rows).dropna(axis="columns", how="all"))


def write_report(folder: Path, report: StandaloneReport) -> None:
    """Write `report.html` and the tables as CSV files."""
    models, pairs = models_table(report), pairs_table(report)
    chapters = [
        Chapter("Summary", [PAPER, *map(pair_sentence, report.pairs)]),
        Chapter("Models", [], [models], [Drawing("Validation accuracy", "", standalone_curves(report))]),
        Chapter("Comparisons", [], [pairs]),
    ]
    write_csv(folder / "standalone.csv", models.data)
    write_csv(folder / "comparisons.csv", pairs.data)
    (folder / "report.html").write_text(page("LHC-Net, stand-alone", chapters), encoding="utf-8")
