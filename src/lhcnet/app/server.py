"""The routes of the page: its files, the model, predictions and explanations of a picture.

A picture is the body of a request as it is: no form, whose parser would write large files to a disk.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import ClientDisconnect

from lhcnet.app.answers import RULES, Answers
from lhcnet.app.card import as_html
from lhcnet.app.guard import HEADERS, guard
from lhcnet.errors import LhcnetError
from lhcnet.prediction.predictor import Box

STATIC = Path(__file__).parent / "static"
MOST_WAITING = 8  # pictures that are held in memory until the one before them is answered
Result = TypeVar("Result")
Side = Annotated[int, Query(ge=-(1 << 27), le=1 << 27)]


class _RefusedError(Exception):
    """An answer that is not the user's mistake, or has a status of its own."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class _OneByOne:
    """Runs one function at a time in a thread, so that the server answers everything else meanwhile."""

    def __init__(self) -> None:
        self._limiter, self._inside = CapacityLimiter(1), 0

    async def run(self, request: Request, answer: Callable[[bytes], Result]) -> Result:
        """The answer to the picture in a request."""
        if self._inside > MOST_WAITING:
            raise _RefusedError(503, f"{MOST_WAITING} pictures are waiting already: try again in a moment")
        self._inside += 1
        try:
            content = await _body(request)
            return await to_thread.run_sync(answer, content, limiter=self._limiter)
        finally:
            self._inside -= 1


async def _body(request: Request) -> bytes:
    """The body, at most as large as an image file may be; a larger one is refused before it is read."""
    largest = RULES.largest_file
    too_large = _RefusedError(413, f"the picture is too large, expected a file of {largest >> 20} MB at most")
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > largest:
        raise too_large
    found = bytearray()
    try:
        async for part in request.stream():
            found += part
            if len(found) > largest:
                raise too_large
    except ClientDisconnect:
        raise _RefusedError(499, "the browser went away before the picture was complete") from None
    return bytes(found)


def create_app(answers: Answers, host: str = "127.0.0.1") -> FastAPI:
    """The page as an ASGI application.

    Args:
        answers: answers what the page asks.
        host: the name or address that the server listens on.
    """
    app = FastAPI(title="lhcnet", openapi_url=None, docs_url=None, redoc_url=None)
    app.middleware("http")(guard(host))
    one_by_one = _OneByOne()
    model = answers.model()

    @app.get("/")
    async def index() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/api/model")
    async def about() -> dict[str, Any]:
        return model

    @app.get("/card")
    async def card() -> HTMLResponse:
        if answers.card is None:
            raise _RefusedError(404, "there is no model card beside this model")
        page = (STATIC / "card.html").read_text(encoding="utf-8")
        return HTMLResponse(page.replace("{{ card }}", as_html(answers.card)))

    @app.post("/api/predict")
    async def predict(request: Request, tta: bool = False, find: bool = True) -> dict[str, Any]:
        return await one_by_one.run(request, lambda content: answers.predict(content, tta=tta, find=find))

    @app.post("/api/explain")
    async def explain(
        request: Request, method: str, label: str, left: Side, top: Side, right: Side, bottom: Side
    ) -> dict[str, Any]:
        box = Box(left, top, right, bottom)
        return await one_by_one.run(request, lambda content: answers.explain(content, box, method, label))

    app.mount("/static", StaticFiles(directory=STATIC))
    _answer_errors(app)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Every error is JSON with one sentence."""

    def said(status: int, why: str) -> JSONResponse:
        return JSONResponse({"error": why}, status_code=status)

    @app.exception_handler(LhcnetError)
    async def mistake(_: Request, error: LhcnetError) -> JSONResponse:
        return said(400, str(error))

    @app.exception_handler(_RefusedError)
    async def refused(_: Request, error: _RefusedError) -> JSONResponse:
        return said(error.status, error.why)

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return said(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(404)
    async def missing(request: Request, _: Exception) -> JSONResponse:
        return said(404, f"{request.url.path}: there is no such page")

    @app.exception_handler(405)
    async def method(request: Request, _: Exception) -> JSONResponse:
        return said(405, f"{request.url.path}: does not take {request.method}")

    @app.exception_handler(MemoryError)
    async def memory(_: Request, __: Exception) -> JSONResponse:
        return said(503, "there is not enough memory for this picture")

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        why = f"an error that no code foresaw: {type(error).__name__}; the terminal shows where"
        return JSONResponse({"error": why}, status_code=500, headers=HEADERS)  # outside of the guard
