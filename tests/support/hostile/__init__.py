"""Hostile inputs for every reader, and what it may answer: the right value, or one LhcnetError that names the file.

An input is a short string of bytes, the decisions (`Choices`) by which a valid input is spoilt. The same bytes spoil it
in the same way everywhere, random bytes spoil it at random, and a fuzzer guided by coverage can learn which bytes lead
to new lines of code. `benchmarks/fuzz.py` runs them by the thousand, under limits of memory and time.

`choices` has what all of them need, every other module the inputs of a few readers and the checks of their answers.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from support.hostile.choices import Choices, demand
from support.hostile.images import archive, image_folder, zeros
from support.hostile.models import model, prediction
from support.hostile.params import settings
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
}
"""Each makes an input below folder/in, has it read and checks the answer: True if accepted; raises for a violation."""


def load(target: str, folder: Path) -> None:
    """Run what is not spoilt: the libraries that it loads take memory, which is none of the next input's."""
    for name in ("in", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    zeros()  # takes seconds, which are none of the next input's either
    demand(TARGETS[target](Choices(b""), folder), "refused what is right")


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
    # what makes the inputs warns too: zipfile of a name that stands twice, numpy of casts
    warned = [w for w in warned if "hostile" not in w.filename and "Duplicate name" not in str(w.message)]
    demand(not warned, f"warned: {warned[0].message if warned else ''}")
    sys.stderr.flush()
    demand(os.fstat(2).st_size == printed, "printed something")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
    demand(grown < MEMORY, f"took {grown >> 20} MB")
    demand(sorted(path.name for path in folder.iterdir()) == ["in", "out"], "wrote elsewhere, or ran code of the input")
    demand(target == "prepare" or not any((folder / "out").iterdir()), "wrote something")
    return accepted
