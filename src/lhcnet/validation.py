"""Parts of validation: values as other programs write them, and errors in one line."""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


SLOTS = ("lhc1", "lhc2", "lhc3", "lhc4", "lhc5")


def in_slots(value: object) -> object:
    """The modules of a mapping from slots, as `params.yaml` has it, in their order."""
    if isinstance(value, Mapping):
        slots = SLOTS[: len(value)]
        if not slots or set(value) != set(slots):
            given = ", ".join(map(str, value)) or "none"
            raise ValueError(f"expected the five slots {', '.join(SLOTS)}, or the first of them, not {given}")
        return tuple(value[slot] for slot in slots)
    return tuple(value) if isinstance(value, list) else value


def folded(name: str) -> str:
    """A name as it is compared with others: without case, and with accents in one form (macOS writes two letters)."""
    return unicodedata.normalize("NFC", name).casefold()


def whole(value: object) -> object:
    """Convert 48.0 to 48, and nothing else: Kubeflow passes whole numbers in a struct as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def first_problem(error: ValidationError, hidden: Container[object] = ()) -> str:
    """The first problem of a validation, and how many more there are.

    Args:
        error: of pydantic.
        hidden: parts of a location that the user did not write.
    """
    first = error.errors()[0]
    keys = ".".join(str(part) for part in first["loc"] if part not in hidden)
    key = f"{keys}: " if keys else ""
    more = error.error_count() - 1
    scalar = isinstance(first["input"], str | int | float) and first["type"] != "value_error"
    got = f", not {first['input']!r}" if scalar and first["type"] != "extra_forbidden" else ""
    message = {"extra_forbidden": "unknown key", "missing": "required key is missing"}.get(
        first["type"], first["msg"].removeprefix("Value error, ")
    )
    others = f" (and {more} more)" if more else ""
    return f"{key}{message}{got}{others}"
