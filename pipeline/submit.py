"""Submission to a cluster, with the client's silent failures made loud."""

from __future__ import annotations

import kfp
from urllib3.exceptions import HTTPError

from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from pipeline.cluster import Cluster
from pipeline.graph import build


def submit_run(
    config: Config, cluster: Cluster, host: str, namespace: str | None, experiment: str, token: str | None
) -> str:
    """Returns the run's id. To the client a login page with status 200 is a success: then there is no id."""
    try:
        client = kfp.Client(host=host, namespace=namespace or "kubeflow", existing_token=token)
        run = client.create_run_from_pipeline_func(
            build(config, cluster), experiment_name=experiment, namespace=namespace
        )
    except (HTTPError, OSError) as error:
        raise LhcnetError(f"submit: {host} did not answer as a Kubeflow Pipelines endpoint: {error}") from None
    if not run.run_id:
        raise LhcnetError(f"submit: {host} answered without a run id; is it a login page? expected a token (--token)")
    return str(run.run_id)
