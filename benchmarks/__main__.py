"""All benchmarks, and the page docs/performance.md made of them.

make bench                                   # on an idle machine, about half an hour
.venv/bin/python benchmarks network ideas    # these parts again; the rest of the page stays as last measured
FER2013=data/raw/fer2013.zip make bench      # `prepare` on the real images, not on drawn ones
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import growth
import ideas
import jinja2
import network
import prepare
import profiled
import startup
import typer
from measure import Row, machine

from lhcnet.config import Compute
from lhcnet.runtime import Device, open_device

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "build" / "benchmarks.json"
PAGE = ROOT / "docs" / "performance.md"


def of_network(device: Device) -> dict[str, Any]:
    return {"rows": [astuple(row) for row in network.rows(device)]}


def of_ideas(device: Device) -> dict[str, Any]:
    return {"rows": [found.cells for found in ideas.ideas(device)]}


def of_compile(device: Device) -> dict[str, Any]:
    warm_up, found = ideas.compiled(device)
    return {"rows": [found.cells], "warm_up": f"{warm_up:.0f} s"}


def of_profile(device: Device) -> dict[str, Any]:
    return {"rows": [(name, f"{share:.1f} %") for name, share in profiled.shares(device)]}


def of_growth(device: Device) -> dict[str, Any]:
    tables = [
        (what, [(f"{n:,}", f"{seconds:.3f} s", f"{each:.3g} µs") for n, seconds, each in lines])
        for what, lines in growth.growth(device)
    ]
    return {"tables": tables}


def of_prepare(_: Device) -> dict[str, Any]:
    source = Path(os.environ["FER2013"]) if "FER2013" in os.environ else None
    lines = [(f"{n:,}", f"{a:.2f} s", f"{b:.2f} s") for n, a, b in prepare.growth(source)]
    return {"rows": [astuple(row) for row in prepare.rows(source)], "growth": lines}


def of_memory(device: Device) -> dict[str, Any]:
    return {"rows": [astuple(network.memory_row(device))]}


def of_rows(measure: Callable[[], list[Row]]) -> Callable[[Device], dict[str, Any]]:
    return lambda _: {"rows": [astuple(row) for row in measure()]}


PARTS: dict[str, Callable[[Device], dict[str, Any]]] = {
    "network": of_network,
    "memory": of_memory,
    "ideas": of_ideas,
    "compile": of_compile,
    "profile": of_profile,
    "growth": of_growth,
    "prepare": of_prepare,
    "startup": of_rows(startup.quick),
    "steps": of_rows(startup.overhead),
    "demo": of_rows(startup.pipelines),
}


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=f"Some of {', '.join(PARTS)}; default: all.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    if strangers := sorted(set(parts or ()) - set(PARTS)):
        raise SystemExit(f"no benchmark {', '.join(strangers)}; expected some of {', '.join(PARTS)}")
    where = open_device(Compute.model_validate({"device": device, "precision": precision}))
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for part in parts or PARTS:
        stamp = {"machine": machine("torch", "kfp", "mlflow", "dvc"), "day": f"{datetime.now(UTC):%Y-%m-%d}"}
        figures[part] = PARTS[part](where) | stamp
        for row in figures[part].get("rows", []):
            print(f"| {' | '.join(row)} |", flush=True)
        FIGURES.parent.mkdir(exist_ok=True)
        FIGURES.write_text(json.dumps(figures, indent=1))
    if missing := set(PARTS) - set(figures):
        print(f"{PAGE.name} is left as it is: not measured here yet: {', '.join(sorted(missing))}")
        return
    template = Path(__file__).with_name("performance.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    PAGE.write_text(environment.from_string(template).render(figures), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
