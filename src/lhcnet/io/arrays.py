"""Reading `.npz` files of an earlier step: a regular file of limited size, plain arrays, no pickles."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lhcnet.errors import LhcnetError
from lhcnet.io.files import read_bytes_bounded

_LARGEST = 1 << 30  # bytes; the predictions of the paper's 43 models have 40 MB


def read_npz(file: Path, expected: str) -> dict[str, NDArray[Any]]:
    """Read all arrays of a file.

    Args:
        file: its path.
        expected: what it should be, for the error.

    Raises:
        LhcnetError: the file is missing, too large or damaged.
    """
    try:
        content = io.BytesIO(read_bytes_bounded(file, _LARGEST))
        with zipfile.ZipFile(content) as archive:
            if (size := sum(info.file_size for info in archive.filelist)) > _LARGEST:
                raise ValueError(f"it claims {size:,} bytes")
        with np.load(content, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in arrays.files}
    except Exception as error:  # whatever numpy and zipfile raise on damaged bytes
        raise LhcnetError(f"{file}: expected {expected}: {error}") from None


def require_array(array: object, name: str, dtype: object, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Check the type and the shape of an array; None stands for any length.

    Raises:
        ValueError: it is another array, or not finite.
    """
    found = np.asarray(array)
    fits = found.ndim == len(shape) and all(w in (None, n) for n, w in zip(found.shape, shape, strict=True))
    if found.dtype != np.dtype(dtype) or not fits:  # type: ignore[call-overload]
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} is {found.dtype} {found.shape}, expected {np.dtype(dtype)} ({wanted})")  # type: ignore[call-overload]
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError(f"{name} holds values that are not finite")
    return found
