"""`lhcnet lineage`: each link that can break breaks it, by name. The whole chain is tested with `dvc repro`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from support.drawn_runs import DrawnRuns
from typer.testing import CliRunner

from lhcnet.cli import app
from lhcnet.errors import LhcnetError
from lhcnet.saved import open_model
from lhcnet.tracking.champions import CHAMPION
from lhcnet.tracking.kubeflow import RUN_TAG
from lhcnet.tracking.lineage import BROKEN, NOT_CHECKED, VERIFIED, Link, lineage
from lhcnet.tracking.mlflow_runs import KEY, PARENT_TAG, WEIGHTS_TAG

GREEN = {"version", "weights", "training run", "parent run"}


@pytest.fixture
def model(direct: Path) -> Path:
    return direct / "chosen"


@pytest.fixture
def training(tracking: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Id of the run of the training of `model`, which is registered as version 1 of `faces`."""
    client = mlflow.MlflowClient(tracking)
    experiment = client.create_experiment("lhcnet", artifact_location=(model.parents[1] / "mlartifacts").as_uri())
    drawn, info = DrawnRuns(client, experiment), open_model(model).info
    parent = drawn.run("x", "x")
    tags = {PARENT_TAG: parent, WEIGHTS_TAG: str(info.weights), "data_digest": info.provenance.data}
    run_id = drawn.run(f"x/train/{info.provenance.id}", "A seed 0", tags=tags)
    client.create_registered_model("faces")
    tags = {WEIGHTS_TAG: str(info.weights), "data_digest": info.provenance.data}
    version = client.create_model_version("faces", model.as_uri(), run_id=run_id, tags=tags)
    client.set_registered_model_alias("faces", CHAMPION, version.version)
    monkeypatch.chdir(Path(tracking.removeprefix("sqlite:///")).parent)
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    return run_id


def states(links: list[Link]) -> dict[str, str]:
    return {link.name: link.state for link in links}


def test_a_directory_has_the_lineage_of_its_training(training: str, model: Path) -> None:
    links = lineage(str(model))
    assert {name for name, state in states(links).items() if state == VERIFIED} == GREEN
    assert BROKEN not in states(links).values()
    assert links[0].found == "faces version 1"
    assert training in links[2].found


Damage = Callable[[mlflow.MlflowClient, str], object]


@pytest.mark.parametrize(
    ("link", "damage", "why"),
    [
        ("training run", lambda c, run: c.delete_run(run), "is deleted; `mlflow runs restore --run-id"),
        ("training run", lambda c, run: c.set_tag(run, WEIGHTS_TAG, "e" * 64), f"has the weights {'e' * 64}, expected"),
        ("parent run", lambda c, run: c.set_tag(run, PARENT_TAG, "f" * 32), "there is none with this id"),
        ("parent run", lambda c, run: c.set_tag(run, KEY, "y/train/A/seed-0"), "expected the execution of y/train"),
        ("data", lambda c, run: c.set_tag(run, "data_digest", "a" * 64), f"the training run has {'a' * 64}"),
        ("Git commit", lambda c, run: c.set_tag(run, "mlflow.source.git.commit", "main"), "expected the hexadecimal"),
    ],
)
def test_a_link_that_breaks_is_named(
    link: str, damage: Damage, why: str, training: str, tracking: str, model: Path
) -> None:
    damage(mlflow.MlflowClient(tracking), training)
    links = lineage("models:/faces/1")
    broken = {one.name: one.why for one in links if one.state == BROKEN and one.name != "weights"}
    assert broken.keys() == {link}
    assert why in broken[link]


def test_a_version_that_comes_from_the_run_of_register_has_its_training(training: str, tracking: str) -> None:
    client = mlflow.MlflowClient(tracking)
    (version,) = client.search_model_versions("name = 'faces'")
    register = client.create_run(client.get_run(training).info.experiment_id).info.run_id
    client.create_model_version("faces", version.source, run_id=register, tags=version.tags)
    link = lineage("faces/2")[2]
    assert (link.name, link.state) == ("training run", VERIFIED)
    assert training in link.found


def test_a_commit_is_looked_up_in_the_repository_of_the_folder(training: str, tracking: str, model: Path) -> None:
    subprocess.run(["git", "init", "-q", "."], check=True)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "--allow-empty", "-m", "x"]
    subprocess.run(git, check=True)
    known = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    for commit, state in ((known, VERIFIED), ("0" * 40, BROKEN)):
        mlflow.MlflowClient(tracking).set_tag(training, "mlflow.source.git.commit", commit)
        assert states(lineage(str(model)))["Git commit"] == state


def test_kubeflow_is_asked_for_the_run(training: str, tracking: str, model: Path) -> None:
    def gone(run_id: str) -> str:
        raise LhcnetError(f"there is no run {run_id}")

    mlflow.MlflowClient(tracking).set_tag(training, RUN_TAG, "r-1")
    assert states(lineage(str(model)))["Kubeflow run"] == NOT_CHECKED
    assert states(lineage(str(model), lambda _: "SUCCEEDED"))["Kubeflow run"] == VERIFIED
    assert states(lineage(str(model), gone))["Kubeflow run"] == BROKEN


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("nobody", "has no version of a registered model 'nobody'"),
        ("faces/7", "there is no version 7 of faces; versions: 1"),
        ("faces@candidate", "there is no alias 'candidate' of faces; versions: 1"),
    ],
)
def test_what_does_not_exist_is_said(asked: str, says: str, training: str) -> None:
    with pytest.raises(LhcnetError, match=says):
        lineage(asked)


def test_the_command_prints_each_link_and_fails_on_a_broken_one(training: str, tracking: str, model: Path) -> None:
    shown = CliRunner().invoke(app, ["lineage", str(model)])
    assert shown.exit_code == 0
    assert "training run" in shown.stdout
    mlflow.MlflowClient(tracking).set_tag(training, WEIGHTS_TAG, "e" * 64)
    broken = CliRunner().invoke(app, ["lineage", "faces"])
    assert broken.exit_code == 1
    assert "BROKEN" in broken.stdout
    assert isinstance(broken.exception, LhcnetError)
