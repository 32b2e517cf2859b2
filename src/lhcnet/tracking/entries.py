"""What an entry of a journal holds, checked when it is read: a disk or a power cut may have damaged it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_OPEN = {"mode": str, "tags": dict, "of_new": dict}
_FIELDS: dict[str, dict[str, Any]] = {
    "begin": {},
    "open": _OPEN,
    "params": {"values": dict},
    "tags": {"values": dict},
    "metrics": {"values": dict, "step": int | None},
    "dataset": {"name": str, "digest": str, "source": str, "context": str},
    "file": {"file": str, "folder": str},
    "end": {"status": str},
    "close": {"status": str},
}


def valid(entry: object, folder: Path) -> dict[str, Any]:
    """The entry, if it is complete.

    Args:
        entry: parsed line of a journal.
        folder: the journal's folder; a file that the entry names must be in it.

    Raises:
        ValueError: it is not an entry, or its file is missing.
    """
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    fields = _FIELDS.get(str(entry.get("do")))
    if fields is None:
        raise ValueError("its kind is unknown")
    for name, kind in ({"at": int, "run": str} | fields).items():
        if name not in entry or not isinstance(entry[name], kind):
            raise ValueError(f"{name} is missing or damaged")
    if entry["do"] == "file":
        path = (folder / entry["file"]).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise ValueError(f"the journal lacks {entry['file']}")
    return entry
