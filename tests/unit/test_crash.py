"""Whatever no code foresaw is one sentence with a pointer to its traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lhcnet import crash

PROGRAM = """
import typer
from lhcnet.cli import main
app = typer.Typer(pretty_exceptions_enable=False)
@app.command()
def command() -> None:
    {does}
main(app)
"""


def run(does: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(does=does)],
        capture_output=True, text=True, check=False, cwd=folder, env=os.environ | env,
    )  # fmt: skip


def test_an_unexpected_error(tmp_path: Path) -> None:
    done = run("raise KeyError('sqlite://me:pass/word@host')", tmp_path, LHCNET_DEBUG="")
    assert done.returncode == crash.STATUS
    assert done.stderr.count("\n") == 1
    assert "KeyError: 'sqlite://***@host'" in done.stderr
    (log,) = (tmp_path / crash.LOGS).iterdir()
    assert f"traceback in {crash.LOGS / log.name}" in done.stderr
    assert "Traceback" in log.read_text()
    assert "pass" not in log.read_text().replace("passed", "")
    done = run("raise KeyError('x')", tmp_path, LHCNET_DEBUG="1")
    assert "Traceback" in done.stderr
    assert done.returncode == crash.STATUS


def test_an_interrupt(tmp_path: Path) -> None:
    done = run("import os, signal; os.kill(os.getpid(), signal.SIGINT)", tmp_path)
    assert (done.returncode, done.stderr) == (crash.INTERRUPTED, "")


def test_a_terminal_without_utf_8(tmp_path: Path) -> None:
    ascii_ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run("print('B \\u222a C')", tmp_path, **ascii_)
    assert (done.returncode, done.stdout) == (0, "B ? C\n")


def test_the_log_falls_back_to_the_folder_of_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")
    assert str(tmp_path) in crash.describe(ValueError("a\nb"), tmp_path / "file" / "logs")
