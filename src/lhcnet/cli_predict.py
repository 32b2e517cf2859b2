"""The command that puts a trained model to use: expressions on pictures of any kind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Annotated, Literal

import typer

from lhcnet.errors import LhcnetError


def add_to(app: typer.Typer) -> None:
    """Add this command to the program `lhcnet`."""
    app.command()(predict)


def predict(
    model: Annotated[str, typer.Argument(help="Model directory, models:/NAME@ALIAS, runs:/ID/PATH, or .onnx file.")],
    inputs: Annotated[
        list[str], typer.Argument(help="Image files, folders, patterns, zips, videos, camera:0, or - for stdin.")
    ],
    format: Annotated[
        Literal["table", "jsonl", "csv"], typer.Option(help="Format of the output: a row a face.")
    ] = "table",
    out: Annotated[Path | None, typer.Option(help="File to write instead of printing.")] = None,
    annotate: Annotated[
        Path | None, typer.Option(help="New folder for pictures and videos with boxes and labels.")
    ] = None,
    faces: Annotated[bool, typer.Option("--faces", help="Find the faces; otherwise a picture is one face.")] = False,
    mean_grey: Annotated[
        float | None, typer.Option(help="Scale crops to this mean grey value; FER2013's is 129.")
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average over the views of test-time augmentation.")] = False,
    abstain_below: Annotated[
        float, typer.Option(min=0, max=1, help="Give no label to faces with a lower probability.")
    ] = 0.0,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Pictures in a batch.")] = 32,
    every: Annotated[int, typer.Option(min=1, help="Of a video, each n-th frame.")] = 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute.")] = "cpu",
) -> None:
    """Predict the expressions on pictures.

    Pictures that cannot be read are reported and left out; the exit status is then 1.
    """
    from tqdm import tqdm

    from lhcnet.prediction.annotate import Annotator
    from lhcnet.prediction.inputs import CAMERA, count_inputs, read_inputs, require_no_input
    from lhcnet.prediction.loading import load
    from lhcnet.prediction.output import Writer, on_validation
    from lhcnet.prediction.stream import Failures, predict_stream, say

    if out is not None:
        require_no_input(out, [model, *inputs])
    finder = None
    if faces:
        from lhcnet.prediction.faces import FaceDetector

        finder = FaceDetector()
    annotator = None if annotate is None else Annotator(annotate, say)
    predictor = load(model, device=device, batch_size=batch_size, finder=finder, mean_grey=mean_grey)
    if abstain_below:
        typer.echo(on_validation(predictor.on_validation(abstain_below, tta=tta)), err=True)
    answered, failures = 0, Failures()
    hidden = not sys.stderr.isatty() or (out is None and sys.stdout.isatty())  # rows on the terminal are progress too
    total = None if hidden else count_inputs(inputs, every)
    with_camera = any(one.startswith(CAMERA) for one in inputs)
    at_once = 1 if with_camera else batch_size  # a frame is answered when it is seen
    with _output(out) as file, annotator or nullcontext(), _ended_by_hand(with_camera):
        writer = Writer(file, format, predictor.classes)
        found = tqdm(
            read_inputs(inputs, every, annotate), total=total, unit="picture", disable=hidden, dynamic_ncols=True
        )
        for predicted in predict_stream(
            predictor, found, failures, batch_size=at_once, tta=tta, abstain_below=abstain_below
        ):
            writer.write(predicted)
            if annotator:
                annotator.write(predicted)
            answered += 1
        if not answered:  # then no file is written
            failures.require_none(answered)
    failures.require_none(answered)


@contextmanager
def _output(out: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that is complete or absent."""
    if out is None:
        if sys.stdout is None:  # closed by the shell
            raise LhcnetError("standard output is closed; expected --out FILE, or an open one")
        yield sys.stdout
        return
    from lhcnet.io.atomic import atomic_file

    with atomic_file(out) as path, path.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def _ended_by_hand(by_hand: bool) -> Iterator[None]:
    """A camera has no last picture: Ctrl-C ends it as the last picture would."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if not by_hand:
            raise
