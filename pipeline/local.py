"""Run of the pipeline on this machine, with kfp's local runner: one process for each task, or one container.

kfp prints a lot; it goes to `log.txt` in the folder of the run. The terminal shows the log lines of the steps and a bar
of finished tasks, both read from that folder.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TextIO

from kfp import local
from rich.text import Text
from tqdm import tqdm

from lhcnet.code_version import execution_name
from lhcnet.config import Config, FrozenModel, parse
from lhcnet.data.remote import parse_source
from lhcnet.errors import LhcnetError
from lhcnet.io.files import read_json
from lhcnet.report.terminal import print_report
from lhcnet.steps.task import ERROR_FILE, LOG_FILE, TASK_FOLDER
from lhcnet.tracking.journal import FOLDER_VARIABLE, journal_root
from lhcnet.tracking.target import default_uri
from pipeline.cluster import Local
from pipeline.compile import build_pipeline

POLL_SECONDS = 0.5


class Registered(FrozenModel):
    """What the step `register` writes."""

    name: str
    version: int
    alias: str
    weights: str
    model: str
    gate: str


def run(
    config: Config,
    source: str | None,
    root: Path,
    *,
    standalone: bool = False,
    retries: int = 0,
    image: str = "",
    user: str = "",
) -> Path:
    """Run the pipeline and print its comparison.

    Args:
        config: the configuration.
        source: path or URI of FER2013; None takes `data.source`.
        root: folder of all runs.
        standalone: the stand-alone pipeline instead of sets A, B and C.
        retries: how often a failed task is retried.
        image: image of the tasks, which then run as Docker containers; "" runs them as processes.
        user: user and group id of these containers; by default the caller's user id in group 0.

    Returns:
        The folder of this run below `root`: artifacts, and `log.txt`.

    Raises:
        LhcnetError: there is no source, no Docker engine or image, or a task failed.
    """
    if source == "":
        raise LhcnetError("--source: is empty, expected a path or a URI")
    source = source or config.data.source
    parsed = parse_source(source)
    if parsed.path is not None and not parsed.path.exists():
        raise LhcnetError(f"{parsed.path.absolute()}: does not exist; expected FER2013 as a file, folder or zip")
    if not parsed.scheme:
        source = str(Path(source).absolute())
    stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S-%f")[:-4]
    folder = root.absolute() / stamp
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise LhcnetError(f"{folder}: cannot be made, expected a writable --root: {error.strerror or error}") from None
    runner: local.DockerRunner | local.SubprocessRunner
    if image:
        from pipeline.containers import docker_runner

        runner, cluster = (
            docker_runner(image, parsed.path and parsed.path.absolute(), folder, user),
            Local(retries=retries, image=image),
        )
    else:
        # for the tasks, which run in this environment
        here = {"MLFLOW_TRACKING_URI": default_uri(), FOLDER_VARIABLE: str(journal_root()), TASK_FOLDER: str(folder)}
        os.environ |= here
        runner, cluster = local.SubprocessRunner(use_venv=False), Local(retries=retries)
    local.init(runner=runner, pipeline_root=str(folder), raise_on_error=True)
    execution = f"{execution_name(config)}-{stamp}"
    pipeline = build_pipeline(config, cluster, execution, standalone=standalone)
    with show_progress(folder, count_tasks(config, standalone=standalone)), _captured(folder / "log.txt"):
        try:
            pipeline(source=source)
        except RuntimeError as error:
            raise LhcnetError(f"{_reason(folder, error)} (log: {folder / 'log.txt'})") from None
    print_report(next(folder.glob(f"*/{'compare-standalone' if standalone else 'compare'}/report")))
    for file in folder.glob("*/register/registered"):
        model = parse(Registered, read_json(file), str(file))
        print(f"Registered {model.model} as {model.name} version {model.version}, alias {model.alias}.")
    return folder


def count_tasks(config: Config, *, standalone: bool = False) -> int:
    """Number of tasks that a run executes."""
    if standalone:  # prepare, start weights, compare, finish; three stages of two networks for each seed
        return 4 + 6 * len(config.standalone.seeds)
    sets = len(config.seeds.a) + 2 * len(config.variants) + len(config.seeds.c)  # B inserts in a task of its own
    # prepare, start weights, stages 1-3, best of B, select, control, evaluate, analyse, compare, register, finish
    return sets + 13


def finished_tasks(folder: Path) -> int:
    """Number of tasks that have finished in the run `folder`: kfp writes this file last."""
    return sum(1 for _ in folder.rglob("executor_output.json"))


@contextlib.contextmanager
def show_progress(folder: Path, total: int) -> Iterator[None]:
    """Within the block, show the log lines of the steps and a bar of finished tasks on stderr.

    Args:
        folder: folder of the run.
        total: number of tasks.
    """
    ended = threading.Event()
    (folder / LOG_FILE).touch()
    with (
        (folder / LOG_FILE).open(encoding="utf-8", errors="replace") as log,
        tqdm(total=total, unit="task", mininterval=0) as bar,
    ):

        def watch() -> None:
            last = False
            while not last:
                last = ended.wait(POLL_SECONDS)
                _update(bar, log, finished_tasks(folder))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _update(bar: tqdm, log: TextIO, finished: int) -> None:
    for line in log:
        bar.write(line.rstrip("\n"), file=sys.stderr)
    if finished > bar.n:
        bar.update(finished - bar.n)


def _reason(folder: Path, error: RuntimeError) -> str:
    """The error that ended the last failed task, in one sentence; kfp's own if the task was killed."""
    file = folder / ERROR_FILE
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return lines[-1] if lines else Text.from_ansi(str(error)).plain


@contextlib.contextmanager
def _captured(file: Path) -> Iterator[None]:
    """Write what kfp prints and logs to `file`; restore `print` and the root logger, which its loops leave patched."""
    root = logging.getLogger()
    printer, handlers = builtins.print, root.handlers[:]
    try:
        with file.open("w", encoding="utf-8") as log, contextlib.redirect_stdout(log), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You may be attemping", RuntimeWarning)  # no container: intended
            warnings.filterwarnings("ignore", "Task .* have no effect in the current local runner", UserWarning)
            # of two tasks that run at once, the first to end gives the handlers back that it found, here these
            root.handlers[:] = [logging.StreamHandler(log)]
            yield
    finally:
        builtins.print, root.handlers[:] = printer, handlers
