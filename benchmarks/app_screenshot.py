"""A picture of the page that `lhcnet app` serves: python benchmarks/app_screenshot.py URL PICTURE OUT.png [--dark].

It needs Playwright and a Chromium (CHROMIUM=/path/to/chromium, or one on PATH).
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("picture", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1180)
    parser.add_argument("--height", type=int, default=860, help="0: the whole page")
    parser.add_argument("--explain", help="name of a button, for example 'class activation'")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": options.width, "height": options.height or 860},
            color_scheme="dark" if options.dark else "light",
        )
        page.set_default_timeout(300_000)
        page.goto(options.url)
        page.wait_for_selector("body[data-ready]")
        page.set_input_files("#files", options.picture)
        page.wait_for_selector("article, #errors p")
        if options.explain:
            page.get_by_role("button", name=options.explain).first.click()
            page.locator(".explanation", has_text=" ms.").wait_for()
        content = page.screenshot(full_page=not options.height)
        browser.close()
    picture = Image.open(io.BytesIO(content)).convert("RGB").quantize(255, dither=Image.Dither.NONE)
    picture.save(options.out, optimize=True)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
