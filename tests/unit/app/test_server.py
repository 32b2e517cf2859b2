"""The server of the page: predictions as `Predictor.predict` gives them, bounds, other sites, nothing on a disk."""

from __future__ import annotations

import base64
import io
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from support.grey_model import GreyModel
from support.hostile.images import encoded
from support.random_model import KINDS, write_model

from lhcnet.app import answers, parts, server
from lhcnet.app.answers import RULES, Answers
from lhcnet.app.card import as_html, load_with_card
from lhcnet.app.parts import Parts
from lhcnet.app.run import listen
from lhcnet.data.drawn_faces import draw
from lhcnet.errors import LhcnetError
from lhcnet.model_record import Answered, Fitted
from lhcnet.prediction.predictor import Box, Predictor
from lhcnet.tracking.registry import CARD

FACE = encoded(Image.fromarray(draw(42, seed=0).images[0]))
URL = "http://127.0.0.1:8080"


def client(predictor: Predictor, parts: Parts | None = None, card: str | None = None) -> TestClient:
    app = server.create_app(Answers(predictor, parts or Parts(), card))
    return TestClient(app, URL, raise_server_exceptions=False)


@pytest.fixture
def page() -> TestClient:
    return client(Predictor(GreyModel()))


def test_probabilities_are_those_of_the_predictor(tmp_path: Path) -> None:
    """Exactly, plain and with TTA, of a file that is neither grey nor 48x48; the card beside the model is found."""
    fitted = Fitted(temperature=1.7, temperature_tta=1.3, tta_families=("flip",), tta_rotation=0.15)
    folder = write_model(tmp_path / "model", KINDS["lhcnet"], fitted).path
    (tmp_path / CARD).write_text("# Card\n")
    predictor, card = load_with_card(str(folder), "cpu")
    assert card == "# Card\n"
    content = encoded(Image.fromarray(draw(42, seed=3).images[2]).resize((91, 70)).convert("RGB"))
    two = (Box(0, 0, 60, 60), Box(20, 10, 91, 70))
    app = client(predictor, Parts(finder=lambda _: two))
    for tta in (False, True):
        expected = Predictor(predictor.model, lambda _: two).predict(content, tta=tta)
        got = app.post(f"/api/predict?tta={tta}", content=content).json()
        assert [face["probabilities"] for face in got["faces"]] == [face.probabilities for face in expected]
        assert [face["box"] for face in got["faces"]] == [[0, 0, 60, 60], [20, 10, 91, 70]]
        assert all(face["calibrated"] for face in got["faces"])
    (whole,) = app.post("/api/predict?find=false", content=content).json()["faces"]
    assert whole["probabilities"] == predictor.predict(content)[0].probabilities


def test_no_face_is_an_answer_and_the_picture_is_upright() -> None:
    picture, content = Image.new("L", (40, 20), 90), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was turned
    picture.save(content, "JPEG", exif=exif)
    got = client(Predictor(GreyModel()), Parts(finder=lambda _: ())).post("/api/predict", content=content.getvalue())
    assert got.status_code == 200
    answer = got.json()
    assert (answer["faces"], answer["width"], answer["height"]) == ([], 20, 40)
    shown = Image.open(io.BytesIO(base64.b64decode(answer["preview"].partition(",")[2])))
    assert shown.size == (20, 40)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is empty"), (b"no picture", "expected an undamaged PNG"), (FACE[:-40], "cannot be read")],
)
def test_what_is_no_picture_is_answered_with_a_sentence(content: bytes, says: str, page: TestClient) -> None:
    got = page.post("/api/predict", content=content)
    assert got.status_code == 400
    assert got.json()["error"].startswith("the picture")
    assert says in got.json()["error"]


def test_a_large_upload_is_refused_before_it_is_read(page: TestClient) -> None:
    too_large = page.post("/api/predict", content=b"", headers={"Content-Length": str(RULES.largest_file + 1)})
    assert too_large.status_code == 413
    assert "20 MB at most" in too_large.json()["error"]
    received = []

    async def receive() -> dict[str, Any]:
        received.append(1)
        return {"type": "http.request", "body": b"x" * (1 << 20), "more_body": True}

    request = server.Request({"type": "http", "method": "POST", "headers": []}, receive)
    with pytest.raises(server._RefusedError, match="20 MB"):
        anyio.run(server._body, request)
    assert len(received) == 21


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example:8080"},
        {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"},
    ],
)
def test_other_web_sites_are_refused(headers: dict[str, str], page: TestClient) -> None:
    got = page.post("/api/predict", content=FACE, headers=headers)
    assert got.status_code == 403
    assert "expected" in got.json()["error"]
    if "Host" in headers:
        assert page.get("/api/model", headers=headers).status_code == 403


@pytest.mark.parametrize("host", ["localhost:1234", "[::1]:8080", "192.0.2.7"])
def test_the_page_itself_is_answered_under_each_of_its_names(host: str, page: TestClient) -> None:
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert page.post("/api/predict", content=FACE, headers=headers).status_code == 200


def test_every_answer_has_the_headers_and_every_error_a_sentence(page: TestClient) -> None:
    answers = [
        page.get("/"),
        page.get("/static/app.js"),
        page.get("/health"),
        page.get("/nowhere"),
        page.get("/card"),
        page.put("/api/predict"),
        page.post("/api/predict?tta=perhaps", content=FACE),
        page.post("/api/explain?method=cam&label=fear&left=0&top=0&right=9&bottom=9", content=FACE),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 404, 405, 422, 400]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert all(answer.json()["error"] for answer in answers[3:])
    for name in ("index.html", "style.css", "app.js", "results.js", "camera.js"):
        text = (server.STATIC / name).read_text(encoding="utf-8")
        assert "http" not in text.replace("https.", ""), name  # nothing is loaded from elsewhere


def test_an_error_that_no_code_foresaw_is_a_sentence_too(monkeypatch: pytest.MonkeyPatch, page: TestClient) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Predictor, "predict_read", broken)
    got = page.post("/api/predict", content=FACE)
    assert got.status_code == 500
    assert "ZeroDivisionError" in got.json()["error"]
    assert "secret" not in got.text


def test_one_picture_at_a_time_and_health_is_answered_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most, begun, go = 0, 0, threading.Event(), threading.Event()

    class Slow(GreyModel):
        def probabilities(self, images: Any, *, tta: bool = False) -> Any:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            begun.set()
            assert go.wait(30)
            inside -= 1
            return super().probabilities(images, tta=tta)

    monkeypatch.setattr(server, "MOST_WAITING", 1)
    with client(Predictor(Slow())) as page:
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(page.post("/api/predict", content=FACE).status_code))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        assert begun.wait(30)
        assert page.get("/health").json() == {"status": "ok"}
        while len(answers) < 1:  # the third is refused: one is computed, one waits
            threads[0].join(0.01)
        assert answers == [503]
        go.set()
        for thread in threads:
            thread.join(30)
    assert sorted(answers) == [200, 200, 503]
    assert most == 1


def test_a_browser_that_goes_away_is_no_error() -> None:
    """Its request ends in the middle of the picture."""
    messages = iter([{"type": "http.request", "body": b"abc", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    host = (b"host", b"127.0.0.1")
    scope = {"type": "http", "method": "POST", "path": "/api/predict", "query_string": b"", "headers": [host]}
    app = server.create_app(Answers(Predictor(GreyModel()), Parts(), None))
    anyio.run(app, scope | {"http_version": "1.1", "root_path": "", "scheme": "http"}, receive, send)
    assert sent[0]["status"] == 499


def test_no_picture_reaches_a_disk(page: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1300), np.uint8)
    content = encoded(Image.fromarray(noise))
    assert len(content) > 1 << 20  # parsers of forms write such files to a disk
    opened: list[str] = []

    def seen(name: str, values: tuple[Any, ...]) -> None:
        if watching and name == "open" and isinstance(values[2], int) and values[2] & 3:
            opened.append(str(values[0]))

    watching = True
    sys.addaudithook(seen)
    got = page.post("/api/predict", content=content)
    watching = False
    assert got.status_code == 200
    assert not opened
    assert not list(tmp_path.iterdir())


def test_an_explanation_is_asked_for_a_box_and_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def explain(_: Predictor, crop: Any, method: str, label: str | None) -> Any:
        asked.append((crop.shape, method, label))
        return np.zeros((48, 48), np.float32)

    monkeypatch.setattr(answers, "explain", explain)
    page = client(Predictor(GreyModel()), Parts(methods={"cam": "class activation"}))
    query = "method=cam&label=fear&left=0&top=0&right=40&bottom=48"
    got = page.post(f"/api/explain?{query}", content=FACE)
    assert got.status_code == 200
    assert got.json()["overlay"].startswith("data:image/jpeg;base64,")
    assert asked == [((48, 48), "cam", "fear")]
    for wrong in ("method=other", "label=joy", "right=0", "right=4000", "right=x"):
        name = wrong.partition("=")[0]
        got = page.post(f"/api/explain?{query}&{wrong}", content=FACE)
        assert got.status_code in (400, 422)
        assert name in got.json()["error"] or "box" in got.json()["error"]
    assert len(asked) == 1


@pytest.mark.parametrize(("captum", "offered"), [(True, ["cam", "occlusion"]), (False, [])])
def test_only_what_is_installed_is_offered(captum: bool, offered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "available", lambda _: ("cam", "occlusion"))
    monkeypatch.setattr(parts, "captum_is_installed", lambda: captum)
    assert list(parts.installed_parts(Predictor(GreyModel())).methods) == offered


def test_the_model_says_what_thresholds_did() -> None:
    rows = (Answered(threshold=0.6, answered=80, right=60, n=100),)
    about = client(Predictor(GreyModel(2.0, rows)), card="# Card").get("/api/model").json()
    assert about["card"] is True
    assert "80 of 100 images got a label" in about["validation"]["plain"][12]  # 0.6
    assert "does not store" in about["validation"]["plain"][11]
    assert about["tta"] == [False, True]
    assert about["finds_faces"] is False
    assert about["why_no_finder"]


def test_a_card_of_somebody_else_runs_no_code() -> None:
    card = "# Card <script>alert(1)</script>\n\n[x](javascript:alert(1)) ![y](https://evil.example/y.png)\n"
    shown = client(Predictor(GreyModel()), card=card).get("/card").text
    assert "<h1>Card" in shown
    assert "<script>" not in shown
    assert 'href="javascript' not in shown
    assert "<img" not in shown
    assert "<table>" in as_html("| a |\n|---|\n| b |\n")


def test_a_port_in_use_is_one_sentence() -> None:
    with listen("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(LhcnetError, match=r"expected an address of this machine .* a free port"):
            listen("127.0.0.1", port)
