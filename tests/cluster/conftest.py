"""The back end that the tests in this folder run on. README.md says what it must have; without it they are skipped."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.real_cluster import RealCluster, upload

from pipeline.cluster import load_cluster

TRACKING = os.environ.get("LHCNET_CLUSTER_MLFLOW", "")  # read before another fixture can change the environment
NEEDED = {
    "KF_PIPELINES_ENDPOINT": "address of Kubeflow Pipelines",
    "LHCNET_CLUSTER": "file with cluster settings that work there",
    "LHCNET_CLUSTER_MLFLOW": "address of its MLflow as this machine reaches it",
    "LHCNET_CLUSTER_BUCKET": "bucket on its store, other than the pipeline root's",
}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """The back end. Runs that a test left are terminated at the end."""
    if missing := [f"{name} ({what})" for name, what in NEEDED.items() if not os.environ.get(name)]:
        pytest.skip(f"NOT TESTED ON A REAL BACK END: expected {', '.join(missing)}; see tests/cluster/README.md")
    settings = Path(os.environ["LHCNET_CLUSTER"]).absolute()
    assert load_cluster(settings).checkpoints, f"{settings}: checkpoints: expected a volume claim"
    folder = tmp_path_factory.mktemp("cluster")
    source = upload(folder, f"faces-{random.randrange(10**9)}.zip", 2000, seed=0)  # new for Kubeflow's cache
    found = RealCluster(
        host=os.environ["KF_PIPELINES_ENDPOINT"],
        settings=settings,
        tracking=TRACKING,
        source=source,
        folder=folder,
        namespace=os.environ.get("LHCNET_CLUSTER_NAMESPACE", "kubeflow"),
    )
    yield found
    for run_id in found.started:
        if not found.backend.run(run_id).ended:
            found.end(run_id)


@pytest.fixture(scope="session")
def with_pods(cluster: RealCluster) -> RealCluster:
    """The back end, where kubectl reaches its pods."""
    try:
        cluster.kubectl("get", "pods", "--output", "name")
    except (OSError, AssertionError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"NOT TESTED ON A REAL BACK END: expected kubectl that reaches its pods: {error}")
    return cluster


@pytest.fixture(scope="session")
def demo(cluster: RealCluster) -> str:
    """Id of a run of the whole demo that has ended, as a random user. Its source is new, so nothing is in the cache."""
    user = random.randint(1_000_000_000, 1_000_999_999)
    settings = cluster.cluster_file(run_as_user=user, run_as_group=0)
    run_id = cluster.submit(settings=settings)  # with --no-cache, nothing would enter the cache
    waited = cluster.lhcnet("wait", run_id)
    assert waited.returncode == 0, waited.stdout
    return run_id
