"""Commands for runs on a Kubeflow cluster: status, wait, logs, terminate, retry, reconcile.

kfp is imported when one of them runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from pipeline.backend import Backend

Host = Annotated[
    str, typer.Option(envvar="KF_PIPELINES_ENDPOINT", show_envvar=True, help="Address of Kubeflow Pipelines.")
]
Namespace = Annotated[
    str | None, typer.Option(envvar="KF_PIPELINES_NAMESPACE", show_envvar=True, help="Your namespace in Kubeflow.")
]
TokenFile = Annotated[
    Path | None, typer.Option(envvar="KF_PIPELINES_SA_TOKEN_PATH", show_envvar=True, help="File with a bearer token.")
]
CaBundle = Annotated[
    Path | None, typer.Option(envvar="KF_PIPELINES_CA_BUNDLE", show_envvar=True, help="Certificates (PEM) to trust.")
]
RunId = Annotated[str, typer.Argument(help="Id of the run, as `submit` prints it.")]


def open_backend(host: str, namespace: str | None, token_file: Path | None, ca_bundle: Path | None) -> Backend:
    """The back end of a command's options; token, cookies and timeout come from environment variables."""
    from pipeline.backend import Backend
    from pipeline.connection import Connection

    return Backend(Connection.from_environment(host, namespace, token_file, ca_bundle))


def status(
    run_id: RunId,
    host: Host,
    namespace: Namespace = None,
    token_file: TokenFile = None,
    ca_bundle: CaBundle = None,
) -> None:
    """Show a run and its tasks.

    With the reason of each task that failed or waits, as far as the back end hands it out.
    """
    from pipeline.submit import run_link
    from pipeline.watch import summary, task_lines

    backend = open_backend(host, namespace, token_file, ca_bundle)
    run = backend.run(run_id)
    typer.echo(summary(run))
    for line in task_lines(backend.tasks(run), backend.events):
        typer.echo(f"  {line}")
    typer.echo(f"Kubeflow: {run_link(backend, run_id)}")
    for plugin, link in run.links.items():
        typer.echo(f"{plugin}: {link}")


def wait(
    run_id: RunId,
    host: Host,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds after which it stops waiting; 0: never.")] = 0.0,
    poll: Annotated[float, typer.Option(min=0, help="Seconds between two requests; 0: ten.")] = 0.0,
    patience: Annotated[float, typer.Option(min=0, help="Seconds that the back end may be away.")] = 600.0,
    namespace: Namespace = None,
    token_file: TokenFile = None,
    ca_bundle: CaBundle = None,
) -> None:
    """Wait for the end of a run.

    Shows its tasks as they change. Exit status: 0 succeeded, 1 failed, 3 terminated, 4 --timeout is over, 5 the back
    end was lost. The run goes on without this command.
    """
    from pipeline.watch import wait_for_run

    backend = open_backend(host, namespace, token_file, ca_bundle)
    raise typer.Exit(wait_for_run(backend, run_id, typer.echo, timeout=timeout, poll=poll, patience=patience))


def logs(
    run_id: RunId,
    task: Annotated[str, typer.Argument(help="Name of the task, or its last part, as `status` shows it.")],
    host: Host,
    namespace: Namespace = None,
    token_file: TokenFile = None,
    ca_bundle: CaBundle = None,
) -> None:
    """Print the log of the newest pod of a task.

    Kubernetes keeps it as long as the pod.
    """
    from pipeline.runs import find_task

    backend = open_backend(host, namespace, token_file, ca_bundle)
    found = find_task(backend.tasks(backend.run(run_id)), task)
    typer.echo(backend.log(run_id, found), nl=False)


def terminate(
    run_id: RunId,
    host: Host,
    seconds: Annotated[float, typer.Option(min=0, help="Seconds to wait for the end of its pods.")] = 120.0,
    namespace: Namespace = None,
    token_file: TokenFile = None,
    ca_bundle: CaBundle = None,
) -> None:
    """Terminate a run and close its record.

    MLFLOW_TRACKING_URI must be the address of MLflow as this machine reaches it.
    """
    from pipeline.record import close_record
    from pipeline.watch import summary, wait_for_end

    backend = open_backend(host, namespace, token_file, ca_bundle)
    if not backend.run(run_id).ended:
        backend.terminate(run_id)
    run = wait_for_end(backend, run_id, seconds)
    typer.echo(summary(run))
    for line in close_record(backend, run):
        typer.echo(line)


def retry(
    run_id: RunId,
    host: Host,
    namespace: Namespace = None,
    token_file: TokenFile = None,
    ca_bundle: CaBundle = None,
) -> None:
    """Run the failed tasks of a run again.

    And those that wait for them; finished tasks are kept.
    """
    backend = open_backend(host, namespace, token_file, ca_bundle)
    run = backend.run(run_id)
    if run.state not in ("FAILED", "CANCELED"):
        raise LhcnetError(f"run {run_id}: is {run.state}; expected one that failed or was terminated")
    backend.retry(run_id)
    typer.echo(f"{run.name} ({run_id}): its failed tasks run again")


def reconcile(
    run_id: RunId,
    host: Host,
    namespace: Namespace = None,
    token_file: TokenFile = None,
    ca_bundle: CaBundle = None,
) -> None:
    """Close the record of a run that has ended.

    With the state that Kubeflow knows, for runs whose own last task could not. MLFLOW_TRACKING_URI must be the address
    of MLflow as this machine reaches it.
    """
    from pipeline.record import close_record

    backend = open_backend(host, namespace, token_file, ca_bundle)
    for line in close_record(backend, backend.run(run_id)):
        typer.echo(line)


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the group `pipeline`."""
    for command in (status, wait, logs, terminate, retry, reconcile):
        app.command()(command)
