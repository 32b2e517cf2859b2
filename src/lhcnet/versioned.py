"""JSON files that carry the version of their shape, so that a file of another version is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from lhcnet.config import FrozenModel, parse
from lhcnet.errors import LhcnetError
from lhcnet.io.files import read_json

SCHEMA_VERSION: Literal[1] = 1


class Versioned(FrozenModel):
    """A record that is a file of its own."""

    schema_version: Literal[1] = SCHEMA_VERSION


V = TypeVar("V", bound=Versioned)


def read_versioned(kind: type[V], file: Path) -> V:
    """Read a file that an earlier step wrote.

    Args:
        kind: the record that the file holds.
        file: its path.

    Raises:
        LhcnetError: the file is missing, damaged, or of another schema version.
    """
    values = read_json(file)
    if isinstance(values, dict) and (found := values.get("schema_version")) != SCHEMA_VERSION:
        version = "no schema version" if found is None else f"schema version {found!r}"
        raise LhcnetError(
            f"{file}: has {version}, but this lhcnet reads version {SCHEMA_VERSION}: "
            "run the step that wrote it again (with DVC: dvc repro)"
        )
    return parse(kind, values, str(file))
