"""What the steps write, and the check before the work that all of it can be written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lhcnet.config import Checkpoints
from lhcnet.errors import LhcnetError
from lhcnet.io.contents import OwnFolder, OwnJson
from lhcnet.io.preflight import output_directory, output_file, require_separate, shared_folder
from lhcnet.saved import MODEL_FOLDER
from lhcnet.tracking.journal import journal_root
from lhcnet.tracking.writer_process import wait_limit

DATA_REPORT = OwnJson.having("digest", "images", "counts")
SELECTION = OwnJson.having("loss_factor", "backbone", "entries", "chosen")
REGISTERED = OwnJson.having("name", "version", "alias", "weights")

CONTROL_FOLDER = OwnFolder("control.json", OwnJson.having("models"), frozenset({"control.json"}), folders=MODEL_FOLDER)
EVALUATION_FOLDER = OwnFolder(
    "evaluation.json",
    OwnJson.having("schema_version", "chosen", "models"),
    frozenset({"evaluation.json", "predictions.npz", "confusion.csv"}),
)
_TABLES = (
    *("best", "spread", "models", "table7", "table_a2", "differences", "control", "classes", "calibration"),
    *("temperature", "selective", "tta", "views", "single_views"),
)
_ANALYSES = ("needed", "modules", "heads", "kept_heads", "correlation", "scaling", "parameters", "appendix_b")
REPORT_FOLDER = OwnFolder(
    "summary.json",
    OwnJson.having("schema_version", "chosen", "best_on_validation"),
    frozenset(
        {
            "summary.json",
            "statistics.json",
            "report.md",
            "report.html",
            *(f"{name}.csv" for name in _TABLES),
            *(f"analysis_{name}.csv" for name in _ANALYSES),
        }
    ),
)
STANDALONE_FOLDER = OwnFolder(
    "standalone.json",
    OwnJson.having("schema_version", "data", "models", "pairs"),
    frozenset({"standalone.json", "standalone.csv", "comparisons.csv", "report.html"}),
)

_JOURNAL_ROOM, _CHECKPOINT_ROOM = 1 << 20, 1 << 20  # bytes


def check_outputs(
    *outputs: tuple[Path, OwnFolder | OwnJson],
    inputs: Iterable[Path | None] = (),
    execution: str | None = None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Prove before the work that every output, the journal and the checkpoints can be written.

    Args:
        outputs: paths that the step writes, and what it may replace there.
        inputs: what the step reads; an output that replaced one, or lay in one, would damage it.
        execution: None: there is no journal.
        checkpoints: None: there are none.

    Raises:
        LhcnetError: one of them cannot be written or must not be replaced.
    """
    require_separate(*(path for path, _ in outputs), inputs=[path for path in inputs if path is not None])
    for path, own in outputs:
        if isinstance(own, OwnFolder):
            output_directory(path, own)
        else:
            output_file(path, own)
    shared = {}
    if execution is not None:
        wait_limit()  # a mistyped one is said before the work
        shared["journal"] = journal_root()
    if checkpoints is not None:
        shared["checkpoints"] = checkpoints.directory
    for name, folder in shared.items():
        shared_folder(folder, _JOURNAL_ROOM if name == "journal" else _CHECKPOINT_ROOM)
        inside = Path(os.path.realpath(folder))
        for path, _ in outputs:
            if inside.is_relative_to(os.path.realpath(path)):
                raise LhcnetError(f"{path} would contain the {name} in {folder}; expected two separate folders")
