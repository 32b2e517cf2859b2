"""Reading small files of a user or an earlier step: regular files of limited size, no pipes and no devices."""

import json
import stat
from pathlib import Path

from lhcnet.errors import LhcnetError

MAX_SIZE = 16 << 20  # bytes; selection.json of the paper's 24 trainings has at most 1.4 MB


def require_regular_file(path: Path) -> None:
    """Raise OSError if the file is missing or not a regular file; opening a pipe would wait for its other end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a regular file")


def read_bytes_bounded(path: Path, limit: int | None = MAX_SIZE) -> bytes:
    """The content of a file.

    Args:
        path: the file.
        limit: maximal size in bytes; None for no limit.

    Raises:
        OSError: the file is missing, not a regular file, or larger than `limit`.
    """
    require_regular_file(path)
    with path.open("rb") as file:
        data = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(data) > limit:
        raise OSError(f"more than {limit:,} bytes")
    return data


def read_text(path: Path, limit: int = MAX_SIZE) -> str:
    """The content of a UTF-8 file; raises UnicodeDecodeError for another encoding, OSError as `read_bytes_bounded`."""
    return read_bytes_bounded(path, limit).decode("utf-8")


def write_json(path: Path, values: object) -> None:
    """Write values as JSON with sorted keys; raises ValueError for NaN and infinities."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> object:
    """Read a JSON file; raises LhcnetError if it is missing or not JSON."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise LhcnetError(f"{path}: expected a JSON file that an earlier step wrote: {error}") from None
