"""Where a cluster gets FER2013 from: a URI or a path that its tasks can reach."""

from __future__ import annotations

import importlib
import re
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from lhcnet.errors import LhcnetError
from lhcnet.tracking.target import without_secrets
from pipeline.cluster import CHECKPOINTS, Cluster

SCHEMES = ("s3", "gs", "minio", "https", "http", "dvc+https", "dvc+http", "dvc+ssh")
_DIGEST = re.compile(r"#sha256=([0-9a-f]{64})$")


def check_source(source: str, cluster: Cluster) -> None:
    """Check that the tasks of a cluster can reach a source.

    Raises:
        LhcnetError: a path of this machine, another scheme, or a URI with a password, which the pipeline would show.
    """
    shown = without_secrets(source) if "://" in source else source
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise LhcnetError(f"--source {shown}: is no URI ({error})") from None
    if parts.scheme in SCHEMES and parts.netloc:
        if parts.password or (parts.username and parts.scheme != "dvc+ssh"):
            raise LhcnetError(
                f"--source {shown}: its password would be readable in the pipeline; expected a URI without one, and a "
                "secret of the cluster (`secret`, `secret_keys`)"
            )
        return
    path = PurePosixPath(source.removeprefix("file://"))
    on_volume = path.is_relative_to(CHECKPOINTS) and ".." not in path.parts
    if on_volume and cluster.checkpoints:
        return
    if on_volume:
        raise LhcnetError(f"--source {shown}: the cluster has no volume; expected `checkpoints` in its settings")
    raise LhcnetError(
        f"--source {shown}: a cluster cannot reach it; expected {', '.join(f'{name}://' for name in SCHEMES)}, or a "
        f"path below {CHECKPOINTS} on its volume"
    )


def version_of(source: str) -> str:
    """Version of the bytes at a source, a part of the key of Kubeflow's cache.

    Returns:
        The version; "" for a path on the volume, which this machine cannot read.

    Raises:
        LhcnetError: this machine cannot read the source, and the URI does not name its digest.
    """
    if "://" not in source or source.startswith("file://"):
        return ""
    if given := _DIGEST.search(source):
        return f"sha256:{given[1]}"
    try:
        return str(importlib.import_module("lhcnet.data.remote").source_version(source))
    except LhcnetError as error:
        raise LhcnetError(
            f"{error} (Kubeflow's cache needs the version of the source, which this machine asks for; expected access "
            "to it, or #sha256=<digest> behind the URI)"
        ) from None
