"""Where a Chromium is, how tests start it, and what the finder of faces of their page finds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

OpenPage = Callable[..., Any]
NO_FACE, TWO_FACES = 100, 200  # pixels of width of such pictures
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


def chromium(playwright: Any) -> str | None:
    """Path of a Chromium: CHROMIUM, one on PATH, or Playwright's own; None if there is none."""
    if named := os.environ.get("CHROMIUM"):
        return named
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return found
    own = str(playwright.chromium.executable_path)
    return own if Path(own).is_file() else None
