"""OpenCV, which the extras `video` and `faces` install."""

from __future__ import annotations

import os
from typing import Any

from lhcnet.errors import LhcnetError


def import_opencv(what: str, extra: str) -> Any:
    """The module cv2.

    Args:
        what: who needs it, for the error message: "clip.mp4: videos need".
        extra: the extra of this package that installs it.

    Raises:
        LhcnetError: it is not installed.
    """
    # read when it is imported: it and FFmpeg print lines of their own, and what matters is said by our callers
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError:
        raise LhcnetError(f"{what} OpenCV; install it with: pip install 'lhcnet[{extra}]'") from None
    return cv2
