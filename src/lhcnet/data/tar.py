"""Reading of tar and gzip without extracting to names of theirs: bounded in memory, on the disk and in time."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lhcnet.errors import LhcnetError

_BLOCK = tarfile.BLOCKSIZE  # 512 bytes
_LONGEST_HEADER = 1 << 16  # bytes of a long name or of extended attributes
_CHUNK = 1 << 20
_HEADER_SHARE = 200_000 * 4 * _BLOCK  # room for the headers of the largest number of files


class _FileSlice(io.RawIOBase):
    """A part of an open file, with a position of its own: several can be read at once."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._descriptor, self._at, self._end = file.fileno(), start, start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._descriptor, min(len(buffer), self._end - self._at), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def open_slice(file: IO[bytes], start: int, size: int) -> io.BufferedReader:
    """Open `size` bytes of a file, from byte `start` on, as a file of their own."""
    return io.BufferedReader(_FileSlice(file, start, size))


class _Headers:
    """The file as tarfile sees it while it lists members: a header that claims a huge size is refused, not read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise ValueError(f"a header claims {size:,} bytes")
        return self._file.read(size)


@contextmanager
def gunzipped(source: Path, limit: int) -> Iterator[IO[bytes]]:
    """Unpack a gzip into a temporary file without a name, which disappears with the process.

    Args:
        source: the gzip.
        limit: maximal size of the files in it, in bytes.

    Raises:
        LhcnetError: the gzip is damaged or too large.
        OSError: the disk for temporary files is full.
    """
    with tempfile.TemporaryFile(prefix="lhcnet-") as file:
        size = 0
        with gzip.open(source, "rb") as packed:
            while chunk := _read_chunk(packed, source):
                size += len(chunk)
                if size > limit + _HEADER_SHARE:
                    raise LhcnetError(f"{source} has more than {limit:,} bytes unpacked, expected at most that")
                file.write(chunk)
        file.flush()
        yield file


def _read_chunk(packed: gzip.GzipFile, source: Path) -> bytes:
    try:
        return packed.read(_CHUNK)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LhcnetError(f"{source} cannot be read, expected a complete gzip: {error}") from None


def is_tar(file: IO[bytes]) -> bool:
    file.seek(257)
    return file.read(5) == b"ustar"


def tar_members(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The members of an uncompressed tar.

    Raises:
        ValueError: a header claims too much, a member lies outside the file, or the end mark is missing: the tar was
            cut off, or a header is damaged (which tarfile takes for the end).
        tarfile.TarError: a header is damaged.
    """
    size, end = file.seek(0, os.SEEK_END), 0
    file.seek(0)
    with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:  # type: ignore[call-overload]
        for member in archive:
            content = member.size if member.isreg() else 0
            end = member.offset_data + -(-content // _BLOCK) * _BLOCK
            if not 0 <= member.offset_data <= end <= size:
                raise ValueError(f"{member.name!r} lies outside the file")
            yield member
    if os.pread(file.fileno(), _BLOCK, end) != bytes(_BLOCK):
        raise ValueError(f"no end mark at byte {end:,}")
