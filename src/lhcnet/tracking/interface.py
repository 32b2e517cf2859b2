"""MLflow's user interface: started for a store on this machine, or where to look."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from lhcnet.tracking.store import mlflow_errors, open_client
from lhcnet.tracking.target import TrackingTarget, without_secrets
from lhcnet.tracking.view import links


def open_interface(port: int, say: Callable[[str], object]) -> None:
    """Say the links of the views; then start the interface in place of this process, unless a server has it.

    Args:
        port: of the interface on this machine.
        say: called with each line.

    Raises:
        LhcnetError: the store cannot be opened, or the server does not answer.
    """
    target = TrackingTarget.from_environment()
    server = target.uri.startswith(("http://", "https://"))
    base = without_secrets(target.uri).rstrip("/") if server else f"http://127.0.0.1:{port}"
    with mlflow_errors(target.uri):
        client, experiment = open_client(target)
        found = links(base, experiment, client.get_experiment(experiment).tags)
    if server:
        say(f"MLFLOW_TRACKING_URI names a server: its user interface is {base}; nothing was started here")
    for name, link in found.items():
        say(f"{name}: {link}")
    if not found:
        say(f"Runs: {base}/#/experiments/{experiment}/runs (a view of them is made with the first training)")
    if server:
        return
    sys.stdout.flush()
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # seven processes that judge language models
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", target.uri, "--port", str(port)]
    os.execv(sys.executable, command)
