"""The last resort: an error that no code foresaw becomes one sentence, and its traceback a file."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
from datetime import datetime
from pathlib import Path

from lhcnet.errors import LhcnetError

DEBUG = "LHCNET_DEBUG"  # environment variable: 1 shows the traceback of every error
STATUS, INTERRUPTED = 70, 130  # EX_SOFTWARE; a shell's 128 + SIGINT
LOGS = Path(".lhcnet/logs")


def wants_traceback() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def show_traceback(error: BaseException) -> None:
    """Print the traceback on stderr if LHCNET_DEBUG asks for it."""
    if wants_traceback():
        sys.stderr.write(_trace(error))


def describe(error: BaseException, folder: Path = LOGS) -> str:
    """Save the traceback of an unexpected error and say in one sentence what happened and where the traceback is.

    Args:
        error: the error.
        folder: for the file; if it cannot be written, the folder of temporary files is taken.
    """
    text = " ".join(_masked(str(error)).split())
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    file = _save(_trace(error), folder)
    where = f"traceback in {file}" if file else "its traceback could not be saved"
    return str(LhcnetError(f"unexpected error, please report it: {what} ({where}; {DEBUG}=1 shows it)"))


def _save(trace: str, folder: Path) -> Path | None:
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{os.getpid()}.txt"
    for directory in (folder, Path(tempfile.gettempdir())):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with (file := directory / f"lhcnet-{name}").open("x", encoding="utf-8", errors="backslashreplace") as out:
                out.write(trace)
        except OSError:
            continue
        return file
    return None


def _trace(error: BaseException) -> str:
    return _masked("".join(traceback.format_exception(error)))


def _masked(text: str) -> str:
    """The text without user and password of a URL, which an error of a library may quote."""
    return re.sub(r"://\S*@", "://***@", text)
