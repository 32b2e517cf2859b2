"""Base of all settings and records, and the types that several sections of `params.yaml` share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
)

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
Family = Literal["flip", "shift", "rotation", "zoom"]  # of the views of TTA: lhcnet.inference.tta
ClassName = Literal[
    "anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "left_out"
]  # of data.classes
FolderName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/\\\x00-\x1f]+$")]


def _null_if_none(value: object) -> object:
    """Null for the word `none`, which `params.yaml` has instead of null."""
    return None if value == "none" else value


Patience = Annotated[
    Annotated[int, BeforeValidator(whole), Field(ge=1, lt=LARGEST)] | None,
    BeforeValidator(_null_if_none),
    PlainSerializer(lambda value: "none" if value is None else value),
]  # epochs without gain on validation after which a training stops; `none`: it never stops early

Resize = Annotated[
    Literal[48] | None,
    BeforeValidator(_null_if_none),
    PlainSerializer(lambda value: "none" if value is None else value),
]  # side in pixels that images of other sizes get; `none`: they are refused


class FrozenModel(BaseModel):
    """Base of settings and records: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """The values as plain JSON types, for files and other processes; `parse` is the inverse."""
        return self.model_dump(mode="json")


class SparseModel(FrozenModel):
    """A section whose newer keys are written only where they differ from their default.

    Files and digests of settings that do not use them stay equal to those of earlier versions.
    """

    newer: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_newer_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        unused = self.unused()
        return {name: value for name, value in values.items() if name not in unused}

    def unused(self) -> set[str]:
        """Keys that are not written."""
        return {name for name in self.newer if getattr(self, name) == type(self).model_fields[name].default}
