"""Submission: what is checked before anything is created, and what reaches the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.kubeflow_server import KubeflowServer

from lhcnet.errors import LhcnetError
from lhcnet.profiles import profile
from pipeline.cluster import Cluster
from pipeline.compile import compile_pipeline
from pipeline.source import check_source, version_of
from pipeline.submit import Submission, prepare_runs, submission_problems
from pipeline.sweep import sweep_of

from .conftest import DIGEST, MLFLOW, SOURCE, Command


def documents(text: str) -> list[dict[str, Any]]:
    return list(yaml.load_all(text, yaml.CSafeLoader))


def tasks_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    groups = (spec["root"], *spec["components"].values())
    return [task for group in groups for task in group.get("dag", {}).get("tasks", {}).values()]


def test_a_run_is_made_of_a_version_named_by_the_commit(server: KubeflowServer, submit: Command) -> None:
    result = submit("--name", "mine", "--experiment", "faces")
    assert result.exit_code == 0, result.output
    (run,) = server.runs.values()
    assert result.stdout == f"{run['run_id']}\n"
    assert f"mine: {run['run_id']}" in result.stderr
    assert f"Kubeflow: {server.url}/#/runs/details/{run['run_id']}" in result.stderr
    assert "MLflow: http://mlflow:5000, execution demo-" in result.stderr
    assert f"-{run['run_id'][:8]}\n" in result.stderr
    assert [e["display_name"] for e in server.experiments] == ["faces"]
    assert [(v["name"], p["name"]) for v, p in zip(server.versions, server.pipelines, strict=True)] == [
        ("c0ffeec0ffee", "lhcnet")
    ]
    assert run["display_name"] == "mine"
    assert run["runtime_config"]["parameters"]["source"] == SOURCE
    assert run["experiment_id"] == server.experiments[0]["experiment_id"]


def test_the_same_content_is_uploaded_once_and_other_content_gets_another_name(
    server: KubeflowServer, submit: Command
) -> None:
    assert "Version c0ffeec0ffee of the pipeline lhcnet uploaded." in submit().stderr
    assert "Version c0ffeec0ffee of the pipeline exists with the same content" in submit().stderr
    for said in ("uploaded", "exists with the same content"):
        result = submit("--set", "stage4.patience=7")
        assert "Version c0ffeec0ffee of the pipeline exists with other settings." in result.stderr
        assert said in result.stderr
    assert [v["name"].partition("-")[0] for v in server.versions] == ["c0ffeec0ffee"] * 2
    assert len(server.runs) == 4
    assert len(server.experiments) == len(server.pipelines) == 1
    versions = [run["pipeline_version_reference"]["pipeline_version_id"] for run in server.runs.values()]
    assert (versions[0], versions[2]) == (versions[1], versions[3])
    assert versions[0] != versions[2]


def test_what_is_uploaded_is_the_compiled_pipeline(prepared: Submission, tmp_path: Path) -> None:
    """The default of its source is one that the cluster can reach."""
    config = profile("demo", {"data.source": SOURCE})
    compile_pipeline(config, MLFLOW, tmp_path / "pipeline.yaml")
    assert documents(prepared.text) == documents((tmp_path / "pipeline.yaml").read_text())
    default = documents(prepared.text)[0]["root"]["inputDefinitions"]["parameters"]["source"]["defaultValue"]
    assert default == SOURCE
    assert {k: v for k, v in prepared.parameters.items() if k == "source"} == {"source": SOURCE}
    assert set(prepared.parameters) <= {"source", "source_version"}


def test_lost_trainings_get_another_key_of_the_cache(prepared: Submission) -> None:
    """Their tasks succeeded. All other items stay as they are, and so do their keys."""
    lost = {"A/seed-0": 1, "B/table2_small": 2, "C/table2_small/seed-1": 3, "LHC-NetC/B/table2_small": 1}
    names: list[str] = []

    def ask(execution: str) -> dict[str, int]:
        names.append(execution)
        return lost

    (again,) = prepare_runs([("", profile("demo"))], MLFLOW, SOURCE, lost=ask)
    assert names == [prepared.execution]
    first, second = (documents(run.text)[0]["root"]["inputDefinitions"]["parameters"] for run in (prepared, again))
    attempts = {
        name: [int(item["attempt"]) for item in second[name]["defaultValue"]] for name in ("set_a", "set_b", "set_c")
    }
    seeds_c = [int(item["seed"]) for item in second["set_c"]["defaultValue"]]
    assert attempts["set_a"] == [1, 0]
    assert attempts["set_b"][list(profile("demo").variants).index("table2_small")] == 2
    assert dict(zip(seeds_c, attempts["set_c"], strict=True))[1] == 3
    assert (sum(attempts["set_b"]), sum(attempts["set_c"])) == (2, 3)
    assert second["lhc_net_c_attempt"]["defaultValue"] == 1
    same = first.keys() - {"set_a", "set_b", "set_c", "lhc_net_c_attempt"}
    assert {name: first[name] for name in same} == {name: second[name] for name in same}


def test_no_cache_reaches_the_tasks_inside_loops(prepared: Submission) -> None:
    (fresh,) = prepare_runs([("", profile("demo"))], MLFLOW, SOURCE, cache=False)
    without = [task.get("cachingOptions") for task in tasks_of(documents(fresh.text)[0])]
    cached = [task.get("cachingOptions") for task in tasks_of(documents(prepared.text)[0])]
    assert without == [{}] * len(cached)
    assert cached.count({"enableCache": True}) > 10


def test_a_sweep_is_one_run_for_each_combination_with_one_tag(server: KubeflowServer, submit: Command) -> None:
    result = submit("--sweep", "stage4.patience=1,2", "--sweep", "seeds.b=3", "--name", "patience")
    assert result.exit_code == 0, result.output
    runs = list(server.runs.values())
    assert result.stdout.split() == [run["run_id"] for run in runs]
    labels = ["stage4.patience=1, seeds.b=3", "stage4.patience=2, seeds.b=3"]
    assert [run["display_name"] for run in runs] == [f"patience {label}" for label in labels]
    assert [run["description"] for run in runs] == labels
    found = []
    for run in runs:
        text = server.uploads[run["pipeline_version_reference"]["pipeline_version_id"]]
        containers = [e.get("container", {}) for e in documents(text)[0]["deploymentSpec"]["executors"].values()]
        variables = [{v["name"]: v["value"] for v in c["env"]} for c in containers if c]
        assert len({(v["LHCNET_SWEEP"], v["LHCNET_SWEEP_VALUES"]) for v in variables}) == 1
        found.append((variables[0]["LHCNET_SWEEP"], variables[0]["LHCNET_SWEEP_VALUES"]))
    assert len({sweep for sweep, _ in found}) == 1
    assert found[0][0].startswith("patience-")
    assert [values for _, values in found] == labels


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set", "stage4.patience=-1"], "--set: stage4.patience"),
        (["--source", ""], "--source: is empty, expected a path or a URI"),
        (["--sweep", "data.source='s3://b/1.zip','s3://b/2.zip'"], "data.source: all runs of a sweep have one source"),
        (["--set", "stage4.patienc=1"], "unknown key"),
        (["--set", "nope.deeper=1"], "nope.deeper: unknown key"),
        (["--set", "stage4.patience"], "expected key=value"),
        (["--set", "seeds.a=[1, 1]"], "must differ from each other"),
        (["--sweep", "stage4.patience=1,-1"], "--sweep: stage4.patience"),
        (["--sweep", "stage4.patience"], "expected key=value1,value2"),
        (["--sweep", "stage4.patience="], "expected key=value1,value2"),
        (["--sweep", "stage4.patience=1,1"], "a value is repeated"),
        (["--sweep", "seeds.b=1", "--sweep", "seeds.b=2"], "swept twice"),
        (["--sweep", f"seeds.b={','.join(map(str, range(60)))}"], "more than 50 runs"),
        (["--sweep", "seeds.b=[1"], "not YAML"),
        (["--source", "data/raw/fer2013.zip"], "which a cluster cannot read; expected s3://"),
        (["--source", "/home/me/fer2013.zip"], "which a cluster cannot read"),
        (["--source", "file:///checkpoints/fer2013.zip"], "the cluster has no volume"),
        (["--source", "s3://key:hunter2@bucket/f.zip"], "a password in the URI would stand in every record"),
        (["--source", "ftp://host/f.zip"], "unknown kind ftp://"),
        (["--source", "https://[host/f.zip"], "is no URI"),
        (["--cluster", "silent.yaml"], "MLFLOW_TRACKING_URI is missing"),
        (["--params", "params.yaml"], "not both"),
    ],
)
def test_a_mistake_is_found_before_the_server_is_asked(
    options: list[str], says: str, server: KubeflowServer, submit: Command, tmp_path: Path
) -> None:
    (tmp_path / "silent.yaml").write_text("image: registry.example/lhcnet:1.0\n")
    result = submit(*options)
    assert isinstance(result.exception, LhcnetError)
    assert says in str(result.exception)
    assert "hunter2" not in str(result.exception)
    assert server.requests == []


@pytest.mark.parametrize("user_interface", [False, True])
@pytest.mark.parametrize(
    ("tag", "warns", "refuses"),
    [
        ("2.17.0", "", ""),
        ("v2.14.3", "", ""),
        ("3.0.0", "", ""),
        ("2.13.0", "", "is Kubeflow Pipelines 2.13.0; expected at least 2.14"),
        ("1.8.5", "", "is Kubeflow Pipelines 1.8.5; expected at least 2.14"),
        ("unknown", "the back end does not say its version (unknown); expected at least 2.14", ""),
        (None, "the back end does not say its version", ""),
        ("nightly", "the back end does not say its version (nightly)", ""),
    ],
)
def test_the_version_of_the_back_end_is_checked(
    tag: str | None,
    warns: str,
    refuses: str,
    user_interface: bool,
    server: KubeflowServer,
    submit: Command,
    precompiled: None,
) -> None:
    """By the API server's own name of it, and by the name that the user interface's server gives it."""
    server.tag, server.user_interface = tag, user_interface
    result = submit()
    if refuses:
        assert refuses in str(result.exception)
        assert server.runs == {}
    else:
        assert result.exit_code == 0, result.output
        assert ("warning: " in result.stderr) == bool(warns)
        assert warns in result.stderr


def test_an_api_server_that_is_down_behind_its_user_interface(server: KubeflowServer, submit: Command) -> None:
    server.faults = {"GET .*healthz": lambda handler: handler.send(200, {"apiServerReady": False})}
    assert "its API server does not answer" in str(submit().exception)


def test_an_installation_with_several_users_needs_a_namespace(
    server: KubeflowServer, submit: Command, precompiled: None
) -> None:
    server.multi_user = True
    assert "expected --namespace with yours" in str(submit().exception)
    assert server.calls() == ["GET /apis/v2beta1/healthz"]
    assert submit("--namespace", "me").exit_code == 0
    assert [row["namespace"] for row in (*server.experiments, *server.pipelines)] == ["me", "me"]


def test_submit_waits_and_ends_with_the_status_of_the_run(
    server: KubeflowServer, submit: Command, prepared: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.submit.prepare_runs", lambda *_, **__: [prepared, prepared])
    result = submit("--wait")
    assert result.exit_code == 0
    assert [run["state"] for run in server.runs.values()] == ["SUCCEEDED", "SUCCEEDED"]
    create = server._create_run

    def create_failing(handler: Any) -> None:
        create(handler)
        *_, first, last = server.script.values()
        first[-1]["state"] = last[-1]["state"] = "FAILED"

    monkeypatch.setattr(server, "_create_run", create_failing)
    assert submit("--wait").exit_code == 1


@pytest.mark.parametrize(
    "source",
    [
        "s3://bucket/fer2013.zip",
        "gs://bucket/folder",
        "minio://bucket/fer2013.zip",
        "https://host/fer2013.zip",
        "dvc+https://git.example/data.git@v1:raw/fer2013.zip",
        "dvc+ssh://git@git.example/data.git@v1:raw/fer2013.zip",
        "file:///checkpoints/data/fer2013.zip",
    ],
)
def test_sources_that_a_cluster_can_reach(source: str) -> None:
    assert submission_problems(MLFLOW.model_copy(update={"checkpoints": "claim"}), source) == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("/checkpoints/fer2013.zip", "which a cluster cannot read"),
        ("checkpoints/f.zip", "which a cluster cannot read"),
        ("", "which a cluster cannot read"),
        ("file:///checkpoints/../etc/passwd", "a path on the cluster's volume"),
        ("file:///etc/passwd", "a path on the cluster's volume"),
        ("s3:///key", "expected one file"),
        ("dvc+file:///x@HEAD:raw.zip", "which a cluster cannot read"),
    ],
)
def test_sources_that_it_cannot(source: str, says: str) -> None:
    with pytest.raises(LhcnetError, match=says):
        check_source(source, Cluster(checkpoints="claim"))


def test_the_version_of_a_source_may_stand_behind_it() -> None:
    assert version_of(SOURCE) == f"sha256:{DIGEST}"
    assert version_of("file:///checkpoints/fer2013.zip") == ""


def test_compile_wants_a_default_source_that_a_cluster_can_reach(command: Command, tmp_path: Path) -> None:
    refused = command("compile", "--profile", "demo", "--out", "one.yaml")
    assert "which a cluster cannot read" in str(refused.exception)
    assert not (tmp_path / "one.yaml").exists()
    result = command("compile", "--profile", "demo", "--source", "s3://bucket/f.zip", "--out", "one.yaml")
    assert result.exit_code == 0
    spec = documents((tmp_path / "one.yaml").read_text())[0]
    assert spec["root"]["inputDefinitions"]["parameters"]["source"]["defaultValue"] == "s3://bucket/f.zip"


def test_a_sweep_has_all_combinations_and_values_may_be_lists() -> None:
    crossed = sweep_of(profile("demo"), ["stage4.patience=1,2", "seeds.b=3,4"])
    assert [(c.stage4.patience, c.seeds.b) for _, c in crossed] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    runs = sweep_of(profile("demo"), ["seeds.a=[0],[0, 1]"])
    assert [(label, config.seeds.a) for label, config in runs] == [("seeds.a=[0]", (0,)), ("seeds.a=[0, 1]", (0, 1))]
    assert sweep_of(profile("demo"), []) == [("", profile("demo"))]
