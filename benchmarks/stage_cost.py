"""What the modules of a profile cost in time: steps of stage 4 and passes of inference, without and with each variant.

python benchmarks/stage_cost.py cpu_imagenet --out docs/results/cpu_imagenet/cost.csv
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from measure import machine, medians
from network import noise

from lhcnet.config import Config, module_arguments
from lhcnet.inference.predict import predict
from lhcnet.inference.tta import plain_views
from lhcnet.model_record import Architecture
from lhcnet.models.lhcnet import insert_modules
from lhcnet.profiles import profile, with_native_precision
from lhcnet.runtime import open_device
from lhcnet.training.loop import train_epoch
from lhcnet.training.optimizer import make_optimizer
from lhcnet.training.state import EpochTotals

STEPS = 3
NONE = "without modules"


def main(
    name: Annotated[str, typer.Argument(help="Profile.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write.")] = None,
) -> None:
    """Print the table, and write it."""
    config = profile(name, with_native_precision(name, {}))
    table = measured(config)
    print(f"{name}, {config.network.input_size} px, {config.compute.precision}, {machine('torch', 'timm')}\n")
    print(table.to_string(index=False))
    if out:
        table.to_csv(out, index=False)


def measured(config: Config) -> pd.DataFrame:
    """For the network alone and for each variant: parameters, images per second, and times relative to it alone."""
    device, stage, size = open_device(config.compute), config.stage4, config.network.input_size
    split = noise(STEPS * stage.batch_size)
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels.astype(np.int64))
    steps, passes, parameters = {}, {}, {}
    for name in (NONE, *config.variants):
        network: Any = Architecture.of(config.network).build(0)
        if name != NONE:
            insert_modules(network, module_arguments(config.variant(name).modules), 0)
        device.move(network)
        parameters[name] = sum(p.numel() for p in network.parameters())
        optimizer = make_optimizer(network, stage)

        def step(network: Any = network, optimizer: Any = optimizer) -> None:
            totals = EpochTotals.zero(device.torch)
            settings: dict[str, Any] = {"stage": stage, "seed": "cost", "input_size": size, "device": device}
            train_epoch(network, optimizer, images, labels, totals=totals, title="", **settings)

        def infer(network: Any = network) -> None:
            predict(network, split.images, plain_views(), input_size=size, device=device)

        steps[name], passes[name] = step, infer
    seconds, inference = medians(steps), medians(passes)
    rows = [
        {
            "network": name,
            "parameters": parameters[name],
            "training images/s": round(len(images) / seconds[name]),
            "training: time in per cent": round(100 * seconds[name] / seconds[NONE]),
            "inference images/s": round(len(images) / inference[name]),
            "inference: time in per cent": round(100 * inference[name] / inference[NONE]),
        }
        for name in steps
    ]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    typer.run(main)
