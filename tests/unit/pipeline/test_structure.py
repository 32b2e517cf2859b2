"""The structural check accepts every pipeline of the project, and names every kind of damage."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from lhcnet.config import Config
from lhcnet.profiles import PROFILES, profile
from pipeline.cluster import Cluster, Local
from pipeline.compile import compiled
from pipeline.structure import structure_problems

ROOT = Path(__file__).parents[3]
EVERYTHING = {
    "image": "registry.example/lhcnet:1",
    "shm": "1Gi",
    "node_selector": {"pool": "gpu"},
    "node_affinity": {"zone": ["a", "b"]},
    "labels": {"kueue.x-k8s.io/queue-name": "gpus"},
    "pull_secrets": ["registry"],
    "run_as_user": 1234,
    "run_as_group": 0,
    "time_limits": {"train": "12h", "prepare": "1h"},
    "deadline": "3d",
    "env": {"MLFLOW_TRACKING_URI": "http://mlflow"},
    "secret": "mlflow",
    "checkpoints": "unfinished",
}


def everything() -> Cluster:
    return Cluster.model_validate(EVERYTHING, strict=False)


@pytest.mark.parametrize(
    ("name", "cluster"),
    # with other settings of the cluster, a profile for a GPU and one for the CPU
    [*((name, Cluster) for name in PROFILES), *product(("paper", "demo"), (Local, everything))],
)
@pytest.mark.parametrize("standalone", [False, True])
def test_the_pipelines_have_no_problems(name: str, cluster: Callable[[], Cluster], standalone: bool) -> None:
    assert structure_problems(*compiled(profile(name), cluster(), standalone=standalone)) == []


Documents = tuple[dict[str, Any], dict[str, Any]]


def loop_over_seeds(ir: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A loop over seeds: the definition of its item, and its component."""
    for group in (ir["root"], *ir["components"].values()):
        for task in group.get("dag", {}).get("tasks", {}).values():
            if "parameterIterator" in task:
                component = ir["components"][task["componentRef"]["name"]]
                item = component["inputDefinitions"]["parameters"][task["parameterIterator"]["itemInput"]]
                return item, component
    raise AssertionError("no loop")


def item_is_text(ir: Any, _: Any) -> None:
    loop_over_seeds(ir)[0]["parameterType"] = "STRING"


def group_of(ir: dict[str, Any], component: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A group that has a task of this component, and the task."""
    for group in (ir["root"], *ir["components"].values()):
        for task in group.get("dag", {}).get("tasks", {}).values():
            if task["componentRef"]["name"] == f"comp-{component}":
                return group, task
    raise AssertionError(component)


def named_loop(ir: Any, _: Any) -> None:
    for group in (ir["root"], *ir["components"].values()):
        for task in group.get("dag", {}).get("tasks", {}).values():
            if "parameterIterator" in task:
                task["taskInfo"]["name"] = "set-a"


def list_into_a_group(ir: Any, _: Any) -> None:
    _, component = loop_over_seeds(ir)
    (artifact, *_rest) = component["inputDefinitions"]["artifacts"].values()
    artifact["isArtifactList"] = True


def unknown_component(ir: Any, _: Any) -> None:
    group_of(ir, "compare")[1]["componentRef"]["name"] = "comp-nothing"


def unknown_executor(ir: Any, _: Any) -> None:
    ir["components"]["comp-compare"]["executorLabel"] = "exec-nothing"


def unknown_dependency(ir: Any, _: Any) -> None:
    group_of(ir, "compare")[1]["dependentTasks"].append("nothing")


def artifact_of_a_task_that_is_not_awaited(ir: Any, _: Any) -> None:
    group_of(ir, "compare")[1]["dependentTasks"].remove("evaluate")


def artifact_of_another_type(ir: Any, _: Any) -> None:
    ir["components"]["comp-evaluate"]["inputDefinitions"]["artifacts"]["test"]["artifactType"] = {
        "schemaTitle": "system.Model",
        "schemaVersion": "0.0.1",
    }


def list_for_one_artifact(ir: Any, _: Any) -> None:
    del ir["components"]["comp-evaluate"]["inputDefinitions"]["artifacts"]["set_a"]["isArtifactList"]


def missing_artifact(ir: Any, _: Any) -> None:
    del group_of(ir, "evaluate")[1]["inputs"]["artifacts"]["test"]


def missing_parameter(ir: Any, _: Any) -> None:
    del group_of(ir, "evaluate")[1]["inputs"]["parameters"]["evaluation"]


def superfluous_parameter(ir: Any, _: Any) -> None:
    del ir["components"]["comp-evaluate"]["inputDefinitions"]["parameters"]["evaluation"]


def damaged_executor(ir: Any, _: Any) -> None:
    ir["deploymentSpec"]["executors"]["exec-compare"]["container"]["imagee"] = "x"


def unused_executor(ir: Any, _: Any) -> None:
    ir["deploymentSpec"]["executors"]["exec-old"] = {}


def damaged_platform(_: Any, platform: Any) -> None:
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors["exec-compare"]["pvcMount"] = [{"mountPat": "/checkpoints"}]


def platform_of_another_executor(_: Any, platform: Any) -> None:
    platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-old"] = {}


def default(name: str, value: object) -> Callable[[Any, Any], None]:
    def change(ir: Any, _: Any) -> None:
        ir["root"]["inputDefinitions"]["parameters"][name]["defaultValue"] = value

    return change


def environment(value: str) -> Callable[[Any, Any], None]:
    def change(ir: Any, _: Any) -> None:
        ir["deploymentSpec"]["executors"]["exec-compare"]["container"]["env"].append({"name": "A", "value": value})

    return change


def output_of_no_task(ir: Any, _: Any) -> None:
    _, component = loop_over_seeds(ir)
    (output, *_rest) = component["dag"]["outputs"]["artifacts"].values()
    output["artifactSelectors"][0]["producerSubtask"] = "nothing"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (item_is_text, "parameter seed is a field of STRING; expected STRUCT"),
        (item_is_text, "item of pipelinechannel--set_a: {'attempt'"),
        (named_loop, "the loop is named 'set-a'"),
        (list_into_a_group, "is a list, of which only one artifact would enter the group"),
        (unknown_component, "'comp-nothing' names no component"),
        (unknown_executor, "executorLabel 'exec-nothing' names no executor"),
        (unknown_dependency, "dependentTask nothing is no task of"),
        (artifact_of_a_task_that_is_not_awaited, "comes from evaluate.scores, which neither a task before it"),
        (artifact_of_another_type, "artifact test gets system.Dataset; expected system.Model"),
        (list_for_one_artifact, "artifact set_a gets a list; expected the other"),
        (missing_artifact, "artifact test has no value"),
        (missing_parameter, "parameter evaluation has no value"),
        (superfluous_parameter, "parameter evaluation is no input of its component"),
        (damaged_executor, "executor exec-compare: is not an ExecutorSpec"),
        (unused_executor, "executor exec-old: no component uses it"),
        (damaged_platform, "exec-compare is not a KubernetesExecutorConfig"),
        (platform_of_another_executor, "exec-old names no executor"),
        (default("registry", "{{$.pipeline_job_uuid}}"), "the back end would replace text"),
        (default("registry", "/kfp-workspace/model"), "the back end would replace text"),
        (default("registry", None), "parameter registry: null"),
        (default("seed_b", "0"), "'0' is not of the type NUMBER_INTEGER"),
        (default("seed_b", 0.5), "0.5 is no integer"),
        (default("seed_b", 2**53 + 2), "is not exact as a double"),
        (default("seed_b", True), "True is not of the type NUMBER_INTEGER"),
        (default("set_a", []), "loop over an empty list"),
        (default("set_a", [1]), "item of pipelinechannel--set_a: 1 is not of the type STRUCT"),
        (default("set_a", [{"seed": "2", "attempt": 0}]), "'seed' of an item: '2' is not of the type NUMBER_INTEGER"),
        (default("set_c", [{"seed": 2}]), "item of the loop has no 'attempt', which task train-best takes"),
        (default("context", {"text": "x" * 130_000}), "expected at most 120,000"),
        (environment("$(HOME)/x"), "'$(HOME)/x' would be changed"),
        (environment("{{workflow.name}}"), "would be changed"),
        (output_of_no_task, "comes from nothing."),
    ],
)
def test_every_damage_is_named(damage: Callable[[Any, Any], None], says: str, documents: Documents) -> None:
    ir, platform = copy.deepcopy(documents)
    damage(ir, platform)
    problems = structure_problems(ir, platform)
    assert any(says in problem for problem in problems), problems
    assert not any("\n" in problem for problem in problems)


@pytest.fixture(scope="module")
def documents() -> Documents:
    ir, platform = compiled(profile("demo"), everything())
    assert platform is not None
    return ir, platform


def test_an_escaped_dollar_is_allowed(documents: Documents) -> None:
    ir, platform = copy.deepcopy(documents)
    environment("$$(HOME)")(ir, platform)
    assert structure_problems(ir, platform) == []


def test_two_processes_with_other_hash_seeds_write_the_same_bytes(tmp_path: Path) -> None:
    """By both names of the program, with the most settings; nothing may follow the order of a hash table."""
    (tmp_path / "params.yaml").write_text("")  # not read
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(EVERYTHING))
    written = []
    for seed, program in (("0", ["-m", "pipeline"]), ("1", ["-c", "from lhcnet.cli import main; main()", "pipeline"])):
        options = ["--profile", "paper", "--source", "s3://bucket/fer2013.zip", "--cluster", "cluster.yaml"]
        done = subprocess.run(
            [sys.executable, *program, "compile", *options, "--out", f"{seed}.yaml"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, f"{seed}.yaml\n"), done.stderr
        written.append((tmp_path / f"{seed}.yaml").read_bytes())
    assert written[0] == written[1]
    ir, platform = yaml.safe_load_all(written[0])
    assert structure_problems(ir, platform) == []


def test_settings_from_the_command_line_are_checked_too(tiny: Config) -> None:
    """A text in the settings that the back end would replace is a problem of the pipeline, not of a task later."""
    config = tiny.model_copy(update={"data": tiny.data.model_copy(update={"source": "s3://bucket/{{x}}.zip"})})
    assert any("{{x}}" in problem for problem in structure_problems(*compiled(config, Cluster())))
