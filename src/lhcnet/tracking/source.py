"""What made a run: user, program, Git commit, image, revision of the DVC project. MLflow shows its own tags of them."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path

from lhcnet.tracking.kubeflow import EXECUTION_VARIABLE, RUN_TAG, kubeflow_run, sweep_tags

IMAGE_VARIABLE, COMMIT_VARIABLE = "LHCNET_IMAGE", "LHCNET_COMMIT"
NOTE = "mlflow.note.content"  # tag that the user interface shows as the description of a run, in Markdown
DVC_REVISION = "dvc_revision"  # tag: commit of the DVC project, or the revision that a dvc+ source names


def source_tags() -> dict[str, str]:
    """Tags of the runs of a step, and of its execution; what is not known is left out.

    `image` is the image of the cluster's settings, with its digest if it is pinned there. In a stage of `dvc repro` or
    `dvc exp run`, `dvc_revision` is the commit that the workspace is based on.
    """
    commit = os.environ.get(COMMIT_VARIABLE) or _git("rev-parse", "HEAD")
    dirty = not os.environ.get(COMMIT_VARIABLE) and bool(_git("status", "--porcelain", "--untracked-files=no"))
    in_dvc = "DVC_STAGE" in os.environ
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.name": _program(),
        "mlflow.source.type": "LOCAL",  # the other words of MLflow mean Databricks, or a project of MLflow
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.dirty": "true" if dirty else "",
        "image": os.environ.get(IMAGE_VARIABLE, ""),
        DVC_REVISION: (os.environ.get("DVC_EXP_BASELINE_REV") or commit) if in_dvc else "",
        "dvc_exp": os.environ.get("DVC_EXP_NAME", ""),
        RUN_TAG: kubeflow_run(),
    }
    return {name: value for name, value in (tags | sweep_tags()).items() if value}


def _user() -> str:
    """Who runs this: LOGNAME, or the name of the process's user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return ""


def _program() -> str:
    """The command without its arguments, which may hold an address with a password."""
    if EXECUTION_VARIABLE in os.environ:
        return "lhcnet pipeline"
    name = Path(sys.argv[0]).name
    command = sys.argv[1] if len(sys.argv) > 1 and name == "lhcnet" else ""
    return f"{name} {command}" if command.replace("-", "").isalpha() else name


def _git(*arguments: str) -> str:
    """What git prints; nothing where there is no git or no repository."""
    try:
        asked = subprocess.run(
            ["git", "--no-optional-locks", *arguments], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""
