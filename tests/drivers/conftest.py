"""A DVC project that has run once, and a second clone of it; commands that do not load their libraries anew."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.drivers import copy_project, dvc, git
from support.preloaded import programs

from lhcnet.config import Config
from lhcnet.profiles import to_yaml


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `dvc`, `lhcnet` and `python -m`, each a fork of a process that has loaded the libraries."""
    with programs(tmp_path_factory.mktemp("programs")) as folder:
        yield folder


@pytest.fixture(scope="module")
def environment(environment: dict[str, str], preloaded: Path) -> dict[str, str]:
    """The environment of commands, with the preloaded programs first."""
    return environment | {"PATH": f"{preloaded}{os.pathsep}{environment['PATH']}"}


@pytest.fixture(scope="module")
def dvc_project(one_seed: Config, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Git repository with versioned data, after `dvc repro`, `git commit` and `dvc push`."""
    folder = tmp_path_factory.mktemp("dvc")
    copy_project(folder)
    raw = folder / "data" / "raw" / "faces.csv"
    raw.parent.mkdir(parents=True)
    shutil.copy(one_seed.data.source, raw)
    data = one_seed.data.model_copy(update={"source": "data/raw/faces.csv"})
    (folder / "params.yaml").write_text(to_yaml(one_seed.model_copy(update={"data": data})))
    git(folder, "init", "-q")
    dvc(folder, environment, "init", "-q")
    dvc(folder, environment, "remote", "add", "-q", "-d", "storage", str(tmp_path_factory.mktemp("remote")))
    for message, command in (("project", ["add", "-q", "data/raw/faces.csv"]), ("results", ["repro"])):
        dvc(folder, environment, *command)
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", message)
    dvc(folder, environment, "push", "-q")
    return folder


@pytest.fixture(scope="module")
def clone(dvc_project: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second clone of `dvc_project` after `dvc pull`."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    git(dvc_project, "clone", "-q", ".", str(folder))
    dvc(folder, environment, "pull", "-q")
    return folder
