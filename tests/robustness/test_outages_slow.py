"""A server that sends a blank now and then, and never completes an answer: every call has a bound as a whole."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from support.outage import Step

from lhcnet.errors import LhcnetError
from lhcnet.tracking import bounded, writer_process
from lhcnet.tracking.folder import pending_journals
from lhcnet.tracking.journal import Execution, journaled
from lhcnet.tracking.registry import register
from lhcnet.tracking.replay import replay

BOUND = 3.0  # seconds, instead of 30
# The worker's bound is made small in its own process: `call_limit` is no less than 30 s for users.
SHORT = f"""
from lhcnet.tracking import writer_process
writer_process.call_limit = lambda: {BOUND}
"""


@pytest.fixture
def trickle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Address of the server. Processes that are started see a bound of some seconds."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
            while True:
                connection.sendall(b" ")
                time.sleep(0.5)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "sitecustomize.py").write_text(SHORT)
    path = f"{tmp_path / 'short'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    monkeypatch.setenv("PYTHONPATH", path)
    uri = f"http://127.0.0.1:{listening.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("LHCNET_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    bounded.stop()
    with closing(listening):
        yield uri
    bounded.stop()


def test_replay_and_registration_end_within_the_bound(trickle: str, tmp_path: Path) -> None:
    for name in "ab":
        with journaled(Execution(name, "d" * 64), "prepare", tags={}):
            pass
    first, second = replay(tmp_path / "journal", bounded.deliver)
    assert f"MLflow at {trickle}: a call was not answered completely within {BOUND:g} s" in first.lacking
    assert "did not answer in time" in second.lacking
    assert len(pending_journals(tmp_path / "journal")) == 2
    with (
        pytest.raises(LhcnetError, match="not answered completely"),
        journaled(Execution("c", "d" * 64), "register", tags={}, deliver=bounded.deliver) as run,
    ):
        register(run, "faces", tmp_path, rule="not_worse", tags={"weights": "w"})


def test_ctrl_c_ends_a_replay_at_once(trickle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journaled(Execution("a", "d" * 64), "prepare", tags={}):
        pass
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "500")
    (tmp_path / "short" / "sitecustomize.py").unlink()
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # `&` of a shell ignores it
    program = [sys.executable, "-c", f"{listening}; from lhcnet.cli import app; app()", "tracking", "replay"]
    process = subprocess.Popen(program, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (child := children.read_text().split()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    assert not Path(f"/proc/{child[0]}").exists()


def test_the_writer_of_a_killed_step_ends(trickle: str, tmp_path: Path) -> None:
    step = Step(tmp_path, trickle, 0.5)
    step.until(0)
    (child,) = Path(f"/proc/{step.process.pid}/task/{step.process.pid}/children").read_text().split()
    step.process.kill()
    step.process.wait()
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        time.sleep(0.05)
    assert len(pending_journals(tmp_path / "journal")) == 1


def test_the_bound_is_what_a_step_waits_and_no_less_than_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for wait, limit in (("0", 30), ("5", 30), ("300", 300)):
        monkeypatch.setenv("LHCNET_TRACKING_WAIT", wait)
        assert writer_process.call_limit() == limit
