"""A model directory with a tiny network, and the same as MLflow has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.hostile.models import model_files

PROGRAM = """
import sys
from pathlib import Path
import mlflow
from lhcnet.serving.package import pyfunc_arguments
mlflow.pyfunc.save_model(sys.argv[2], **pyfunc_arguments(Path(sys.argv[1])))
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "model"
    folder.mkdir()
    for name, content in model_files("modules").items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def logged(model: Path) -> Path:
    """The model as `register` logs it: made by another process, because MLflow would load the copy of the code here."""
    folder = model.parent / "logged"
    subprocess.run([sys.executable, "-c", PROGRAM, str(model), str(folder)], check=True, capture_output=True)
    return folder
