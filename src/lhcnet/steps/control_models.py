"""The folder of LHC-NetCs that the step `control` writes and `evaluate` reads."""

from __future__ import annotations

from pathlib import Path

from lhcnet.config import FrozenModel, Name, parse
from lhcnet.errors import LhcnetError
from lhcnet.io.files import read_json
from lhcnet.saved import SavedModel, open_model

CONTROL_STAGE = 5  # LHC-NetC is trained after stage 4
CONTROL_PREFIX = "LHC-NetC/"


class ControlIndex(FrozenModel):
    """`control.json`: names of the folders of the LHC-NetCs."""

    models: tuple[Name, ...]  # a Name cannot lead out of the folder


def open_controlled(folder: Path) -> list[SavedModel]:
    """Open the LHC-NetCs that `control` wrote into `folder`."""
    index = parse(ControlIndex, read_json(folder / "control.json"), str(folder / "control.json"))
    models = [open_model(folder / name) for name in index.models]
    if strangers := [
        model.id for model in models if not (model.info.provenance.set == "control" and model.info.architecture.control)
    ]:
        raise LhcnetError(f"{folder}: expected models of the step control, not {', '.join(strangers)}")
    if len({model.id for model in models}) != len(models):
        raise LhcnetError(f"{folder / 'control.json'}: expected each model once")
    return models
