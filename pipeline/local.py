"""The same pipeline on this machine, through kfp's local runner: no containers, one process a task."""

from __future__ import annotations

import os
from pathlib import Path

from kfp import local

from lhcnet.cli import show
from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from lhcnet.tracking.runs import default_uri, open_client
from pipeline.cluster import LOCAL
from pipeline.graph import build


def run(config: Config, source: Path | None, root: Path) -> Path:
    """Run to the end and show the comparison. Returns the folder of this run below `root`."""
    source = (source or Path(config.data.source)).absolute()
    if not source.exists():
        raise LhcnetError(f"{source}: is not there; expected FER2013 as a file, folder or zip")
    os.environ["MLFLOW_TRACKING_URI"] = default_uri()  # absolute, for the tasks
    open_client()  # a fresh sqlite store must exist before two tasks open it
    root = root.absolute()
    before = set(root.glob("*")) if root.exists() else set()
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    build(config, LOCAL)(source=str(source))
    folder = max(set(root.glob("*")) - before, key=lambda path: path.stat().st_mtime)
    show(next(folder.glob("compare/**/report")))
    return folder
