"""The stand-alone pipeline through DVC, and through Kubeflow's local runner."""

from __future__ import annotations

from pathlib import Path

from support.drivers import copy_project, dvc, git, kubeflow

from lhcnet.config import Config
from lhcnet.profiles import to_yaml


def test_the_stand_alone_pipeline_is_the_same_by_dvc_and_kubeflow(
    one_seed: Config, environment: dict[str, str], tmp_path: Path
) -> None:
    copy_project(tmp_path)
    (tmp_path / "params.yaml").write_text(to_yaml(one_seed))
    git(tmp_path, "init", "-q")
    dvc(tmp_path, environment, "init", "-q")
    dvc(tmp_path, environment, "repro", "prepare", "start_weights")
    dvc(tmp_path, environment, "--cd", "standalone", "repro")
    by_dvc = tmp_path / "standalone" / "artifacts" / "report" / "standalone.json"
    kubeflow(tmp_path, environment, "--standalone")
    (report,) = tmp_path.glob("runs/*/*/compare-standalone/report")
    assert (report / "standalone.json").read_bytes() == by_dvc.read_bytes()
