"""How long the pipeline takes: the demo through Kubeflow's local runner, and a no-op `dvc repro`.

python benchmarks/pipeline.py            # on an idle machine; prints machine, versions and a table
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
}


def seconds(folder: Path, *command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "kfp", "mlflow", "dvc"))
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        faces = seconds(folder, "lhcnet", "faces", "data/raw/faces.zip")
        demo = seconds(folder, sys.executable, "-m", "pipeline", "local", "--profile", "demo")
        (folder / "params.yaml").write_bytes(subprocess.check_output(["lhcnet", "profile", "demo"], env=ENVIRONMENT))
        subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=folder, env=ENVIRONMENT, check=True)
        first = seconds(folder, "dvc", "repro")
        again = [seconds(folder, "dvc", "repro") for _ in range(5)]
    print("| what | asked for | here |\n| --- | --- | --- |")
    print(f"| draw 2,000 faces | - | {faces:.1f} s |")
    print(f"| demo, Kubeflow local runner | < 240 s | {demo:.0f} s |")
    print(f"| demo, dvc repro | - | {first:.0f} s |")
    print(f"| no-op dvc repro, median of {len(again)} | about 1 s | {statistics.median(again):.2f} s |")


if __name__ == "__main__":
    main()
