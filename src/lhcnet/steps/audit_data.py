"""Audit of a data set, with pictures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lhcnet.config import Data
from lhcnet.data import remote
from lhcnet.data.fer2013 import TEST
from lhcnet.data.reading import Reading
from lhcnet.data.sources import read
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.contents import OwnFolder, OwnJson
from lhcnet.io.files import write_json
from lhcnet.steps.outputs import check_outputs
from lhcnet.tracking.names import data_set_name
from lhcnet.tracking.record import tracked

log = logging.getLogger("lhcnet")

_FILES = frozenset({"audit.json", "audit.html", "near_duplicates.csv"})
AUDIT_FOLDER = OwnFolder("audit.json", OwnJson.having("digest", "near_duplicates_in_train", "shifts"), _FILES)


def audit_data(out: Path, *, data: Data, execution: str | None = None) -> dict[str, Any]:
    """Look for near duplicates, contradicting labels, damaged images and differences between the splits.

    Args:
        out: folder to write: `audit.json` (figures), `audit.html` (with pictures), `near_duplicates.csv` (pairs, by the
            position of the images in canonical order: sorted by split, label and pixels).
        data: where the data are; `exclude` has no effect here.
        execution: name of the pipeline execution in MLflow; None logs nothing.

    Returns:
        The figures.

    Raises:
        LhcnetError: the source cannot be had, is not FER2013 in a known shape, or is damaged; or `out` cannot be
            written.
    """
    import pandas as pd

    from lhcnet.data.inspection import inspect
    from lhcnet.report.data_audit import data_audit_page

    source = remote.parse_source(data.source)
    check_outputs((out, AUDIT_FOLDER), inputs=[source.path], execution=execution)
    version = "" if source.path else remote.source_version(data.source)
    with remote.scratch(data.source) as folder:
        copy = remote.fetch(data.source, version, folder)
        fraction, seed = data.validation_fraction, data.split_seed
        faces = read(copy, validation_fraction=fraction, seed=seed, reading=Reading.of(data))
    found = inspect(faces)
    figures = found.figures()
    known = faces.splits != TEST
    name = data_set_name(faces.images[known], faces.labels[known])
    pairs = {"first": found.pairs.first, "second": found.pairs.second, "correlation": found.pairs.correlation.round(4)}
    with atomic_directory(out, AUDIT_FOLDER) as folder:
        write_json(folder / "audit.json", figures)
        pd.DataFrame(pairs).to_csv(folder / "near_duplicates.csv", index=False)
        (folder / "audit.html").write_text(data_audit_page(found, name), encoding="utf-8")
    with tracked(execution, faces.digest, "audit") as run:
        if run:
            run.metrics(
                {f"data/near_duplicates_{split}": n for split, n in figures["near_duplicates_in_train"].items()}
            )
            run.metrics({f"data/{key}": figures[key] for key in ("groups", "groups_with_several_labels")})
            run.metrics({f"data/{kind}": sum(figures[kind].values()) for kind in ("blank", "damaged")})
            for file in sorted(_FILES):
                run.file(out / file)
    return figures
