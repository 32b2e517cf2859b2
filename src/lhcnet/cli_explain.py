"""The command that explains a model's answers on pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from lhcnet.errors import LhcnetError


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
    """Show which places of a picture matter.

    Pictures that cannot be read are reported and left out; the exit status is then 1.
    """
    from tqdm import tqdm

    from lhcnet.explain import available
    from lhcnet.explain.files import ExplanationFolder
    from lhcnet.prediction.inputs import read_inputs
    from lhcnet.prediction.loading import load
    from lhcnet.prediction.stream import predict_stream

    predictor = load(model, device=device)
    if label is not None and label not in predictor.classes:
        raise LhcnetError(f"label: expected one of {', '.join(predictor.classes)}, not {label}")
    methods = available(predictor)
    folder = ExplanationFolder(out, predictor, methods if method == "all" else (method,), label)
    answered = failed = 0

    def report(why: str) -> None:
        nonlocal failed
        failed += 1
        tqdm.write(f"lhcnet: {why}", file=sys.stderr)

    for predicted in predict_stream(predictor, read_inputs(inputs), report, batch_size=1):
        for line in folder.write(predicted):
            typer.echo(line)
        answered += 1
    if failed:
        raise LhcnetError(f"{failed:,} of {answered + failed:,} inputs could not be read")
