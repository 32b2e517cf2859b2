"""FER2013 from where it is."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lhcnet.errors import LhcnetError


def fetch(uri: str, version: str, folder: Path) -> Path:
    """The source as a local path. Only files and folders of this machine are known.

    Args:
        uri: path of FER2013.
        version: `source_version` that the source must have; "" checks nothing.
        folder: where a copy would be written.

    Returns:
        The path.

    Raises:
        LhcnetError: the source is of another version.
    """
    if version and (found := source_version(uri)) != version:
        raise LhcnetError(
            f"{uri}: is of version {found}, but the pipeline was submitted for {version}: submit it again"
        )
    return Path(uri)


def source_version(uri: str) -> str:
    """Version of a source: `sha256:` and the digest of a file, or of the names and contents of a folder's files.

    Raises:
        LhcnetError: it cannot be read.
    """
    path = Path(uri)
    try:
        if path.is_file():
            with path.open("rb") as file:
                return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        hashed = hashlib.sha256()
        for inside in sorted(file for file in path.rglob("*") if file.is_file()):
            hashed.update(inside.relative_to(path).as_posix().encode() + b"\0")
            hashed.update(hashlib.sha256(inside.read_bytes()).digest())
    except OSError as error:
        raise LhcnetError(f"{uri}: cannot be read: {error}") from None
    return f"sha256:{hashed.hexdigest()}"
