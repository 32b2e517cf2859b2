"""Commands for a trained model outside of its pipeline: a file for other programs, scores on other images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from lhcnet.export.record import ExportRecord


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program `lhcnet`."""
    app.command()(export)
    app.command()(score)


def export(
    model: Annotated[str, typer.Argument(help="Model directory, models:/NAME@ALIAS, or runs:/ID/PATH.")],
    out: Annotated[Path, typer.Option(help="File to write: .onnx, or .pt2 for torch-export.")],
    format: Annotated[Literal["onnx", "int8", "torch-export"], typer.Option(help="int8 is ONNX with 8 bits.")] = "onnx",
    tta: Annotated[bool, typer.Option("--tta", help="The file gives the mean over the model's views.")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="int8: store with the split validation, to measure ranges on.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="int8: store with the split test, to measure its loss on.")] = None,
    images: Annotated[int, typer.Option(min=1, help="int8: number of images of the calibration.")] = 512,
    vnni: Annotated[
        bool, typer.Option("--vnni", help="int8: weights of 8 bits, for x86 processors with VNNI; else 7, for all.")
    ] = False,
) -> None:
    """Export a model to ONNX or torch.export.

    The file takes grey 48x48 images, resizes them itself, and gives logits and probabilities. It is compared with
    PyTorch before it is written.
    """
    from lhcnet.export.export import Quantisation, export_model
    from lhcnet.prediction.loading import opened

    if test and not calibration:
        raise LhcnetError("export: --test belongs to --calibration: float32 files are compared with PyTorch instead")
    quantisation = Quantisation(calibration, test, images, 8 if vnni else 7) if calibration else None
    with opened(model) as saved:
        record = export_model(saved.path, out, format=format, tta=tta, quantisation=quantisation)
    typer.echo(f"{out}: {record.network}, {record.precision}, {out.stat().st_size:,} bytes")
    _show(record)


def score(
    model: Annotated[str, typer.Argument(help="Model directory, models:/NAME@ALIAS, runs:/ID/PATH, or .onnx file.")],
    store: Annotated[Path, typer.Argument(help="Store of any data, or a folder or zip with a folder for each class.")],
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Split of the store.")] = "test",
    tta: Annotated[bool, typer.Option(help="Score it with TTA as well; an exported file is as it is.")] = True,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Where to compute; without it compute.device of the settings.")
    ] = None,
    params: Annotated[Path, typer.Option("--params", help="Settings (YAML).")] = Path("params.yaml"),
) -> None:
    """Score a model on labelled images.

    In all and by class, with 95 % intervals (Wilson). The images need not be of the data of its training. Of class
    folders, `data.classes` says what their names mean, and `data.resize` whether images are resized.
    """
    from lhcnet.config import load
    from lhcnet.report.terminal import print_scores, print_table
    from lhcnet.steps.score_store import score_store

    config = load(params)
    compute = config.compute.model_copy(update={"device": device}) if device else config.compute
    found = score_store(
        model,
        store,
        split=split,
        batch_size=config.evaluation.batch_size,
        compute=compute,
        tta=tta,
        data=config.data,
    )
    print_scores({str(one.views): one for one in found.scores})
    print_table(found.by_class())


def _show(record: ExportRecord) -> None:
    if parity := record.parity:
        typer.echo(f"Largest difference from PyTorch: {parity.largest_difference:.1e} on {parity.n} drawn faces")
    if loss := record.accuracy_loss:
        low, high = (100 * bound for bound in loss.ci95)
        typer.echo(
            f"Accuracy on test: {100 * loss.accuracy:.2f} %, float32 {100 * loss.accuracy_float32:.2f} %: "
            f"{100 * loss.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}, p = {loss.p:.2g}, "
            f"n = {loss.n:,}"
        )
