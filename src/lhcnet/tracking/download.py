"""Models out of MLflow: registered versions and models of runs, as model directories."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lhcnet.errors import LhcnetError
from lhcnet.saved import MARKER, SavedModel, open_model
from lhcnet.tracking.champions import open_registry
from lhcnet.tracking.store import mlflow_errors
from lhcnet.tracking.target import default_uri

_NAME = re.compile(r"models:/[^/@]+(@[^/@]+|/[0-9]+|/latest)|runs:/[^/]+/.+")


@contextmanager
def downloaded(uri: str) -> Iterator[SavedModel]:
    """A model from MLflow, in a temporary folder that is removed at the end.

    Args:
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/ID/PATH`, in the store of MLFLOW_TRACKING_URI.

    Raises:
        LhcnetError: there is no such model, it is none of this project, or MLflow does not answer.
    """
    if not _NAME.fullmatch(uri):
        raise LhcnetError(f"{uri}: expected models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/PATH")
    store = default_uri()
    with TemporaryDirectory(prefix="lhcnet-") as folder:
        with mlflow_errors(store):
            open_registry()
            from mlflow.artifacts import download_artifacts

            got = Path(download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=store, registry_uri=store))
        found = sorted(got.rglob(MARKER)) if got.is_dir() else []
        if len(found) != 1:
            raise LhcnetError(f"{uri}: has {len(found)} files {MARKER}, expected one model of lhcnet")
        yield open_model(found[0].parent)
