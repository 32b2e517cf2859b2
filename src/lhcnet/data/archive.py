"""The files of a source, in a folder or a zip, and how they are read: bounded, unchanged, ahead by threads."""

import io
import os
import stat
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

from lhcnet.errors import LhcnetError

_T = TypeVar("_T")
_U = TypeVar("_U")

EXPECTED = "expected FER2013 as CSV, train.csv with test.csv, or train/<class>/ and test/<class>/ (folder or zip)"

_MAX_FILES, _MAX_UNPACKED = 200_000, 2 << 30  # files of a source, bytes of all that a zip holds
_BLOCK, _AHEAD = 256, 3  # images or lines taken at once, such blocks waiting


@dataclass(frozen=True)
class Member:
    """One file of the source, wherever it lies."""

    name: str  # below the source, "/" between folders
    where: str  # the same for error messages
    size: int  # bytes, as declared
    path: Path  # the file on the disk: it, or the zip
    open: Callable[[], IO[bytes]]

    def limited(self, limit: int) -> IO[bytes]:
        """Open, unless larger than `limit` bytes. zipfile never yields more than the declared size, if asked for it:
        told to read all, it inflates all in memory and then cuts.
        """
        if self.size > limit:
            raise LhcnetError(f"{self.where} claims {self.size:,} bytes, expected at most {limit:,}")
        return self.open()

    @cached_property
    def place(self) -> tuple[str, str, str, str]:
        """(root, "train", "happy", file name) of root/train/happy/file name; empty where there is less."""
        root, part, folder, file = ("///" + self.name).rsplit("/", 3)
        return root.strip("/"), part.lower(), folder.lower(), file


@contextmanager
def open_members(source: Path) -> Iterator[list[Member]]:
    """The visible files of a source, sorted by name; a zip stays open until the context ends."""
    if source.is_dir():
        yield _folder_members(source)
        return
    if not source.is_file():
        raise LhcnetError(f"{source} does not exist or is no file or folder, {EXPECTED}")
    with source.open("rb") as file:
        magic = file.read(2)
    if not magic:
        raise LhcnetError(f"{source} is empty, {EXPECTED}")
    if magic != b"PK":
        yield [Member(source.name, str(source), source.stat().st_size, source, partial(io.FileIO, source))]
        return
    with decoding(str(source), "a complete zip"):
        archive = zipfile.ZipFile(source)
    with archive:
        yield _zip_members(source, archive)


def _folder_members(source: Path) -> list[Member]:
    def fail(error: OSError) -> None:
        raise error

    members: list[Member] = []
    # Links are followed: data versioning tools place files and folders as links into their caches.
    for folder, _, files in os.walk(source, onerror=fail, followlinks=True):
        for path in (Path(folder, file) for file in files):
            name = path.relative_to(source).as_posix()
            if not _ignored(name) and stat.S_ISREG((status := path.stat()).st_mode):
                members.append(Member(name, str(path), status.st_size, path, partial(io.FileIO, path)))
        if len(members) > _MAX_FILES:  # a home directory, or a link that leads back up
            raise LhcnetError(f"{source} holds more than {_MAX_FILES:,} files, {EXPECTED}")
    return sorted(members, key=lambda member: member.name)


def _zip_members(source: Path, archive: zipfile.ZipFile) -> list[Member]:
    members: dict[str, Member] = {}
    if len(archive.filelist) > _MAX_FILES:
        raise LhcnetError(f"{source} holds more than {_MAX_FILES:,} files, {EXPECTED}")
    for info in archive.filelist:
        name = info.filename.replace("\\", "/").removeprefix("./")  # some Windows tools write backslashes
        where = f"{source}/{name}"
        if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
            raise LhcnetError(f"{source} has the unsafe entry {info.filename!r}, expected relative paths")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise LhcnetError(f"{where} is a symbolic link, expected plain files in the zip")
        if name in members:
            raise LhcnetError(f"{where} stands twice in the zip, expected every path once")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others inflate without a limit
            raise LhcnetError(f"{where} is packed by method {info.compress_type}, expected it stored or deflated")
        if not name.endswith("/") and not _ignored(name):
            members[name] = Member(name, where, info.file_size, source, partial(archive.open, info))
    if (size := sum(member.size for member in members.values())) > _MAX_UNPACKED:
        raise LhcnetError(f"{source} claims {size:,} bytes unpacked, expected at most {_MAX_UNPACKED:,}")
    return [members[name] for name in sorted(members)]


def _ignored(name: str) -> bool:
    """Hidden files and folders, and what macOS and Windows leave in every folder."""
    path = f"/{name.lower()}"
    return "/." in path or "/__macosx/" in path or path.endswith(("/thumbs.db", "/desktop.ini"))


@contextmanager
def decoding(where: str, expected: str) -> Iterator[None]:
    """Turn whatever zipfile or Pillow raise on damaged bytes into an LhcnetError."""
    try:
        yield
    except LhcnetError:
        raise
    except Exception as error:  # a dozen unrelated types: BadZipFile, zlib.error, struct.error, SyntaxError...
        raise LhcnetError(f"{where} cannot be read, expected {expected}: {error!r}") from error


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Raise if a file is written to or replaced while the block reads it, or files are moved in or out of a folder."""

    def state() -> tuple[int, ...]:
        status = path.stat()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    before = state() if path.exists() else ()
    yield
    if state() != before:
        raise LhcnetError(f"{path} was changed while it was read, expected it to stay as it is")


def ahead(compute: Callable[[list[_T]], _U], items: Iterable[_T]) -> Iterator[_U]:
    """compute(block) of block after block of the items, in order, by threads while further items are read.

    numpy and Pillow let other threads run while they parse and decode.
    """
    waiting: deque[Future[_U]] = deque()
    with ThreadPoolExecutor(2) as pool:
        remaining = iter(items)
        while block := list(islice(remaining, _BLOCK)):
            waiting.append(pool.submit(compute, block))
            if len(waiting) > _AHEAD:  # else all lines of a CSV would wait in memory
                yield waiting.popleft().result()
        for result in waiting:
            yield result.result()
