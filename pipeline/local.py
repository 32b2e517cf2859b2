"""The same pipeline on this machine, through kfp's local runner: no containers, one process a task."""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import logging
import os
import re
import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from kfp import local
from tqdm import tqdm

from lhcnet.code_version import execution_name
from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from lhcnet.report.terminal import print_report
from lhcnet.tracking.journal import FOLDER_VARIABLE, journal_root
from lhcnet.tracking.target import default_uri
from pipeline.cluster import Local
from pipeline.graph import build
from pipeline.standalone import build_standalone

EXECUTOR = re.compile(
    r"\s*\[KFP Executor [^]]*INFO\]: (?!Looking for|Loading KFP|Got executor_input|Wrote executor)(.*)"
)
STARTED = re.compile(r"Executing task \S*?'([\w-]+)'")
ERROR = re.compile(r"lhcnet\.errors\.LhcnetError: (.*)")


class Screen(io.TextIOBase):
    """Stands in for stdout while kfp runs: everything goes to the log, what the steps say goes above a bar of tasks."""

    def __init__(self, log: io.TextIOBase, bar: tqdm) -> None:
        self._log, self._bar = log, bar
        self._lock, self._lines = threading.Lock(), defaultdict[int, str](str)
        self._terminal = sys.stdout
        self.error = ""

    def write(self, text: str) -> int:
        thread = threading.get_ident()  # two tasks of a loop speak at once
        *lines, self._lines[thread] = (self._lines[thread] + text).split("\n")
        with self._lock:
            for line in lines:
                self._log.write(f"{line}\n")
                self._show(line)
        return len(text)

    def _show(self, line: str) -> None:
        if found := EXECUTOR.match(line):
            self._bar.write(f"  {found[1]}", file=self._terminal)
        elif found := STARTED.search(line):
            # the one before is done; but one that failed may start again
            self._bar.update(self._bar.postfix is not None and self._bar.n + 1 < self._bar.total)
            self._bar.set_postfix_str(found[1])
        elif found := ERROR.search(line):
            self.error = found[1]


def count_tasks(config: Config, *, standalone: bool = False) -> int:
    if standalone:  # importer, prepare, compare; three stages of two networks a seed
        return 3 + 6 * len(config.standalone.seeds)
    sets = len(config.seeds.a) + 2 * len(config.variants) + 2 * len(config.seeds.c)  # B and C insert first
    return sets + 12  # importer, prepare, stages 1-3, best of B, select, control, evaluate, analyse, compare, register


@contextlib.contextmanager
def _left_as_found() -> Iterator[None]:
    """kfp's loops leave `print` and the root logger's handlers patched."""
    printer, handlers = builtins.print, logging.getLogger().handlers[:]
    try:
        yield
    finally:
        builtins.print, logging.getLogger().handlers[:] = printer, handlers


def run(config: Config, source: Path | None, root: Path, *, standalone: bool = False, retries: int = 0) -> Path:
    """Run to the end and show the comparison. Returns the folder of this run below `root`; its log lies in it.

    A task that fails is tried `retries` times again.
    """
    source = (source or Path(config.data.source)).absolute()
    if not source.exists():
        raise LhcnetError(f"{source}: is not there; expected FER2013 as a file, folder or zip")
    os.environ["MLFLOW_TRACKING_URI"] = default_uri()  # absolute, for the tasks
    os.environ[FOLDER_VARIABLE] = str(journal_root())
    stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S-%f")[:-4]
    root = root.absolute() / stamp
    root.mkdir(parents=True)
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)

    with (
        (root / "log.txt").open("w") as log,
        tqdm(total=count_tasks(config, standalone=standalone), unit="task", mininterval=0) as bar,
    ):
        screen = Screen(log, bar)
        with contextlib.redirect_stdout(screen), warnings.catch_warnings(), _left_as_found():
            warnings.filterwarnings("ignore", "You may be attemping", RuntimeWarning)  # on purpose: no container here
            try:
                graph = build_standalone if standalone else build
                graph(config, Local(retries=retries), f"{execution_name(config)}-{stamp}")(source=str(source))
            except RuntimeError as error:
                raise LhcnetError(f"{screen.error or error} (log: {root / 'log.txt'})") from None
        bar.update(bar.total - bar.n)
    if standalone:
        print_report(next(root.glob("*/compare-standalone/report")))
        return root
    print_report(next(root.glob("*/compare/report")))
    registered = json.loads(next(root.glob("*/register/registered")).read_text())
    print(f"Registered {registered['model']} as {registered['name']} version {registered['version']}, alias champion.")
    return root
