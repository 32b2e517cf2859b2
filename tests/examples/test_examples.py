"""The scripts in examples/, each in a process of its own as a reader starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.drivers import ROOT

from lhcnet.io.files import write_json
from lhcnet.protocol.results import Summary


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


def test_compare_executions(tmp_path: Path) -> None:
    for name, accuracy in (("first", 0.70), ("second", 0.75)):
        summary = {
            "chosen": f"C/table2/{name}",
            "val_accuracy": accuracy,
            "test_accuracy": accuracy - 0.01,
            "test_accuracy_ci95": [accuracy - 0.02, accuracy],
            "test_accuracy_tta": None,
        }
        assert set(summary) <= set(Summary.model_fields)  # as `compare` writes them
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "summary.json", summary)
        write_json(tmp_path / name / "statistics.json", {"metrics_digest": name})

    out = run("compare_executions.py", tmp_path / "first", tmp_path / "second")
    rows = {words[0]: words[1:] for line in out.splitlines() if (words := line.split())}
    assert rows["test_accuracy"] == ["0.69", "0.74", "0.05"]
    assert rows["test_accuracy_ci95_low"] == ["0.68", "0.73", "0.05"]
    assert rows["chosen"] == ["C/table2/first", "C/table2/second", "-"]
    assert "Equal digests" not in out
    assert "Equal digests" in run("compare_executions.py", tmp_path / "first", tmp_path / "first")
