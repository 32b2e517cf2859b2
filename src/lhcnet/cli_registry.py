"""Commands for registered models: versions and champions, roll-back, lineage."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Annotated

import typer

from lhcnet.errors import LhcnetError

registry = typer.Typer(help="Registered models in MLflow.", no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="Name of the registered model (setting registry.model).")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program `lhcnet`."""
    app.command()(lineage)
    app.add_typer(registry, name="registry")


@registry.command("show")
def show(name: Name) -> None:
    """List versions, aliases, and why each became champion or not."""
    from lhcnet.tracking.champions import show

    for version in show(name):
        aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
        typer.echo(f"version {version.number}{aliases}: {version.model}")
        if version.since:
            withdrawn = f", rolled back {version.rolled_back[:16]}" if version.rolled_back else ""
            typer.echo(f"  champion since {version.since[:16]}{withdrawn}")
        typer.echo(f"  {version.gate or 'registered without a decision'}")


@registry.command("rollback")
def rollback(
    name: Name,
    to: Annotated[int | None, typer.Option(min=1, help="A version that was champion; default: the one before.")] = None,
) -> None:
    """Make a former champion the champion again.

    Registering the withdrawn version again does not bring it back; `--to` does.
    """
    from lhcnet.tracking.champions import roll_back

    before, now = roll_back(name, to)
    typer.echo(f"{name}: version {now} is champion; before: version {before or 'none'}")


def lineage(
    model: Annotated[str, typer.Argument(help="[models:/]NAME, NAME@ALIAS, NAME/VERSION, or a model directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where a model comes from, and verify it.

    From the registered version to weights, training, execution, Kubeflow run, image, data and Git commit. Exit status 1
    if a link is broken. The Kubeflow run is asked for if KF_PIPELINES_ENDPOINT is set.
    """
    from lhcnet.tracking.lineage import BROKEN, lineage

    links = lineage(model, _kubeflow_state if os.environ.get("KF_PIPELINES_ENDPOINT") else None)
    if as_json:
        typer.echo(json.dumps({"model": model, "links": [asdict(link) for link in links]}, indent=2))
    else:
        for link in links:
            why = f" ({link.why})" if link.why else ""
            typer.echo(f"{link.name:<13} {link.found or '-'}\n{'':<13} {link.state}{why}")
    if broken := [link.name for link in links if link.state == BROKEN]:
        raise LhcnetError(f"{model}: its lineage is broken at: {', '.join(broken)}")


def _kubeflow_state(run_id: str) -> str:
    """State of a run, as the back end knows it."""
    from pathlib import Path

    from lhcnet.cli_runs import open_backend

    def path(name: str) -> Path | None:
        return Path(os.environ[name]) if os.environ.get(name) else None

    host, namespace = os.environ["KF_PIPELINES_ENDPOINT"], os.environ.get("KF_PIPELINES_NAMESPACE")
    backend = open_backend(host, namespace, path("KF_PIPELINES_SA_TOKEN_PATH"), path("KF_PIPELINES_CA_BUNDLE"))
    return str(backend.run(run_id).state)
