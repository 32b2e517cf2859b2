"""Hostile inputs for every reader. An answer has to be the right value, or one LhcnetError that names the file.

An input is defined by a short string of bytes, the decisions (`Choices`) by which a valid input is damaged. The same
bytes damage it in the same way everywhere, random bytes damage it at random, and a fuzzer guided by coverage can learn
which bytes lead to new code. `benchmarks/campaign.py fuzz` runs thousands of them, with limits on memory and time.

`choices` has the parts that all readers share; each other module has the inputs of a few readers and the checks of
their answers.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from support.hostile.artifacts import artifacts, report_tables
from support.hostile.choices import Choices, demand
from support.hostile.images import archive, image_folder, zeros
from support.hostile.models import model, prediction
from support.hostile.params import settings
from support.hostile.resumed import resumed
from support.hostile.stores import prepared, store
from support.hostile.tables import LINES, columns, competition, of_csv
from support.hostile.weights import checkpoint, keras

MEMORY = 160 << 20  # bytes that one input may add to the peak of the process

TARGETS: Mapping[str, Callable[[Choices, Path], bool]] = {
    "csv": of_csv(LINES),
    "csv-icml": of_csv(
        [LINES[0].replace("emotion,pixels,Usage", "emotion, Usage, pixels"), *columns(LINES[1:], (0, 2, 1))]
    ),
    "competition": competition,
    "zip": archive,
    "folder": image_folder,
    "prepare": prepared,
    "store": store,
    "params": settings,
    "model": model,
    "keras": keras,
    "checkpoint": checkpoint,
    "prediction": prediction,
    "artifacts": artifacts,
    "tables": report_tables,
    "resumed": resumed,
}
"""Each writes an input to folder/in, has it read and checks the answer. True: accepted. It raises for a violation."""


def load(target: str, folder: Path) -> None:
    """Run the undamaged input first: the libraries that it loads take memory, which must not count for later inputs."""
    for name in ("in", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    zeros()  # takes seconds, which must not count either
    demand(TARGETS[target](Choices(b""), folder), "refused a valid input")


def one(target: str, data: bytes, folder: Path) -> bool:
    """Run an input in an emptied folder; whatever it raises is a violation."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("in", "out"):
        (folder / name).mkdir(parents=True)
    printed = os.fstat(2).st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        made = Choices(data)
        accepted = TARGETS[target](made, folder)
    # making the inputs warns too: zipfile of duplicate names, numpy of casts
    warned = [w for w in warned if "hostile" not in w.filename and "Duplicate name" not in str(w.message)]
    demand(not warned, f"warned: {warned[0].message if warned else ''}")
    sys.stderr.flush()
    demand(os.fstat(2).st_size == printed, "printed something")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
    demand(grown < MEMORY, f"took {grown >> 20} MB")
    demand(sorted(path.name for path in folder.iterdir()) == ["in", "out"], "wrote elsewhere, or ran code of the input")
    demand(target == "prepare" or not any((folder / "out").iterdir()), "wrote something")
    return accepted
