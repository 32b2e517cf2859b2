"""Small files of a user or an earlier step, read whole: plain files of bounded size, never a pipe or a device."""

import json
import stat
from pathlib import Path

from lhcnet.errors import LhcnetError

LARGEST = 16 << 20  # bytes; selection.json of the paper's 24 trainings has 1.4 MB at most


def require_regular_file(path: Path) -> None:
    """Raises OSError if it is missing or no plain file: opening a pipe would wait for its other end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a plain file")


def read_bytes_bounded(path: Path, limit: int | None = LARGEST) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: it is missing, no plain file, or has more than `limit` bytes.
    """
    require_regular_file(path)
    with path.open("rb") as file:
        data = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(data) > limit:
        raise OSError(f"more than {limit:,} bytes")
    return data


def read_text(path: Path, limit: int = LARGEST) -> str:
    """The text of a file in UTF-8; raises OSError as `read_bytes_bounded` does, UnicodeDecodeError for other bytes."""
    return read_bytes_bounded(path, limit).decode("utf-8")


def write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> object:
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise LhcnetError(f"{path}: expected a JSON file that an earlier step wrote: {error}") from None
