"""The scripts in examples/, each in a process of its own as a reader starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.drawn_results import draw_results
from support.drivers import ROOT

from lhcnet.config import Config
from lhcnet.io.files import write_json
from lhcnet.protocol.results import summarise


def run(script: str, *arguments: str | Path) -> str:
    """Standard output of an example, which has to end with status 0."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lhc_in_torchvision_changes_nothing_until_it_is_trained() -> None:
    out = run("lhc_in_torchvision.py")
    assert "outputs unchanged by the insertion: True" in out
    moved = [line for line in out.splitlines() if line.startswith("w of layer") and "0.000000" not in line]
    assert len(moved) == 3, out


def test_train_and_predict() -> None:
    out = run("train_and_predict.py", "--images", "400", "--epochs", "1")
    assert out.count("epoch 1: validation accuracy") == 2  # the ResNet and the LHC-Net
    assert "test accuracy" in out
    assert out.count(", predicted ") >= 5


def test_compare_executions(tiny: Config, tmp_path: Path) -> None:
    for name, accuracy in (("first", 0.70), ("second", 0.75)):
        results = draw_results(tiny, accuracy=accuracy)
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "summary.json", summarise(results.selection, results.evaluation).to_dict())

    out = run("compare_executions.py", tmp_path / "first", tmp_path / "second")
    row = next(line.split() for line in out.splitlines() if line.startswith("test_accuracy "))
    first, second, difference = (float(value) for value in row[1:])
    assert first < second
    assert abs(second - first - difference) < 1e-6
    assert "Equal digests" not in out
    assert "Equal digests" in run("compare_executions.py", tmp_path / "first", tmp_path / "first")
