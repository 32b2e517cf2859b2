"""What earlier runs left: journals, times, checkpoints, artifacts in MLflow. Found first, removed only on demand.

Only what this project wrote is found, known by its names and its content; what is in use is never found.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lhcnet.errors import LhcnetError
from lhcnet.tracking.folder import ENTRIES, first_entry, pending_journals, running
from lhcnet.tracking.mlflow_runs import KEY
from lhcnet.tracking.store import mlflow_errors, open_client
from lhcnet.tracking.target import default_uri, sqlite_file
from lhcnet.training.checkpoint_lock import in_use

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_UNITS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
_CHECKPOINT = re.compile(r".+-[0-9a-f]{16}(\.[0-9a-f-]{1,8})?\.safetensors(\.damaged(\.[0-9a-f]{8})?)?")
_CHECKPOINT_KEYS = {"identity", "progress", "digest"}
_LARGEST_HEADER = 64 << 20  # bytes
REMOVED = "artifacts_removed"  # tag of a run whose artifacts were removed


@dataclass(frozen=True)
class Leftover:
    """Something that can be removed.

    Attributes:
        what: kind and name.
        size: bytes.
        remove: removes it.
    """

    what: str
    size: int
    remove: Callable[[], object]


def before(age: str) -> float:
    """The time (seconds since 1970) that is `age` ago: a number and h, d or w, for example 30d.

    Raises:
        LhcnetError: it is no such age.
    """
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", age)
    if not match:
        raise LhcnetError(f"--older-than {age}: expected a number and h, d or w, for example 30d")
    return time.time() - int(match[1]) * _UNITS[match[2]]


def old_journals(root: Path, limit: float) -> Iterator[Leftover]:
    """Journals of steps that have ended and that were last written before `limit`; MLflow lacks what is in them."""
    for folder in pending_journals(root):
        with suppress(OSError, LhcnetError):  # removed meanwhile, or damaged: not known to be ours
            begin = first_entry(folder)
            if (folder / ENTRIES).stat().st_mtime < limit and not running(folder):
                what = f"journal of {begin.step} in {begin.execution}, not in MLflow: {folder}"
                yield Leftover(what, _size(folder), partial(shutil.rmtree, folder))


def old_times(root: Path, limit: float) -> Iterator[Leftover]:
    """Wall times of executions beside the journals."""
    for folder in sorted(root.parent.glob("timings/*")):
        with suppress(OSError, ValueError):
            files = sorted(folder.iterdir())
            known = all(json.loads(file.read_bytes()).keys() == {"step", "seconds", "ended"} for file in files)
            if files and known and max(file.stat().st_mtime for file in files) < limit:
                yield Leftover(f"wall times of {folder.name}: {folder}", _size(folder), partial(shutil.rmtree, folder))


def old_checkpoints(folder: Path, limit: float) -> Iterator[Leftover]:
    """Checkpoints last written before `limit` that no training holds."""
    for file in sorted(folder.glob("*.safetensors*")):
        with suppress(OSError, ValueError):
            state = file.lstat()
            ours = (
                _CHECKPOINT.fullmatch(file.name) and file.is_file() and not file.is_symlink() and _is_checkpoint(file)
            )
            if ours and state.st_mtime < limit and not in_use(file):
                yield Leftover(f"checkpoint {file}", state.st_size, partial(_remove_checkpoint, file))


def old_artifacts(limit: float) -> Iterator[Leftover]:
    """Artifacts of runs of ours in MLflow that ended before `limit`; those of a registered version are kept.

    Raises:
        LhcnetError: MLflow does not answer.
    """
    file = sqlite_file(default_uri())
    if file is not None and not file.exists():
        return
    with mlflow_errors(default_uri()):
        import mlflow
        from mlflow.entities import ViewType

        mlflow.set_tracking_uri(default_uri())
        client, experiment = open_client()
        registered = {version.run_id for version in client.search_model_versions()}
        condition, token = f"attributes.end_time < {int(limit * 1000)}", None
        while True:
            page = client.search_runs(
                [experiment], condition, run_view_type=ViewType.ALL, max_results=500, page_token=token
            )
            for run in page:
                ended = run.info.status in ("FINISHED", "FAILED", "KILLED")
                if not ended or KEY not in run.data.tags or run.info.run_id in registered:
                    continue
                if size := _size_of_artifacts(client, run.info.run_id, None):
                    name = f"{run.data.tags[KEY]} ({run.info.run_id}, {run.info.lifecycle_stage})"
                    yield Leftover(f"artifacts in MLflow of {name}", size, partial(_remove_artifacts, client, run))
            if not (token := page.token):
                return


def _size_of_artifacts(client: MlflowClient, run_id: str, path: str | None) -> int:
    infos = client.list_artifacts(run_id, path)
    return sum(
        _size_of_artifacts(client, run_id, info.path) if info.is_dir else int(info.file_size or 0) for info in infos
    )


def _remove_artifacts(client: MlflowClient, run: Run) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with mlflow_errors(default_uri()):
        repository: Any = get_artifact_repository(run.info.artifact_uri)
        for info in client.list_artifacts(run.info.run_id):
            repository.delete_artifacts(info.path)
        if run.info.lifecycle_stage == "active":
            client.set_tag(run.info.run_id, REMOVED, time.strftime("%Y-%m-%d"))


def _is_checkpoint(file: Path) -> bool:
    """Whether the header of a safetensors file is that of a checkpoint."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _LARGEST_HEADER:
            return False
        header = json.loads(opened.read(length))
    return isinstance(header, dict) and header.get("__metadata__", {}).keys() >= _CHECKPOINT_KEYS


def _remove_checkpoint(file: Path) -> None:
    if not in_use(file):  # a training may have begun since it was found
        file.unlink()
        file.with_name(f"{file.name}.lock").unlink(missing_ok=True)


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
