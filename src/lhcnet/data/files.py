"""Small files of a user or an earlier step, read whole: plain files of bounded size, never a pipe or a device."""

import stat
from pathlib import Path

LARGEST = 16 << 20  # bytes; selection.json of the paper's 24 trainings has 1.4 MB at most


def demand_plain(path: Path) -> None:
    """Raises OSError if it is missing or no plain file: opening a pipe would wait for its other end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a plain file")


def read_plain(path: Path, limit: int | None = LARGEST) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: it is missing, no plain file, or has more than `limit` bytes.
    """
    demand_plain(path)
    with path.open("rb") as file:
        data = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(data) > limit:
        raise OSError(f"more than {limit:,} bytes")
    return data


def read_text(path: Path, limit: int = LARGEST) -> str:
    """The text of a file in UTF-8; raises OSError as `read_plain` does, UnicodeDecodeError where it is other text."""
    return read_plain(path, limit).decode("utf-8")
