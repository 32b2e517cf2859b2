"""A new folder for pictures that are made of other pictures, each under the path of the one that it is made of."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from lhcnet.data.image_files import IMAGE_ENDINGS
from lhcnet.errors import LhcnetError
from lhcnet.io.preflight import cannot_write, shared_folder
from lhcnet.prediction.video import VIDEO_ENDINGS


class OutputFolder:
    """A folder that one process fills.

    Args:
        folder: absent or empty.
        purpose: what it is for, for the error message.

    Raises:
        LhcnetError: the folder is not empty, or cannot be written.
    """

    def __init__(self, folder: Path, purpose: str) -> None:
        try:
            if folder.exists() and any(folder.iterdir()):
                raise LhcnetError(f"{folder}: is not empty, expected a new or empty folder for {purpose}")
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from None
        shared_folder(folder)
        self._folder = folder
        self._used: dict[Path, int] = {}  # last number of a path that came again

    def new_file(self, below: str, ending: str) -> Path:
        """A file that does not exist yet; of several with the same path, the later ones get -2, -3 and so on.

        Args:
            below: path of the picture below the folder or archive that it comes from.
            ending: of the new file, with its dot.

        Raises:
            LhcnetError: the folder that it lies in cannot be made.
        """
        *folders, name = below.split("/")
        parent = self._folder
        for part in folders:
            parent = _no_file(parent / _safe(part))
        stem = parent / _safe(_without_ending(name))
        first = stem.with_name(f"{stem.name}{ending}")
        number = self._used.get(first, 0) + 1
        file = first if number == 1 else stem.with_name(f"{stem.name}-{number}{ending}")
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            while file.exists():
                number += 1
                file = stem.with_name(f"{stem.name}-{number}{ending}")
        except OSError as error:
            raise cannot_write(stem, error) from None
        if number > 1:
            self._used[first] = number
        return file


def _no_file(folder: Path) -> Path:
    """The folder, or with -2, -3 and so on behind its name, where a file has that name: `a.gif` beside `a.jpg/`."""
    found, number = folder, 1
    while found.is_file():
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found


def _without_ending(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return stem if dot + ending.lower() in (*IMAGE_ENDINGS, *VIDEO_ENDINGS) else name


def _safe(part: str) -> str:
    """A name that every file system takes: letters and digits of any language, of 100 bytes at most."""
    name = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", part))
    return name.encode()[:100].decode(errors="ignore").lstrip(".") or "_"
