"""Old runs below a pipeline root: a folder, or a bucket (s3://) if boto3 is installed.

A run is `<root>/<pipeline>/<run>` of a Kubeflow back end, or `<root>/<time>` of a run on this machine. It is ours if
its pipeline has one of our names and an output in it has a file that only our steps write.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lhcnet.data.store import STORE_FOLDER
from lhcnet.errors import LhcnetError
from lhcnet.io.contents import OwnFolder
from lhcnet.saved import MODEL_FOLDER
from lhcnet.steps.outputs import CONTROL_FOLDER, EVALUATION_FOLDER, REPORT_FOLDER, STANDALONE_FOLDER
from lhcnet.tracking.clean import Leftover

_FOLDERS = (MODEL_FOLDER, STORE_FOLDER, CONTROL_FOLDER, EVALUATION_FOLDER, REPORT_FOLDER, STANDALONE_FOLDER)
_MARKERS: dict[str, OwnFolder] = {folder.marker: folder for folder in _FOLDERS}
_PIPELINE = re.compile(r"lhcnet(-standalone)?")
_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOCAL_RUN = re.compile(r"\d{4}-\d{2}-\d{2}-\d{6}-\d{2}")
_MOST_MARKERS = 5  # that are read in one run
_AT_ONCE = 1000  # keys that S3 deletes in one call


def old_runs(root: str, limit: float) -> Iterator[Leftover]:
    """Runs of our pipelines below a pipeline root whose newest file was written before `limit` (seconds since 1970).

    Kubeflow's cache may still name their outputs: a later run that takes a step from the cache would then not find
    them. Let the root be cleaned only of what is older than the cache, or submit with `--no-cache` afterwards.

    Raises:
        LhcnetError: there is no such folder or bucket, or boto3 is not installed.
    """
    if root.startswith("s3://"):
        yield from _runs_in_bucket(root, limit)
        return
    if "://" in root or not Path(root).is_dir():
        raise LhcnetError(f"--pipeline-root {root}: expected a folder or s3://BUCKET/PREFIX")
    for folder in sorted([*Path(root).iterdir(), *Path(root).glob("lhcnet*/*")]):
        if folder.is_symlink() or not folder.is_dir() or not _is_run(folder.parent.name, folder.name):
            continue
        files = [file for file in folder.rglob("*") if file.is_file()]
        if files and max(file.lstat().st_mtime for file in files) < limit and _has_marker(files):
            size = sum(file.lstat().st_size for file in files)
            yield Leftover(f"outputs of the run {folder}", size, partial(shutil.rmtree, folder))


def _is_run(parent: str, name: str) -> bool:
    return bool(_LOCAL_RUN.fullmatch(name) or (_PIPELINE.fullmatch(parent) and _RUN.fullmatch(name)))


def _has_marker(files: list[Path]) -> bool:
    markers = [file for file in files if file.name in _MARKERS and not file.is_symlink()][:_MOST_MARKERS]
    return any(_MARKERS[file.name].json.recognises(file.read_bytes()) for file in markers)


def _runs_in_bucket(root: str, limit: float) -> Iterator[Leftover]:
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
    client = _s3_client()
    runs: dict[str, list[dict[str, Any]]] = {}
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}lhcnet"):
            for entry in page.get("Contents", []):
                pipeline, _, rest = entry["Key"].removeprefix(prefix).partition("/")
                run = rest.partition("/")[0]
                if _PIPELINE.fullmatch(pipeline) and _RUN.fullmatch(run):
                    runs.setdefault(f"{prefix}{pipeline}/{run}/", []).append(entry)
        for run, entries in runs.items():
            keys = [entry["Key"] for entry in entries]
            if max(entry["LastModified"].timestamp() for entry in entries) < limit and _has_key(client, bucket, keys):
                what, size = f"outputs of the run s3://{bucket}/{run}", sum(int(entry["Size"]) for entry in entries)
                yield Leftover(what, size, partial(_delete, client, bucket, keys))
    except Exception as error:  # botocore's, whose classes are not imported here
        raise LhcnetError(f"--pipeline-root {root}: {type(error).__name__}: {error}") from None


def _s3_client() -> Any:
    try:
        import boto3  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise LhcnetError("--pipeline-root s3://: expected boto3 to be installed (`pip install boto3`)") from None
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("MLFLOW_S3_ENDPOINT_URL")
    return boto3.client("s3", endpoint_url=endpoint)


def _has_key(client: Any, bucket: str, keys: list[str]) -> bool:
    markers = [key for key in keys if key.rpartition("/")[2] in _MARKERS][:_MOST_MARKERS]
    return any(
        _MARKERS[key.rpartition("/")[2]].json.recognises(client.get_object(Bucket=bucket, Key=key)["Body"].read())
        for key in markers
    )


def _delete(client: Any, bucket: str, keys: list[str]) -> None:
    for start in range(0, len(keys), _AT_ONCE):
        objects = [{"Key": key} for key in keys[start : start + _AT_ONCE]]
        done = client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        if errors := done.get("Errors"):
            raise LhcnetError(f"s3://{bucket}/{errors[0]['Key']}: is not deleted: {errors[0].get('Message')}")
