"""Errors of validation in one line: which key, what is wrong, what was found."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


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
