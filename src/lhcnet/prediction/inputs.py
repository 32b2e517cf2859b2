"""Inputs of `lhcnet predict`, one picture after the other: files, folders, patterns, archives, stdin, videos.

Nothing is read before it is asked for: memory holds the names in one folder and one picture. Each input that cannot be
read is one sentence, and the others go on.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from lhcnet.data.archive import ArchiveEntry, decoding_errors, open_entries
from lhcnet.data.image_files import IMAGE_ENDINGS
from lhcnet.data.pictures import ANY, read_picture
from lhcnet.errors import LhcnetError
from lhcnet.io.files import read_bytes_bounded
from lhcnet.prediction.video import VIDEO_ENDINGS, camera_number, count_frames, frames

STDIN, CAMERA = "-", "camera:"
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_WILDCARDS = frozenset("*?[")
_DEEPEST = 100  # folders in folders
_Folder = tuple[int, int]
"""Device and inode of a folder."""


@dataclass(frozen=True, eq=False)
class Clip:
    """One reading of a video or camera, which its frames share.

    Attributes:
        below: as that of `Input`, of the video.
    """

    below: str


@dataclass(frozen=True)
class Input:
    """One picture that is not read yet.

    Attributes:
        name: for the output, printable.
        below: path below the folder, archive or pattern it comes from; its file's name otherwise.
        read: the picture, upright, of mode L or RGB. Raises LhcnetError.
        seconds: time in a video; None for other pictures.
        clip: the video; None for other pictures.
    """

    name: str
    below: str
    read: Callable[[], Image.Image]
    seconds: float | None = None
    clip: Clip | None = None


@dataclass(frozen=True)
class Unreadable:
    """An input that cannot be read, and why, in one sentence."""

    why: str


def read_inputs(arguments: Sequence[str], every: int = 1, skip: Path | None = None) -> Iterator[Input | Unreadable]:
    """All pictures of the arguments of the command, lazily and in a fixed order.

    Args:
        arguments: paths of image files, of folders (all image files in it and below), of archives (zip, tar) and of
            videos; patterns with `*`, `?`, `[` and `**`; `-` for an image file on standard input; `camera:0`.
        every: of a video or camera, each n-th frame.
        skip: an existing folder whose pictures are no inputs: that of the output, which may lie in a folder of them.
    """
    status = skip.stat() if skip else None
    for argument in arguments:
        yield from _inputs(argument, every, (status.st_dev, status.st_ino) if status else None)


def count_inputs(arguments: Sequence[str], every: int = 1) -> int | None:
    """Number of pictures that `read_inputs` will give, without reading them; None with a camera."""
    if any(argument.startswith(CAMERA) for argument in arguments):
        return None
    total = 0
    for argument in arguments:
        with suppress(LhcnetError, OSError, ValueError):  # reading will say why
            for name in _matches(argument) if _is_pattern(argument) else [argument]:
                if _is_video(name) and Path(name).is_file():
                    total += -(-count_frames(Path(name)) // every)
                else:
                    total += sum(1 for _ in _inputs(name, every))
    return total


def require_no_input(out: Path, arguments: Sequence[str]) -> None:
    """Raise LhcnetError if a file of rows would take the place of a picture, an archive, a video or a model."""
    named = any(Path(one).is_file() and out.exists() and out.samefile(one) for one in arguments if one)
    if named or out.name.lower().endswith((*IMAGE_ENDINGS, *_ARCHIVES, *VIDEO_ENDINGS, ".onnx")):
        raise LhcnetError(f"{out}: is an input, or named like one; expected another file for the rows: faces.csv")


def printable(path: str | Path) -> str:
    """A path for the output: bytes that are no UTF-8 and codes that move a cursor are shown escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _inputs(argument: str, every: int, skip: _Folder | None = None) -> Iterator[Input | Unreadable]:
    if not argument:
        yield Unreadable("input: is empty, expected a path, a pattern, or - for standard input")
        return
    if argument == STDIN:
        yield Input("stdin", "stdin", _read_stdin)
        return
    try:
        if argument.startswith(CAMERA):
            yield from _of_video(argument, camera_number(argument), every)
        elif _is_pattern(argument):
            yield from _of_pattern(argument, every, skip)
        else:
            yield from _of_path(Path(argument), Path(argument).name, every, skip)
    except (OSError, ValueError) as error:  # ValueError: NUL in a path
        yield _unreadable(argument, error)
    except LhcnetError as error:
        yield Unreadable(str(error))


def _of_path(path: Path, below: str, every: int, skip: _Folder | None) -> Iterator[Input | Unreadable]:
    """The pictures of one path that the user named, or that a pattern found."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        empty = True
        for one in _of_folder(path, "", (), skip):
            empty = False
            yield one
        if empty:
            raise LhcnetError(f"{path}: has no image files, expected names that end in {', '.join(IMAGE_ENDINGS)}")
    elif not stat.S_ISREG(mode):
        raise LhcnetError(f"{path}: is a pipe, a device or a socket, expected a file or a folder")
    elif path.name.lower().endswith(_ARCHIVES):
        yield from _of_archive(path)
    elif _is_video(path.name):
        yield from _of_video(str(path), path, every)
    else:
        yield _of_file(path, below)


def _of_file(path: Path, below: str) -> Input:
    return Input(printable(path), below, partial(_read_file, path))


def _read_file(path: Path) -> Image.Image:
    try:
        content = read_bytes_bounded(path, ANY.largest_file)
    except OSError as error:
        raise LhcnetError(_unreadable(path, error).why) from None
    return read_picture(content, printable(path))


def _of_folder(
    folder: Path, below: str, above: tuple[_Folder, ...], skip: _Folder | None
) -> Iterator[Input | Unreadable]:
    """The image files in a folder and below it. Links are followed, but not back into a folder above.

    Args:
        folder: the folder.
        below: its path below the one that the user named, with a slash; or "".
        above: the folders that lead here.
        skip: a folder that is left out.
    """
    try:
        status = folder.stat()
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        yield _unreadable(folder, error)
        return
    own = (status.st_dev, status.st_ino)
    if own == skip:
        return
    if own in above or len(above) > _DEEPEST:
        why = f"{printable(folder)}: is a link back to a folder above it, expected folders without a circle"
        yield Unreadable(str(LhcnetError(why)))
        return
    for name in names:
        path = folder / name
        try:
            mode = path.stat().st_mode
        except OSError as error:
            if name.lower().endswith(IMAGE_ENDINGS):
                yield _unreadable(path, error)
            continue
        if stat.S_ISDIR(mode):
            yield from _of_folder(path, f"{below}{name}/", (*above, own), skip)
        elif name.lower().endswith(IMAGE_ENDINGS):
            yield _of_file(path, below + name)


def _of_pattern(pattern: str, every: int, skip: _Folder | None) -> Iterator[Input | Unreadable]:
    for name in _matches(pattern):
        try:
            yield from _of_path(Path(name), Path(name).name, every, skip)
        except OSError as error:
            yield _unreadable(name, error)
        except LhcnetError as error:
            yield Unreadable(str(error))


def _matches(pattern: str) -> list[str]:
    """Paths that match a pattern, sorted. `**` does not follow links, so circles end; hidden files are left out.

    Of `**`, the folders are left out if files match: those below match as well. If folders alone match, the files in
    them are read.

    Raises:
        LhcnetError: there are none, or it is no pattern.
    """
    root = Path(Path(pattern).anchor or ".")
    relative = os.path.relpath(pattern, root) if root.is_absolute() else pattern
    if relative.endswith("**"):  # folders alone, for pathlib
        relative += "/*"
    try:
        found = sorted(str(path) for path in root.glob(relative) if _hidden(pattern) or not _hidden(str(path)))
    except (ValueError, NotImplementedError, IndexError) as error:
        raise LhcnetError(f"{pattern}: expected a pattern such as folder/*.png: {error}") from None
    if not found:
        raise LhcnetError(f"{pattern}: no file matches; expected files, folders, or - for standard input")
    if "**" not in pattern:
        return found
    files = [name for name in found if not Path(name).is_dir()]
    return files or [name for name in found if not any(str(above) in found for above in Path(name).parents)]


def _hidden(path: str) -> bool:
    return any(part.startswith(".") and part != ".." for part in Path(path).parts)


def _of_archive(path: Path) -> Iterator[Input | Unreadable]:
    with open_entries(path) as entries:
        found = [entry for entry in entries if entry.name.lower().endswith(IMAGE_ENDINGS)]
        if not found:
            raise LhcnetError(f"{path}: has no image files, expected names that end in {', '.join(IMAGE_ENDINGS)}")
        for entry in found:
            yield Input(printable(entry.where), entry.name, partial(_read_entry, entry))


def _read_entry(entry: ArchiveEntry) -> Image.Image:
    with decoding_errors(entry.where, "an undamaged image file"), entry.open_bounded(ANY.largest_file) as file:
        content = file.read(ANY.largest_file)
    return read_picture(content, printable(entry.where))


def _of_video(name: str, source: Path | int, every: int) -> Iterator[Input | Unreadable]:
    shown = printable(name)
    clip = Clip(Path(name.replace(":", "-")).name)
    for number, seconds, picture in frames(source, shown, every):
        yield Input(f"{shown}#{number}", f"{clip.below}-{number:06d}", picture.copy, seconds, clip)


def _read_stdin() -> Image.Image:
    if sys.stdin is None:  # the process was started without
        raise LhcnetError("stdin: is closed, expected an image file")
    try:
        content = sys.stdin.buffer.read(ANY.largest_file + 1)
    except OSError as error:  # a terminal that is gone
        raise LhcnetError(_unreadable("stdin", error).why) from None
    return read_picture(content, "stdin")


def _is_pattern(argument: str) -> bool:
    return bool(_WILDCARDS & set(argument)) and not os.path.lexists(argument)


def _is_video(name: str) -> bool:
    return name.lower().endswith(VIDEO_ENDINGS)


def _unreadable(path: str | Path, error: Exception) -> Unreadable:
    reason = getattr(error, "strerror", None) or error
    return Unreadable(str(LhcnetError(f"{printable(path)}: cannot be read, expected an image file: {reason}")))
