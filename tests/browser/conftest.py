"""The page in a headless Chromium: one server and one browser for all tests, a new page for each.

The model needs no network, and the finder of faces answers by the picture's width.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright
from support.browser import FLAGS, NO_FACE, TWO_FACES, OpenPage, chromium
from support.grey_model import GreyModel

from lhcnet.app import answers
from lhcnet.app.answers import Answers
from lhcnet.app.parts import METHODS, Parts
from lhcnet.app.run import listen
from lhcnet.app.server import create_app
from lhcnet.errors import LhcnetError
from lhcnet.model_record import Answered
from lhcnet.prediction.predictor import Box, Predictor


def find(picture: Image.Image) -> Sequence[Box]:
    whole = Box(0, 0, picture.width, picture.height)
    half = picture.width // 2
    two = (Box(4, 4, half - 4, picture.height - 4), Box(half + 4, 4, picture.width - 4, picture.height - 4))
    return {NO_FACE: (), TWO_FACES: two}.get(picture.width, (whole,))


def explain(_: Predictor, __: Any, method: str, label: str | None) -> Any:
    if method == "attention":
        raise LhcnetError("attention: expected a network with LHC modules")
    return np.ones((48, 48), np.float32)


@pytest.fixture(scope="module")  # its event loop is in the way of other tests
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        path = chromium(playwright)
        if path is None:
            pytest.skip("no Chromium: name one in CHROMIUM, or put one on PATH (apt-get install chromium)")
        started = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    rows = tuple(Answered(threshold=one, answered=80, right=60, n=100) for one in (0.5, 0.6))
    parts = Parts(find, "", METHODS)
    app = create_app(Answers(Predictor(GreyModel(2.0, rows)), parts, "# The card"))
    with pytest.MonkeyPatch.context() as patch, listen("127.0.0.1", 0) as opened:
        patch.setattr(answers, "explain", explain)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def open_page(browser: Any, url: str) -> Iterator[OpenPage]:
    """Opens the page; at the end it must have had no error, asked no other host, and stored nothing."""
    contexts, wrong = [], []

    def opened(**options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(120_000)  # a machine may be busy
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith((url, "data:", "blob:")) or wrong.append(asked.url))
        page.on("console", lambda said: "Content Security Policy" in said.text and wrong.append(said.text))
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        return page

    yield opened
    for context in contexts:
        (page,) = context.pages
        assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        context.close()
    assert not wrong
