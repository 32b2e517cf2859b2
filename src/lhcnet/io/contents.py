"""Which files and folders are the project's own: known by the names in them and by the keys of their JSON.

A step replaces only what these classes recognise; anything else may be somebody's work.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from lhcnet.io.files import MAX_SIZE

HIDDEN = r"lhcnet-[0-9a-f]{12}"  # end of the name of a hidden temporary copy, see `hidden.hidden_path`
_NESTED_COPY = re.compile(rf"\..+\.{HIDDEN}(\.former)?")


@dataclass(frozen=True)
class OwnJson:
    """A JSON file of ours.

    Args:
        keys: alternatives; the file is a mapping that has all keys of at least one of them.
    """

    keys: tuple[frozenset[str], ...]

    @classmethod
    def having(cls, *keys: str) -> OwnJson:
        """A mapping with these keys."""
        return cls((frozenset(keys),))

    def recognises(self, text: bytes) -> bool:
        """Whether this is the content of such a file."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return False
        return isinstance(values, dict) and any(keys <= values.keys() for keys in self.keys)

    def problem(self, file: Path) -> str:
        """Why an existing file is not such a file, or "". An empty file is accepted."""
        if not (text := _content(file)):
            return ""
        return "" if self.recognises(text) else "it is a file of another kind"


@dataclass(frozen=True)
class OwnFolder:
    """A folder of ours, with everything that the step writes into it.

    Args:
        marker: name of the file that every such folder has.
        json: the content of the marker.
        files: names of all files, the marker too.
        folders: content of its folders, whose names are numbers; None: it has none.
    """

    marker: str
    json: OwnJson
    files: frozenset[str]
    folders: OwnFolder | None = None

    def problem(self, folder: Path) -> str:
        """Why an existing folder is not such a folder, or "". An empty folder is accepted.

        A known name may be a link to a file: DVC's cache may be linked, and removing a link leaves its target.

        Raises:
            OSError: it cannot be read.
        """
        if foreign := self.foreign_entry(folder):
            return f"it holds {foreign}, which this step does not write"
        names = os.listdir(folder)  # noqa: PTH208 - strings
        if not names:
            return ""
        if self.marker not in names:
            return f"it contains other files and no {self.marker}"
        if not self.json.recognises(_content(folder / self.marker)):
            return f"its {self.marker} was not written by this step"
        if self.folders:
            for name in names:
                if name not in self.files and (found := self.folders.problem(folder / name)):
                    return f"{name}: {found}"
        return ""

    def foreign_entry(self, folder: Path, *, unfinished: bool = False) -> str:
        """Relative path of the first entry that is not ours, or "".

        Args:
            folder: the folder.
            unfinished: whether hidden temporary copies count as ours.
        """
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name in self.files and _is_file_or_link_to_file(entry):
                    continue
                nested = self.folders is not None and entry.is_dir(follow_symlinks=False)
                copy = unfinished and _NESTED_COPY.fullmatch(entry.name)
                if nested and self.folders and (copy or re.fullmatch("[0-9]+", entry.name)):
                    if found := self.folders.foreign_entry(folder / entry.name, unfinished=unfinished):
                        return f"{entry.name}/{found}"
                    continue
                return entry.name
        return ""


def _is_file_or_link_to_file(entry: os.DirEntry[str]) -> bool:
    if entry.is_file(follow_symlinks=False):
        return True
    # False too if another process has just removed the entry: then it is no file of somebody
    return entry.is_symlink() and entry.is_file()


def _content(file: Path) -> bytes:
    """At most `MAX_SIZE` bytes of a file; b"" if it is not a regular file."""
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as opened:
        return opened.read(MAX_SIZE) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
