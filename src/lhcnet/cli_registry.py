"""Commands for registered models: versions and champions and roll-back."""

from __future__ import annotations

from typing import Annotated

import typer

registry = typer.Typer(help="Registered models in MLflow.", no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="Name of the registered model (setting registry.model).")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program `lhcnet`."""
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
