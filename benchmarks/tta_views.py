"""Gain of each view of test-time augmentation on validation, and what in a view costs accuracy.

python benchmarks/tta_views.py artifacts/chosen artifacts/trainval --images 1000
python benchmarks/tta_views.py artifacts/chosen artifacts/trainval --sweep    # without the paper's 60 views
python benchmarks/tta_views.py longer/cpu/0/model longer/data/trainval --out docs/results/views_48.csv

First, each kind of view in growing amounts. At an input of 48 px bilinear resampling blurs the finest structure of an
image: `half a pixel` moves it by 0.5 px in both directions, the most that interpolation can blur with hardly any
motion, while `2 px` moves it without interpolation. Where half a pixel costs as much as a view, blur is the cause;
where the cost grows with the angle, the network did not learn such angles. Then the paper's views, each alone, and by
family as `evaluation.views: helpful` adds them. No test image is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from measure import machine
from numpy.typing import NDArray

from lhcnet.config import Compute
from lhcnet.data.store import open_store
from lhcnet.inference.predict import predict_each
from lhcnet.inference.tta import REFERENCE_SIZE, View, tta_views
from lhcnet.protocol.confidence import fit_temperature, nll
from lhcnet.protocol.view_choice import ViewScore, choose_views, mean_over_views
from lhcnet.report.formatting import frame, markdown, percent, write_csv
from lhcnet.runtime import open_device
from lhcnet.saved import open_model


def sweep(size: int) -> dict[str, View]:
    """Single views of one kind each, for inputs of this side in pixels."""

    def pixels(n: float) -> float:
        return n * REFERENCE_SIZE / size

    views = {"image itself": View(), "flip": View(flip=True)}
    views |= {f"{n:g} px right": View(shift_h=pixels(n)) for n in (1, 2, 4)}
    views["half a pixel (blur alone)"] = View(shift_h=pixels(0.5), shift_v=pixels(0.5))
    views["shift of the paper"] = View(shift_h=10, shift_v=10)
    views |= {f"rotation {angle:g} rad": View(rotation=angle) for angle in (0.05, 0.1, 0.15, 0.25, 0.4)}
    return views | {f"zoom {zoom:g}": View(zoom=zoom) for zoom in (0.95, 0.9, 0.8)}


def scores(
    names: Iterable[str], stack: NDArray[np.float32], labels: NDArray[np.uint8]
) -> list[tuple[str, float, float, float]]:
    """Name, accuracy, NLL after temperature scaling; and accuracy of the mean with the image itself, the first view."""
    rows = []
    for name, p in zip(names, stack, strict=True):
        both = mean_over_views(np.stack([stack[0], p]), [1, 1])
        found = nll(p, labels, fit_temperature(p, labels))
        rows.append((name, float((p.argmax(1) == labels).mean()), found, float((both.argmax(1) == labels).mean())))
    return rows


def show(score: ViewScore, plain: ViewScore) -> None:
    gain = 100 * (score.accuracy - plain.accuracy)
    print(
        f"{score.name:36} {score.views:3} views  accuracy {100 * score.accuracy:6.2f} % ({gain:+.2f})  "
        f"NLL {score.nll:.4f} ({score.nll - plain.nll:+.4f})"
    )


def main(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    trainval: Annotated[Path, typer.Argument(help="Store with the split validation.")],
    images: Annotated[int, typer.Option(help="Of validation, drawn; 0: all.")] = 0,
    rotation: Annotated[float, typer.Option(help="Of the zoomed views, in radians.")] = 0.15,
    out: Annotated[Path | None, typer.Option(help="CSV file to write: the kinds of views in growing amounts.")] = None,
    only_sweep: Annotated[bool, typer.Option("--sweep", help="Without the paper's 60 views.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Print the gains on validation."""
    saved, opened = open_model(model), open_device(Compute(device="cuda" if device == "cuda" else "cpu"))
    network, size = saved.network(), saved.info.architecture.input_size
    opened.move(network)
    pixels, labels = open_store(trainval).split("validation")
    if images and images < len(labels):
        rows = np.sort(np.random.default_rng(0).permutation(len(labels))[:images])  # the store is sorted by class
        pixels, labels = pixels[rows], labels[rows]
    print(
        f"{machine('torch')}\n{saved.id}, {size} px, {len(labels):,} validation images; points are gains over plain\n"
    )
    named = sweep(size)
    stack = predict_each(network, pixels, list(named.values()), input_size=size, device=opened)
    found = scores(named, stack, labels)
    plain = found[0]
    table = frame(
        [
            {
                "view": name,
                "val_accuracy": accuracy,
                "gain": accuracy - plain[1],
                "nll_gain": loss - plain[2],
                "mean of image and view %": percent(both),
            }
            for name, accuracy, loss, both in found
        ]
    )
    print(markdown(table))
    if out:
        write_csv(out, table)
    if only_sweep:
        return
    views = tta_views(rotation)
    stack = predict_each(network, pixels, views, input_size=size, device=opened)
    choice, _ = choose_views(stack, views, labels)
    print("\nEach of the paper's views alone")
    for score in choice.single:
        show(score, choice.tried[0])
    print("\nMeans, as the selection looked at them")
    for score in (*choice.tried, choice.paper):
        show(score, choice.tried[0])
    print(f"\nkept: {' + '.join(choice.families) or 'no family, the image alone'}")


if __name__ == "__main__":
    typer.run(main)
