"""Preparation of the data: raw FER2013 to the two stores."""

from __future__ import annotations

import logging
from pathlib import Path

from lhcnet.config import Data
from lhcnet.data import remote
from lhcnet.data.audit import DataReport, audit
from lhcnet.data.fer2013 import TEST
from lhcnet.data.reading import Reading
from lhcnet.data.sources import read
from lhcnet.data.store import STORE_FOLDER, write_stores
from lhcnet.io.atomic import atomic_file
from lhcnet.io.files import write_json
from lhcnet.steps.outputs import DATA_REPORT, check_outputs
from lhcnet.tracking.names import data_set_name
from lhcnet.tracking.record import tracked
from lhcnet.tracking.source import DVC_REVISION

log = logging.getLogger("lhcnet")


def prepare(
    trainval: Path,
    test: Path,
    report: Path,
    *,
    data: Data,
    source: str = "",
    source_version: str = "",
    execution: str | None = None,
) -> DataReport:
    """Read FER2013 and write the stores of its splits.

    Args:
        trainval: store to write, with the splits train and validation.
        test: store to write, with the sealed split test.
        report: data report to write (JSON): counts, duplicates, damaged images.
        data: where FER2013 is, and how to split a copy without the official splits.
        source: FER2013 in another place than `data.source`: a path, or a URI of `lhcnet.data.remote`.
        source_version: version that it must have, as `remote.source_version` gives it; "" takes what is there.
        execution: name of the pipeline execution in MLflow; None logs nothing.

    Returns:
        The data report.

    Raises:
        LhcnetError: the source cannot be had, is another version, is not FER2013 in a known shape, or is damaged; or
            an output cannot be written.
    """
    outputs = ((trainval, STORE_FOLDER), (test, STORE_FOLDER), (report, DATA_REPORT))
    source = source or data.source
    local = remote.parse_source(source).path
    check_outputs(*outputs, inputs=[local], execution=execution)
    if local is None:  # the record shall name what was read
        source_version = source_version or remote.source_version(source)
    with remote.scratch(source) as folder:
        copy = remote.fetch(source, source_version, folder)
        fraction, seed = data.validation_fraction, data.split_seed
        faces = read(copy, validation_fraction=fraction, seed=seed, reading=Reading.of(data))
    origin = remote.source_record(source, source_version)
    known = faces.splits != TEST
    name, excluded = data_set_name(faces.images[known], faces.labels[known]), dict[str, int]()
    if data.exclude:
        from lhcnet.data.exclusion import without

        faces, excluded = without(faces, data.exclude)
        name = f"{name} without {' and '.join(data.exclude)}"
    findings = audit(faces).model_copy(update={"excluded": excluded})
    write_stores(faces, trainval, test, name if excluded else "")
    digest = findings.digest
    with atomic_file(report, DATA_REPORT) as file:
        write_json(file, findings.to_dict())
    log.info("%s: %s, %d images, digest %s", origin["source"], faces.shape, len(faces.labels), digest[:12])
    with tracked(execution, digest, "prepare") as run:
        if run:
            for recorded in (run, run.parent()):
                recorded.params({"data": data.to_dict() | origin})
                recorded.tags({DVC_REVISION: origin["dvc_rev"]} if "dvc_rev" in origin else {})
            run.metrics({f"images/{name}": sum(counts.values()) for name, counts in findings.counts.items()})
            run.metrics({f"images/excluded_{kind}": number for kind, number in excluded.items()})
            run.dataset(name, digest, str(local.absolute()) if local else origin["source"], "training")
            run.file(report)
    return findings
