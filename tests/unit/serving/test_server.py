"""`mlflow models serve` itself: its answers are those of a direct prediction, and wrong requests get one sentence."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.hostile.images import encoded

from lhcnet.config import Compute
from lhcnet.data.drawn_faces import draw
from lhcnet.inference.predict import predict
from lhcnet.inference.tta import plain_views, tta_views
from lhcnet.runtime import open_device
from lhcnet.saved import CLASSES, open_model

FACES = draw(200, seed=1).images[:200]
COLUMN = {"columns": ["image"]}


def text_of(face: np.ndarray) -> str:
    return base64.b64encode(encoded(Image.fromarray(face))).decode()


@pytest.fixture(scope="module")
def server(logged: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(logged), "--env-manager", "local"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        for _ in range(3000):
            if process.poll() is not None:
                pytest.fail((folder / "log").read_text())
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def post(server: str, body: object, kind: str = "application/json") -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(server, content, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def direct(model: Path, faces: np.ndarray, *, tta: bool = False) -> np.ndarray:
    saved = open_model(model)
    views, size = tta_views() if tta else plain_views(), saved.info.architecture.input_size
    return predict(saved.network(), faces, views, input_size=size, device=open_device(Compute(device="cpu")))


def probabilities(answer: dict[str, Any]) -> np.ndarray:
    for row in answer["predictions"]:
        assert row["label"] == max(CLASSES, key=row.__getitem__)
    return np.array([[row[name] for name in CLASSES] for row in answer["predictions"]])


BODIES = {
    "base64, split": lambda faces: {"dataframe_split": COLUMN | {"data": [[text_of(face)] for face in faces]}},
    "base64, records": lambda faces: {"dataframe_records": [{"image": text_of(face)} for face in faces]},
    "base64, inputs": lambda faces: {"inputs": [text_of(face) for face in faces]},
    "base64, named inputs": lambda faces: {"inputs": {"image": [text_of(face) for face in faces]}},
    "base64, instances": lambda faces: {"instances": [{"image": text_of(face)} for face in faces]},
    "whole, inputs": lambda faces: {"inputs": faces.tolist()},
    "whole, instances": lambda faces: {"instances": faces.tolist()},
    "whole, named instances": lambda faces: {"instances": [{"image": face.tolist()} for face in faces]},
    "whole floats": lambda faces: {"inputs": faces.astype(float).tolist()},
    "0..1, inputs": lambda faces: {"inputs": (faces / 255).tolist()},
    "0..1, instances": lambda faces: {"instances": (faces / 255).tolist()},
    "0..1, split": lambda faces: {"dataframe_split": COLUMN | {"data": [[(face / 255).tolist()] for face in faces]}},
    "colour": lambda faces: {"inputs": np.stack([faces] * 3, axis=-1).tolist()},
    "different forms": lambda faces: {"inputs": [text_of(faces[0]), faces[1].tolist(), (faces[2] / 255).tolist()]},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_every_form_of_request_has_the_answer_of_a_direct_prediction(body: Any, server: str, model: Path) -> None:
    status, answer = post(server, body(FACES[:3]))
    assert status == 200, answer
    np.testing.assert_allclose(probabilities(answer), direct(model, FACES[:3]), atol=1e-6)


def test_one_text_is_one_image(server: str, model: Path) -> None:
    for body in ({"inputs": [text_of(FACES[0])]}, {"inputs": {"image": text_of(FACES[0])}}):
        status, answer = post(server, body)
        assert status == 200, answer
        np.testing.assert_allclose(probabilities(answer), direct(model, FACES[:1]), atol=1e-6)


def test_views_are_a_parameter_of_the_request(server: str, model: Path) -> None:
    plain, tta = ({"inputs": FACES[:2].tolist(), "params": {"tta": tta}} for tta in (False, True))
    found = [probabilities(post(server, body)[1]) for body in (plain, tta)]
    np.testing.assert_allclose(found[0], direct(model, FACES[:2]), atol=1e-6)
    np.testing.assert_allclose(found[1], direct(model, FACES[:2], tta=True), atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-4


WRONG: dict[str, tuple[object, str]] = {
    "-1..1": ({"inputs": (FACES[:2] / 127.5 - 1).tolist()}, "image 0: .* scaled to -1..1"),
    "300": ({"inputs": [FACES[0].tolist(), (FACES[1].astype(int) + 300).tolist()]}, "image 1: .*0..255"),
    "fractions": ({"instances": (FACES[:2] * 0.9).tolist()}, "image 0: .*with fractions"),
    "truth values": ({"inputs": (FACES[:1] > 99).tolist()}, "image 0: .*truth values"),
    "text": ({"inputs": ["face.png"]}, "image 0: .*base64"),
    "truncated": ({"inputs": [text_of(FACES[0]), text_of(FACES[0])[:-5]]}, "image 1: .*base64"),
    "NaN": (b'{"inputs": [[' + b",".join([b"[" + b",".join([b"NaN"] * 48) + b"]"] * 48) + b"]]}", "not finite"),
    "empty": ({"inputs": []}, "expected at least one"),
    "no rows": ({"dataframe_split": COLUMN | {"data": []}}, "expected at least one"),
    "null": ({"dataframe_split": COLUMN | {"data": [[None]]}}, "image 0: .*got nothing"),
    "one image without a list": ({"inputs": FACES[0].tolist()}, "image 0: .*list around it"),
    "sizes": ({"dataframe_records": [{"image": [[1]]}]}, "image 0: has 1 rows"),
}


@pytest.mark.parametrize(("body", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_is_status_400_with_one_sentence(body: object, says: str, server: str) -> None:
    status, answer = post(server, body)
    assert status == 400
    assert set(answer) == {"error_code", "message"}  # no stack trace, no copy of the request
    assert len(answer["message"]) < 300
    assert re.search(says, answer["message"])


def test_requests_that_mlflow_refuses_show_no_line_of_our_code(server: str) -> None:
    bodies: list[object] = [b"{", {"images": [1]}, {"dataframe_records": [{"face": 1}]}, {"inputs": 7}]
    bodies += [{"inputs": FACES[:1].tolist(), "params": {"tta": "perhaps"}}]
    for body in bodies:
        status, answer = post(server, body)
        assert status == 400, answer
        assert "lhcnet" not in json.dumps(answer)
        assert "stack_trace" not in answer


def test_of_200_requests_at_once_none_is_lost(server: str, model: Path) -> None:
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda face: post(server, {"inputs": [text_of(face)]}), FACES))
    assert [status for status, _ in answers] == [200] * 200
    found = np.concatenate([probabilities(answer) for _, answer in answers])
    np.testing.assert_allclose(found, direct(model, FACES), atol=1e-6)
