"""`dvc repro` gives the bytes of direct calls, and runs again only what changed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path

import mlflow
import pytest
import yaml
from support.drivers import assert_same_analysis, assert_same_files, copy_project, digest, dvc, git

from lhcnet.config import Config, Selection, load
from lhcnet.profiles import to_yaml
from lhcnet.saved import open_model
from lhcnet.tracking.folder import pending_journals


def test_dvc_gives_the_metrics_of_direct_calls(direct: Path, dvc_project: Path) -> None:
    assert digest(dvc_project / "artifacts" / "report") == digest(direct / "report")
    assert_same_analysis(dvc_project / "artifacts" / "analysis", direct / "analysis")
    for name in ("backbone/stage3", "a/seed-0", "b/wide", "c/seed-1", "control/0", "chosen"):
        assert_same_files(dvc_project / "artifacts" / name, direct / name)


def test_dvc_leaves_one_execution_in_the_record(dvc_project: Path, environment: dict[str, str]) -> None:
    """The steps leave their journals (LHCNET_TRACKING_WAIT=0); `register` writes them all."""
    assert pending_journals(dvc_project / ".lhcnet" / "journal") == []
    client = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([client.get_experiment_by_name("lhcnet").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert {"analyse", "compare", "evaluate", "register", "A seed 0"} <= {run.info.run_name for run in runs}


def lineage(model: str, folder: Path, environment: dict[str, str]) -> tuple[int, dict[str, tuple[str, str]], str]:
    """Exit status of `lhcnet lineage`, the state and the found value of each link, and what it says on stderr."""
    command = ["lhcnet", "lineage", model, "--json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    links = json.loads(done.stdout)["links"] if done.stdout else []
    return done.returncode, {link["name"]: (link["state"], link["found"]) for link in links}, done.stderr


def test_the_lineage_of_the_champion_is_verified(dvc_project: Path, environment: dict[str, str]) -> None:
    """One digest of the data stands in DVC's lock, in MLflow's data set and in the model."""
    status, links, _ = lineage("lhcnet-demo", dvc_project, environment)
    assert status == 0
    assert {name: state for name, (state, _) in links.items()} == {
        **dict.fromkeys(("version", "weights", "training run", "parent run", "data", "data in DVC"), "verified"),
        **dict.fromkeys(("Kubeflow run", "image"), "not checked"),
        "Git commit": "verified",
    }
    data = open_model(dvc_project / "artifacts" / "chosen").info.provenance.data
    assert links["data"][1] == links["data in DVC"][1] == data
    assert links["Git commit"][1] == git(dvc_project, "rev-parse", "HEAD~1").strip()
    assert lineage("artifacts/chosen", dvc_project, environment)[1] == links


def test_one_altered_bit_of_the_weights_breaks_the_lineage(dvc_project: Path, environment: dict[str, str]) -> None:
    store = Path(environment["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).parent / "mlartifacts"
    (weights,) = store.rglob("model.safetensors")
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        status, links, said = lineage("lhcnet-demo@champion", dvc_project, environment)
    finally:
        weights.write_bytes(content)
    assert status == 1
    assert [name for name, (state, _) in links.items() if state == "BROKEN"] == ["weights"]
    assert "lhcnet-demo@champion: its lineage is broken at: weights" in said


def test_a_no_op_repro_runs_nothing(dvc_project: Path, environment: dict[str, str]) -> None:
    assert "Running stage" not in dvc(dvc_project, environment, "repro")
    assert dvc(dvc_project, environment, "status").strip() == "Data and pipelines are up to date."


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("report/page.py", {"compare"}),
        (
            "data/transforms.py",
            {"stage1", "stage2", "stage3", "set_a", "set_b", "set_c", "control", "evaluate", "analyse"},
        ),
    ],
)
def test_edited_code_runs_what_computes_with_it(
    edited: str, changed: set[str], dvc_project: Path, environment: dict[str, str]
) -> None:
    file = dvc_project / "src" / "lhcnet" / edited
    source = file.read_text()
    try:
        file.write_text(f"{source}# a comment\n")
        status = json.loads(dvc(dvc_project, environment, "status", "--json"))
    finally:
        file.write_text(source)
    assert {name.split("@")[0] for name in status} - {"register"} == changed


def test_a_stage_4_setting_reruns_stage_4_and_what_follows(dvc_project: Path, environment: dict[str, str]) -> None:
    before = (dvc_project / "params.yaml").read_text()
    config = load(dvc_project / "params.yaml")
    values = config.to_dict()
    values["stage4"]["patience"] += 5
    try:
        (dvc_project / "params.yaml").write_text(to_yaml(Config.model_validate_json(json.dumps(values))))
        status = json.loads(dvc(dvc_project, environment, "status", "--json"))
        planned = dvc(dvc_project, environment, "repro", "--dry")
    finally:
        (dvc_project / "params.yaml").write_text(before)
    assert {name.split("@")[0] for name in status} == {"set_a", "set_b", "set_c"}
    for name in ("set_a@0", "set_b@wide", "select", "evaluate", "compare", "register"):
        assert f"'{name}'" in planned, name
    for name in ("prepare", "stage1", "stage2", "stage3"):
        assert f"Running stage '{name}'" not in planned, name


def test_dvc_shows_metrics_and_plots(dvc_project: Path, environment: dict[str, str]) -> None:
    metrics = json.loads(dvc(dvc_project, environment, "metrics", "show", "--json"))[""]["data"]
    shown = metrics["artifacts/report/summary.json"]["data"]
    assert 0 < shown["test_accuracy"] <= 1
    dvc(dvc_project, environment, "plots", "show", "-o", "plots", "-q")
    page = (dvc_project / "plots" / "index.html").read_text()
    for title in ("accuracy by stage", "Confusion on test", "val_loss"):
        assert title in page, title


def test_a_second_clone_computes_nothing_again(clone: Path, environment: dict[str, str]) -> None:
    """`register` alone runs: it has an effect outside."""
    dvc(clone, environment, "checkout")
    assert set(json.loads(dvc(clone, environment, "status", "--json"))) == {"register"}
    ran = [line for line in dvc(clone, environment, "repro").splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'register':"]
    assert "Everything is up to date" in dvc(clone, environment, "pull")
    assert git(clone, "status", "--porcelain") in ("", " M dvc.lock\n")


def damaged(cache: Path) -> list[Path]:
    """Objects of a DVC cache whose name is not the checksum of their content."""
    objects = [file for file in (cache / "files" / "md5").rglob("*") if file.is_file()]
    return [
        file
        for file in objects
        if hashlib.md5(file.read_bytes()).hexdigest() != (file.parent.name + file.name).removesuffix(".dir")
    ]


@pytest.mark.parametrize("link", ["symlink", "hardlink"])
def test_no_step_writes_through_a_link_into_the_cache(link: str, clone: Path, environment: dict[str, str]) -> None:
    """The steps run by hand, with other settings, because DVC removes its links before it runs a stage."""
    dvc(clone, environment, "config", "--local", "cache.type", link)
    dvc(clone, environment, "checkout", "--relink", "--force", "-q")
    linked = [clone / "artifacts" / name for name in ("selection.json", "data_report.json")]
    assert all(file.is_symlink() if link == "symlink" else file.stat().st_nlink > 1 for file in linked)
    settings = load(clone / "params.yaml").model_copy(update={"profile": "other"})
    settings = settings.model_copy(update={"selection": Selection(loss_factor=3.0)})
    (clone / "other.yaml").write_text(to_yaml(settings))
    stages = yaml.safe_load((clone / "dvc.yaml").read_text())["stages"]
    for name in ("register", "prepare", "select"):
        command = [*stages[name]["cmd"].split(), "--params", "other.yaml"]
        subprocess.run(command, cwd=clone, env=environment, check=True, capture_output=True)
    assert not any(file.is_symlink() or file.stat().st_nlink > 1 for file in linked)
    assert damaged(clone / ".dvc" / "cache") == []
    dvc(clone, environment, "checkout", "--force", "-q")
    (clone / "other.yaml").unlink()


@pytest.fixture
def experiments(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of experiments in copies of the project: the record must outlive the copy."""
    return environment | {"LHCNET_JOURNAL": str(tmp_path / "journal")}


def test_an_experiment_changes_figures_that_dvc_shows(clone: Path, experiments: dict[str, str]) -> None:
    """One more seed in set A."""
    dvc(clone, experiments, "exp", "run", "-n", "two-seeds", "-S", "seeds.a=[0,1]", "compare")
    metrics = json.loads(dvc(clone, experiments, "metrics", "diff", "HEAD", "two-seeds", "--json"))
    assert {"kept", "mean_test_accuracy_a"} & set(metrics["artifacts/report/summary.json"]), metrics
    assert "metrics_digest" not in metrics["artifacts/report/summary.json"]
    params = json.loads(dvc(clone, experiments, "params", "diff", "HEAD", "two-seeds", "--json"))
    assert params == {"params.yaml": {"seeds.a": {"old": "[0]", "new": "[0, 1]"}}}
    dvc(clone, experiments, "plots", "diff", "HEAD", "two-seeds", "-o", "plots", "-q")
    assert "two-seeds" in (clone / "plots" / "index.html").read_text()
    git(clone, "checkout", "-q", ".")
    dvc(clone, experiments, "checkout", "--force", "-q")


def test_experiments_in_copies_of_the_project(clone: Path, experiments: dict[str, str]) -> None:
    before = (clone / "params.yaml").read_text()
    dvc(clone, experiments, "exp", "run", "--temp", "-n", "in-a-copy", "-S", "analysis.images=10", "analyse")
    dvc(clone, experiments, "exp", "run", "--queue", "-n", "queued", "-S", "analysis.images=5", "analyse")
    dvc(clone, experiments, "queue", "start")
    deadline = time.monotonic() + 300
    while "Success" not in (status := dvc(clone, experiments, "queue", "status")):
        assert "Failed" not in status
        assert time.monotonic() < deadline, status
        time.sleep(3)
    assert (clone / "params.yaml").read_text() == before
    shown = dvc(clone, experiments, "exp", "show", "--csv", "--only-changed")
    assert {"in-a-copy", "queued"} <= {line.split(",")[0] for line in shown.splitlines()}, shown
    dvc(clone, experiments, "exp", "apply", "queued")
    assert load(clone / "params.yaml").analysis.images == 5
    assert json.loads((clone / "artifacts" / "analysis" / "analysis.json").read_text())["n"] == 5
    git(clone, "checkout", "-q", ".")
    dvc(clone, experiments, "checkout", "--force", "-q")


def test_profiles_live_side_by_side(clone: Path, environment: dict[str, str]) -> None:
    """A profile has a branch and a directory of its own (`git worktree`), and shares the cache."""
    other = clone.parent / "project-other"
    before = {file.name: file.read_bytes() for file in (clone / "params.yaml", clone / "dvc.lock")}
    git(clone, "worktree", "add", "-q", "-b", "other", str(other))
    dvc(other, environment, "cache", "dir", "--local", str(clone / ".dvc" / "cache"))
    dvc(other, environment, "checkout", "-q", "data/raw/faces.csv")
    settings = load(other / "params.yaml")
    data = settings.data.model_copy(update={"split_seed": 1})
    (other / "params.yaml").write_text(to_yaml(settings.model_copy(update={"profile": "other", "data": data})))
    dvc(other, environment, "repro", "prepare")
    assert (other / "dvc.lock").read_bytes() != before["dvc.lock"]
    assert {file.name: file.read_bytes() for file in (clone / "params.yaml", clone / "dvc.lock")} == before
    assert set(json.loads(dvc(clone, environment, "status", "--json"))) <= {"register"}


def test_bad_raw_data_fails_the_repro_with_one_sentence(
    one_seed: Config, environment: dict[str, str], preloaded: Path, tmp_path: Path
) -> None:
    """The programs as they are installed, with their start-up."""
    environment = environment | {"PATH": environment["PATH"].removeprefix(f"{preloaded}{os.pathsep}")}
    copy_project(tmp_path)
    (tmp_path / "bad.csv").write_text("emotion,pixels\n0,1 2 3\n")
    values = one_seed.to_dict()
    values["data"]["source"] = "bad.csv"
    (tmp_path / "params.yaml").write_text(to_yaml(Config.model_validate_json(json.dumps(values))))
    dvc(tmp_path, environment, "init", "--no-scm", "-q")
    done = subprocess.run(["dvc", "repro"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 255
    assert "bad.csv" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "artifacts" / "trainval").exists()
