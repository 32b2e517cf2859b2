"""The command that explains a model's answers on pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def add_to(app: typer.Typer) -> None:
    """Add this command to the program `lhcnet`."""
    app.command()(explain)


def explain(
    model: Annotated[str, typer.Argument(help="Model directory, models:/NAME@ALIAS, or runs:/ID/PATH.")],
    inputs: Annotated[list[str], typer.Argument(help="Image files, folders, patterns, zips, or - for stdin.")],
    out: Annotated[Path, typer.Option(help="New folder: of each face a PNG with the maps, and their values in .npz.")],
    method: Annotated[
        Literal["cam", "occlusion", "attention", "all"],
        typer.Option(help="all leaves attention out where a network has no LHC modules."),
    ] = "all",
    label: Annotated[str | None, typer.Option(help="The class to explain; default: the most probable one.")] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute.")] = "cpu",
) -> None:
    """Show which regions of a picture matter.

    Pictures that cannot be read are reported and left out; the exit status is then 1.
    """
    from lhcnet.explain import available, require_class
    from lhcnet.explain.files import ExplanationFolder
    from lhcnet.prediction.inputs import read_inputs
    from lhcnet.prediction.loading import load
    from lhcnet.prediction.stream import Failures, predict_stream

    predictor = load(model, device=device)
    if label is not None:
        require_class(predictor, label)
    methods = available(predictor)
    folder = ExplanationFolder(out, predictor, methods if method == "all" else (method,), label)
    answered, failures = 0, Failures()
    for predicted in predict_stream(predictor, read_inputs(inputs, skip=out), failures, batch_size=1):
        for line in folder.write(predicted):
            typer.echo(line)
        answered += 1
    failures.require_none(answered)
