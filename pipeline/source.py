"""Where a cluster gets FER2013 from: a URI that its tasks can reach."""

from __future__ import annotations

from lhcnet.data.remote import parse_source, reachable_from_cluster, source_version
from lhcnet.errors import LhcnetError
from lhcnet.weights.address import is_address, parse_address
from pipeline.cluster import CHECKPOINTS, Cluster


def check_source(source: str, cluster: Cluster) -> None:
    """Check that the tasks of a cluster can reach a source.

    Raises:
        LhcnetError: a path of this machine, another scheme, or a URI with a password, which the pipeline would show.
    """
    if problem := reachable_from_cluster(source):
        raise LhcnetError(problem)
    parsed = parse_source(source)
    if parsed.path is None:
        return
    if not parsed.path.is_relative_to(CHECKPOINTS) or ".." in parsed.path.parts:
        raise LhcnetError(
            f"data.source: {parsed.shown}: expected a path on the cluster's volume, file://{CHECKPOINTS}/..."
        )
    if not cluster.checkpoints:
        raise LhcnetError(
            f"data.source: {parsed.shown}: the cluster has no volume; expected `checkpoints` in its settings"
        )


def check_weights(weights: str) -> None:
    """Check an address of start weights. A path is one in the image or on the volume, which this machine cannot see.

    Raises:
        LhcnetError: the address is none, has a password in it, or does not name the digest of the file.
    """
    if is_address(weights):
        parse_address(weights)


def version_of(source: str) -> str:
    """Version of the bytes at a source, a part of the key of Kubeflow's cache.

    Returns:
        The version; "" for a path on the volume without a digest, which this machine cannot read.

    Raises:
        LhcnetError: this machine cannot read the source, and the URI does not name its digest.
    """
    parsed = parse_source(source)
    if parsed.path is not None and not parsed.sha256:
        return ""
    try:
        return source_version(source)
    except LhcnetError as error:
        raise LhcnetError(
            f"{error} (Kubeflow's cache needs the version of the source, which this machine asks for; expected access "
            "to it, or #sha256=<digest> behind the URI)"
        ) from None
