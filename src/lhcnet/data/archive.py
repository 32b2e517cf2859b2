"""The files of a data source (folder, zip, tar or one file), with bounded reads and checks that they stay unchanged."""

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

from lhcnet.data.tar import gunzipped, is_tar, open_slice, tar_members
from lhcnet.errors import LhcnetError
from lhcnet.validation import folded

EXPECTED = (
    "expected FER2013 as CSV (emotion, pixels, Usage), train.csv with test.csv, or train/<class>/ and test/<class>/, "
    "as file, folder, zip or tar.gz"
)

_MAX_FILES, _MAX_UNPACKED = 200_000, 2 << 30  # files of a zip or tar, and bytes of them all
_MAX_IN_FOLDER = 1_000_000  # files
_UNREAD = ("_val.npy", "_aro.npy", "_lnd.npy")  # three of the four annotations of each image of AffectNet
_FOREIGN = {  # first bytes of formats that people hand in
    b"7z\xbc\xaf": "7z",
    b"Rar!": "RAR",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x89HDF": "HDF5",
    b"PAR1": "Parquet",
    b"\x93NUMPY": "NumPy",
}


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
        return root.strip("/"), folded(part), folded(folder), file


@contextmanager
def open_entries(source: Path) -> Iterator[list[ArchiveEntry]]:
    """List the files of a source, sorted by name; a zip stays open until the context ends.

    Hidden files, and files that macOS and Windows put into every folder, are left out, and annotations of
    AffectNet that no reader needs.

    Args:
        source: a folder, a zip or tar (recognised by its content), a file compressed with gzip, or any other file.

    Raises:
        LhcnetError: the source is missing, empty, a damaged or unsafe archive, or has too many files.
        OSError: a folder cannot be read.
    """
    if source.is_dir():
        yield _folder_entries(source)
        return
    if not source.is_file():
        raise LhcnetError(f"{source} does not exist or is no file or folder, {EXPECTED}")
    with source.open("rb") as file:
        magic = file.read(512)
    if not magic:
        raise LhcnetError(f"{source} is empty, {EXPECTED}")
    if kind := next((name for first, name in _FOREIGN.items() if magic.startswith(first)), ""):
        raise LhcnetError(f"{source} is a file in the format {kind}, {EXPECTED}: unpack or convert it first")
    if magic.startswith(b"PK"):
        with decoding_errors(str(source), "a complete zip"):
            archive = zipfile.ZipFile(source)
        with archive:
            yield _zip_entries(source, archive)
    elif magic.startswith(b"\x1f\x8b"):
        with gunzipped(source, _MAX_UNPACKED) as file:
            yield _tar_entries(source, file) if is_tar(file) else [_gunzipped_entry(source, file)]
    elif magic[257:262] == b"ustar":
        with source.open("rb") as file:
            yield _tar_entries(source, file)
    else:
        yield [ArchiveEntry(source.name, str(source), source.stat().st_size, source, partial(io.FileIO, source))]


def _gunzipped_entry(source: Path, file: IO[bytes]) -> ArchiveEntry:
    """The one file in a gzip that holds no tar."""
    size = file.seek(0, os.SEEK_END)
    return ArchiveEntry(source.stem, str(source), size, source, partial(open_slice, file, 0, size))


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
        if len(entries) > _MAX_IN_FOLDER:  # a home directory, or a link that leads back up
            raise LhcnetError(f"{source} has more than {_MAX_IN_FOLDER:,} files, {EXPECTED}")
    return sorted(entries, key=lambda entry: entry.name)


def _zip_entries(source: Path, archive: zipfile.ZipFile) -> list[ArchiveEntry]:
    entries: dict[str, ArchiveEntry] = {}
    if len(archive.filelist) > _MAX_FILES:
        raise LhcnetError(f"{source} has more than {_MAX_FILES:,} files, {EXPECTED}")
    for info in archive.filelist:
        name = _safe_name(source, info.filename)
        where = f"{source}/{name}"
        if stat.S_ISLNK(info.external_attr >> 16):
            raise LhcnetError(f"{where} is a symbolic link, expected plain files in the zip")
        if name in entries:
            raise LhcnetError(f"{where} occurs twice in the zip, expected every path once")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others inflate without a limit
            raise LhcnetError(f"{where} is packed by method {info.compress_type}, expected it stored or deflated")
        if not name.endswith("/") and not _ignored(name):
            entries[name] = ArchiveEntry(name, where, info.file_size, source, partial(archive.open, info))
    return _bounded(source, entries)


def _tar_entries(source: Path, file: IO[bytes]) -> list[ArchiveEntry]:
    entries: dict[str, ArchiveEntry] = {}
    with decoding_errors(str(source), "a complete tar"):
        for number, member in enumerate(tar_members(file)):
            name = _safe_name(source, member.name)
            where = f"{source}/{name}"
            if number >= _MAX_FILES:
                raise LhcnetError(f"{source} has more than {_MAX_FILES:,} files, {EXPECTED}")
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise LhcnetError(f"{where} is a link or a special file, expected plain files in the tar")
            if name in entries:
                raise LhcnetError(f"{where} occurs twice in the tar, expected every path once")
            if not _ignored(name):
                content = partial(open_slice, file, member.offset_data, member.size)
                entries[name] = ArchiveEntry(name, where, member.size, source, content)
    return _bounded(source, entries)


def _safe_name(source: Path, packed: str) -> str:
    """The relative path of an archive's entry; raises LhcnetError for one that leads elsewhere."""
    name = packed.replace("\\", "/").removeprefix("./")  # some Windows tools write backslashes
    if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
        raise LhcnetError(f"{source} has the unsafe entry {packed!r}, expected relative paths")
    return name


def _bounded(source: Path, entries: dict[str, ArchiveEntry]) -> list[ArchiveEntry]:
    """The entries by name; raises LhcnetError if they claim too many bytes."""
    if (size := sum(entry.size for entry in entries.values())) > _MAX_UNPACKED:
        raise LhcnetError(f"{source} claims {size:,} bytes unpacked, expected at most {_MAX_UNPACKED:,}")
    return [entries[name] for name in sorted(entries)]


def _ignored(name: str) -> bool:
    """Whether a file is hidden, one that macOS or Windows puts into every folder, or one that no reader needs."""
    path = f"/{name.lower()}"
    return "/." in path or "/__macosx/" in path or path.endswith(("/thumbs.db", "/desktop.ini", *_UNREAD))


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
        why = str(error) if type(error) is ValueError else repr(error)  # others' messages say little without their type
        raise LhcnetError(f"{where} cannot be read, expected {expected}: {why}") from error


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
