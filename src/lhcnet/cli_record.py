"""Commands that look at the runs in MLflow: compare executions, open the user interface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

runs = typer.Typer(help="The runs of executions in MLflow.", no_args_is_help=True, rich_markup_mode=None)


@runs.command()
def compare(
    executions: Annotated[
        list[str] | None, typer.Argument(metavar="EXEC...", help="Names, or their beginnings; default: the newest.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="HTML page to write as well.")] = None,
) -> None:
    """Compare the models of executions, by set.

    As MLflow's own views do: test accuracy of each set, settings of the modules, curves of the best models.
    """
    from lhcnet.io.preflight import output_file
    from lhcnet.tracking.executions import read

    if out is not None:
        output_file(out, None)
    found = read(executions or [])

    from lhcnet.report.runs import means_table, models_table, runs_page
    from lhcnet.report.terminal import print_table

    for name in found.names:
        print_table(models_table(found, name))
    print_table(means_table(found))
    if out is not None:
        from lhcnet.io.atomic import atomic_file

        with atomic_file(out) as file:
            file.write_text(runs_page(found), encoding="utf-8")
        typer.echo(f"The figures: {out}")


@runs.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000) -> None:
    """Open MLflow's user interface on the views of the executions.

    Prints the links. Where MLFLOW_TRACKING_URI names a server, that server has the interface, and nothing is started.
    """
    from lhcnet.tracking.interface import open_interface

    open_interface(port, typer.echo)
