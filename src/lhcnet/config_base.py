"""Base of all settings and records, and the types that several sections of `params.yaml` share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from lhcnet.estimate import LARGEST
from lhcnet.validation import whole

Count = Annotated[int, BeforeValidator(whole), Field(ge=1, lt=LARGEST)]
Needed = Annotated[int, BeforeValidator(whole), Field(ge=0, lt=LARGEST)]
Depth = Annotated[int, BeforeValidator(whole), Field(ge=1, le=1000)]
Window = Annotated[int, BeforeValidator(whole), Field(ge=1, le=1024)]  # pixels; no map is larger
Seed = Annotated[int, BeforeValidator(whole), Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]  # no dots: DVC reads them as nested keys
Fraction = Annotated[float, Field(ge=0, lt=1)]
InputSize = Annotated[int, BeforeValidator(whole), Field(ge=32, le=1024)]
Exclusion = Literal["leaks", "blanks"]  # from training: lhcnet.data.exclusion


class FrozenModel(BaseModel):
    """Base of settings and records: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """The values as plain JSON types, for files and other processes; `parse` is the inverse."""
        return self.model_dump(mode="json")
