"""The files of a data source (a folder, a zip or one file), with bounded reads and checks that they stay unchanged."""

import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO

from lhcnet.errors import LhcnetError

EXPECTED = "expected FER2013 as CSV, train.csv with test.csv, or train/<class>/ and test/<class>/ (folder or zip)"

_MAX_FILES, _MAX_UNPACKED = 200_000, 2 << 30  # files of a source; bytes of all files of a zip


@dataclass(frozen=True)
class ArchiveEntry:
    """One file of a source: in a zip, in a folder, or the source itself."""

    name: str  # path below the source, "/" between folders
    where: str  # the whole path, for error messages
    size: int  # bytes, as the zip or the file system declares
    path: Path  # the file on the disk: the file itself, or the zip
    open: Callable[[], IO[bytes]]

    def open_bounded(self, limit: int) -> IO[bytes]:
        """Open the file unless it is too large.

        Read at most `limit` bytes from it, with `read(limit)`: a zip's entry then yields no more than its declared
        size. `read()` without a size inflates everything in memory first.

        Raises:
            LhcnetError: the file declares more than `limit` bytes.
        """
        if self.size > limit:
            raise LhcnetError(f"{self.where} claims {self.size:,} bytes, expected at most {limit:,}")
        return self.open()

    @cached_property
    def path_parts(self) -> tuple[str, str, str, str]:
        """(root, "train", "happy", file name) of root/train/happy/file name; empty where the path is shorter."""
        root, part, folder, file = ("///" + self.name).rsplit("/", 3)
        return root.strip("/"), part.lower(), folder.lower(), file


@contextmanager
def open_entries(source: Path) -> Iterator[list[ArchiveEntry]]:
    """List the files of a source, sorted by name; a zip stays open until the context ends.

    Hidden files, and files that macOS and Windows put into every folder, are left out.

    Args:
        source: a folder, a zip (recognised by its content) or any other file.

    Raises:
        LhcnetError: the source is missing, empty, a damaged or unsafe zip, or has too many files.
        OSError: a folder cannot be read.
    """
    if source.is_dir():
        yield _folder_entries(source)
        return
    if not source.is_file():
        raise LhcnetError(f"{source} does not exist or is no file or folder, {EXPECTED}")
    with source.open("rb") as file:
        magic = file.read(2)
    if not magic:
        raise LhcnetError(f"{source} is empty, {EXPECTED}")
    if magic != b"PK":
        yield [ArchiveEntry(source.name, str(source), source.stat().st_size, source, partial(io.FileIO, source))]
        return
    with decoding_errors(str(source), "a complete zip"):
        archive = zipfile.ZipFile(source)
    with archive:
        yield _zip_entries(source, archive)


def _folder_entries(source: Path) -> list[ArchiveEntry]:
    def fail(error: OSError) -> None:
        raise error

    entries: list[ArchiveEntry] = []
    # Links are followed: data versioning tools place files and folders as links into their caches.
    for folder, _, files in os.walk(source, onerror=fail, followlinks=True):
        for path in (Path(folder, file) for file in files):
            name = path.relative_to(source).as_posix()
            if not _ignored(name) and stat.S_ISREG((status := path.stat()).st_mode):
                entries.append(ArchiveEntry(name, str(path), status.st_size, path, partial(io.FileIO, path)))
        if len(entries) > _MAX_FILES:  # a home directory, or a link that leads back up
            raise LhcnetError(f"{source} holds more than {_MAX_FILES:,} files, {EXPECTED}")
    return sorted(entries, key=lambda entry: entry.name)


def _zip_entries(source: Path, archive: zipfile.ZipFile) -> list[ArchiveEntry]:
    entries: dict[str, ArchiveEntry] = {}
    if len(archive.filelist) > _MAX_FILES:
        raise LhcnetError(f"{source} holds more than {_MAX_FILES:,} files, {EXPECTED}")
    for info in archive.filelist:
        name = info.filename.replace("\\", "/").removeprefix("./")  # some Windows tools write backslashes
        where = f"{source}/{name}"
        if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
            raise LhcnetError(f"{source} has the unsafe entry {info.filename!r}, expected relative paths")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise LhcnetError(f"{where} is a symbolic link, expected plain files in the zip")
        if name in entries:
            raise LhcnetError(f"{where} stands twice in the zip, expected every path once")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others inflate without a limit
            raise LhcnetError(f"{where} is packed by method {info.compress_type}, expected it stored or deflated")
        if not name.endswith("/") and not _ignored(name):
            entries[name] = ArchiveEntry(name, where, info.file_size, source, partial(archive.open, info))
    if (size := sum(entry.size for entry in entries.values())) > _MAX_UNPACKED:
        raise LhcnetError(f"{source} claims {size:,} bytes unpacked, expected at most {_MAX_UNPACKED:,}")
    return [entries[name] for name in sorted(entries)]


def _ignored(name: str) -> bool:
    """Whether a file is hidden, or one that macOS or Windows puts into every folder."""
    path = f"/{name.lower()}"
    return "/." in path or "/__macosx/" in path or path.endswith(("/thumbs.db", "/desktop.ini"))


@contextmanager
def decoding_errors(where: str, expected: str) -> Iterator[None]:
    """Turn any exception of zipfile or Pillow on damaged bytes into an LhcnetError.

    Args:
        where: the file, for the message.
        expected: what was expected there, for the message.

    Raises:
        LhcnetError: the block raised an exception.
    """
    try:
        yield
    except LhcnetError:
        raise
    except Exception as error:  # a dozen unrelated types: BadZipFile, zlib.error, struct.error, SyntaxError...
        raise LhcnetError(f"{where} cannot be read, expected {expected}: {error!r}") from error


@contextmanager
def require_unchanged(path: Path) -> Iterator[None]:
    """Check that a file is not changed or replaced while the block reads it, nor a folder's list of files.

    Raises:
        LhcnetError: it was changed.
    """

    def state() -> tuple[int, ...]:
        status = path.stat()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    before = state() if path.exists() else ()
    yield
    if state() != before:
        raise LhcnetError(f"{path} was changed while it was read, expected it to stay as it is")
