"""Submission to a Kubeflow cluster. Failures that kfp's client does not report are errors here."""

from __future__ import annotations

import kfp
from kfp_server_api import ApiException
from urllib3.exceptions import HTTPError

from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from pipeline.cluster import Cluster
from pipeline.compile import build_pipeline

SOURCES = ("s3://", "gs://", "minio://")


def submit_run(
    config: Config,
    cluster: Cluster,
    source: str,
    *,
    host: str,
    namespace: str | None,
    experiment: str,
    token: str | None,
    standalone: bool = False,
) -> str:
    """Submit a run of the pipeline.

    Args:
        config: the configuration.
        cluster: image, resources and environment of the tasks.
        source: URI of FER2013.
        host: Kubeflow endpoint.
        namespace: namespace of the run; None takes the one of the installation.
        experiment: Kubeflow experiment.
        token: bearer token.
        standalone: the stand-alone pipeline instead of sets A, B and C.

    Returns:
        The id of the run.

    Raises:
        LhcnetError: the cluster cannot import `source`, the tasks would find no MLflow, or `host` does not answer as
            Kubeflow does. (kfp's client takes a login page with status 200 for a success; then there is no id.)
    """
    if not source.startswith(SOURCES):
        raise LhcnetError(f"--source {source}: expected a URI that the cluster can import: {', '.join(SOURCES)}")
    uri = "MLFLOW_TRACKING_URI"
    if not (cluster.tracking_injected or uri in cluster.env or (cluster.secret and uri in cluster.secret_keys)):
        raise LhcnetError(f"cluster: env: {uri} is missing; without it the record would be lost with the tasks' pods")
    try:
        client = kfp.Client(host=host, namespace=namespace or "kubeflow", existing_token=token)
        run = client.create_run_from_pipeline_func(
            build_pipeline(config, cluster, standalone=standalone),
            {"source": source},
            experiment_name=experiment,
            namespace=namespace,
        )
    except (HTTPError, ApiException, OSError) as error:
        line = " ".join(str(error).split())[:300]
        raise LhcnetError(f"submit: {host} did not answer as a Kubeflow Pipelines endpoint: {line}") from None
    if not run.run_id:
        raise LhcnetError(f"submit: {host} answered without a run id; is it a login page? expected a token (--token)")
    return str(run.run_id)
