"""MLflow runs of executions that never happened, with the names of the record; their figures are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from lhcnet.profiles import profile
from lhcnet.tracking.mlflow_runs import KEY, NAME_TAG, PARENT_TAG
from lhcnet.tracking.view import BACKBONE, STANDALONE, show_execution

START = 1_760_000_000_000  # milliseconds: when the first run began
MEANS = {"A": 0.695, "B": 0.705, "C": 0.71, "LHC-NetC": 0.712, "ResNet34v2": 0.69, "LHC-Net": 0.70}
EPOCHS = 5


@dataclass
class DrawnRuns:
    """Draws runs into one experiment; `at` is the time of the next one."""

    client: MlflowClient
    experiment: str
    at: int = START
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def run(
        self,
        key: str,
        name: str,
        *,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        curve: float | None = None,
    ) -> str:
        """Draw one run; `curve`: the validation accuracy at its end."""
        self.at += 60_000
        all_tags = {KEY: key, NAME_TAG: name, **(tags or {})}
        id_ = self.client.create_run(self.experiment, start_time=self.at, tags=all_tags).info.run_id
        points = [Metric(name, value, self.at, 0) for name, value in (metrics or {}).items()]
        for epoch in range(EPOCHS + 1) if curve is not None else ():
            share = 1 - 0.3 * 0.4**epoch
            row = {"epoch/val_accuracy": curve * share, "epoch/val_loss": 2 - share, "epoch/train_loss": 1.9 - share}
            points += [Metric(name, value, self.at + 1000 * epoch, epoch) for name, value in row.items()]
        texts = [Param(name, str(value)) for name, value in (params or {}).items()]
        for start in range(0, max(len(points), len(texts)), 100):
            self.client.log_batch(id_, points[start : start + 100], texts[start : start + 100])
        self.client.set_terminated(id_, "FINISHED", self.at + 50_000)
        return str(id_)

    def training(
        self, execution: str, parent: str, of: str, stage: int, seed: int, variant: str = "none", network: str = ""
    ) -> str:
        """Draw the run of one training of a set."""
        params: dict[str, object] = {"set": of, "stage": stage, "seed": seed, "variant": variant}
        if variant != "none":
            params |= modules(variant)
        params |= {"training.learning_rate": 0.01, "training.batch_size": 64, "training.optimizer": "sgd"}
        val = float(self.random.normal(MEANS.get(network or of, 0.68), 0.005))
        metrics = {"val/accuracy": val, "val/loss": 1 - val, "time/training": 50.0}
        tags = {PARENT_TAG: parent, "status": "trained", "step": f"train/{of}/{seed}/{stage}/{variant}"}
        if of != BACKBONE:
            metrics["test/accuracy"] = val - 0.01 + float(self.random.normal(0, 0.003))
            tags |= {"kept": "yes", "reason": "-"}
        parts = (network or of, f"seed {seed}", variant, f"stage {stage}" if of in (BACKBONE, STANDALONE) else "none")
        name = " ".join(part for part in parts if part != "none")
        return self.run(f"{execution}/{tags['step']}", name, params=params, tags=tags, metrics=metrics, curve=val)

    def execution(self, name: str, *, a: int = 4, b: int = 6, c: int = 4) -> str:
        """Draw an execution with so many models in each set; returns the id of its parent run."""
        parent = self.run(name, name, params={"profile": "cpu", "network.input_size": 48})
        for step in ("prepare", "select", "evaluate", "compare"):
            self.run(f"{name}/{step}", step, tags={PARENT_TAG: parent, "step": step}, metrics={"time/wall": 3.0})
        for stage in (1, 2, 3):
            self.training(name, parent, BACKBONE, stage, 0)
        for seed in range(a):
            self.training(name, parent, "A", 4, seed)
        for number in range(b):
            self.training(name, parent, "B", 4, 0, f"settings{number}")
        for seed in range(1, c + 1):
            self.training(name, parent, "C", 4, seed, "settings0")
        self.training(name, parent, "LHC-NetC", 5, 1, "settings0")
        show_execution(self.client, self.experiment, {"set": "A"}, parent)
        tags = {"chosen": "C/seed-1", "mlflow.note.content": "A mean 0.685\nB and C mean 0.697"}
        summary = {"summary/A_mean": 0.685, "summary/BC_mean": 0.697, "summary/p_value": 0.01, "time/wall": 1000.0}
        points = [Metric(name, value, self.at, 0) for name, value in summary.items()]
        self.client.log_batch(parent, points, [], [RunTag(name, value) for name, value in tags.items()])
        return parent

    def standalone(self, name: str, seeds: int = 2) -> str:
        """Draw an execution of the stand-alone pipeline."""
        parent = self.run(name, name, params={"profile": "cpu"})
        for network, variant in (("ResNet34v2", "none"), ("LHC-Net", "settings0")):
            for seed in range(seeds):
                for stage in (1, 2, 3):
                    self.training(name, parent, STANDALONE, stage, seed, variant, network)
        show_execution(self.client, self.experiment, {"set": STANDALONE}, parent)
        return parent


def modules(variant: str) -> dict[str, Any]:
    """The settings of five modules, drawn from a variant's name, flat."""
    first = next(iter(profile("cpu", {}).variants.values()))
    number = int(variant.removeprefix("settings"))
    flat: dict[str, Any] = {}
    for slot, settings in enumerate(first, 1):
        for setting, value in settings.to_dict().items():
            flat[f"lhc{slot}.{setting}"] = value
        flat[f"lhc{slot}.heads"] = 1 + (3 * number + slot) % 8
        flat[f"lhc{slot}.pool"] = 1 + 2 * (number % 2)
        flat[f"lhc{slot}.kernel"] = 3 + 2 * (number % 3)
    return flat
