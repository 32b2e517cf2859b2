"""What the tests of the three drivers share: calling DVC and Kubeflow's local runner, and comparing results."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copy_project(folder: Path) -> None:
    """What `dvc repro` needs: the graph, and the code it depends on."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copytree(ROOT / "standalone", folder / "standalone")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))


def dvc(folder: Path, environment: dict[str, str], *arguments: str, said: bool = False) -> str:
    """Returns what is printed; with `said`, also what the steps say (stderr)."""
    env = environment | {"DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(["dvc", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr if said else done.stdout


def kubeflow(folder: Path, environment: dict[str, str], *options: str) -> str:
    """Run the pipeline of the folder's params.yaml; returns what is printed."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "local", "--root", str(folder / "runs"), *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    logs = [p.read_text(errors="replace")[-5000:] for p in folder.glob("runs/*/log.txt")]
    assert done.returncode == 0, "\n".join([done.stderr[-3000:], *logs])
    return done.stdout


def digest(report: Path) -> str:
    return str(json.loads((report / "summary.json").read_text())["metrics_digest"])


def assert_same_analysis(one: Path, other: Path) -> None:
    assert (one / "analysis.json").read_bytes() == (other / "analysis.json").read_bytes()
