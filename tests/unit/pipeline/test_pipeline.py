"""The compiled pipeline: deterministic, complete, and the same flow as dvc.yaml. Nothing here trains."""

from __future__ import annotations

import ast
import builtins
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as spec

from lhcnet.code_version import STEP_MODULES, step_digest
from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from lhcnet.profiles import profile
from pipeline.cluster import Cluster, Local, load_cluster
from pipeline.compile import compile_pipeline, compiled
from pipeline.local import count_tasks, run, show_progress

ROOT = Path(__file__).parents[3]
BODY = "comp-exit-handler-1"  # of the exit handler: the whole experiment
EXIT = 1  # the task of the exit handler


@pytest.fixture(scope="module")
def graphs() -> dict[str, dict[str, Any]]:
    """The main pipeline and the stand-alone one, without settings for Kubernetes."""
    return {
        name: compiled(profile("paper"), Cluster(), standalone=name == "stand-alone")[0]
        for name in ("main", "stand-alone")
    }


@pytest.fixture(scope="module")
def paper() -> tuple[dict[str, Any], dict[str, Any]]:
    """The main pipeline and its settings for Kubernetes."""
    cluster = Cluster(
        image="registry.example/lhcnet:1",
        gpus=2,
        node_selector={"pool": "gpu"},
        secret="mlflow",
        checkpoints="unfinished",
    )
    ir, kubernetes = compiled(profile("paper"), cluster)
    assert kubernetes is not None
    return ir, kubernetes


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    """Of the profile with the most tasks; two processes are compared in test_structure.py."""
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    for file in (one, two):
        compile_pipeline(profile("paper"), Cluster(), file)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_text().startswith("components:")
    with pytest.raises(LhcnetError, match=r"pipeline\.txt: expected a name that ends in \.yaml"):
        compile_pipeline(profile("paper"), Cluster(), tmp_path / "pipeline.txt")


def test_every_reference_resolves_and_every_executor_parses(paper: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ir = paper[0]
    executors = ir["deploymentSpec"]["executors"]
    for executor in executors.values():
        json_format.ParseDict(executor, spec.PipelineDeploymentConfig.ExecutorSpec())
    groups = [ir["root"]["dag"], *(c["dag"] for c in ir["components"].values() if "dag" in c)]
    tasks = 0
    for group in groups:
        for task in group["tasks"].values():
            tasks += 1
            component = ir["components"][task["componentRef"]["name"]]
            assert "dag" in component or component["executorLabel"] in executors
            assert set(task.get("dependentTasks", [])) <= set(group["tasks"])
    assert tasks >= 16


def loops(ir: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """(item, its type, consuming task, type there) of every loop item that a task takes as a whole.

    A field of an item (`parameterExpressionSelector`) is parsed out of a STRUCT.
    """
    groups = [ir["root"], *ir["components"].values()]
    for group in groups:
        for task in group.get("dag", {}).get("tasks", {}).values():
            if "parameterIterator" not in task:
                continue
            loop = ir["components"][task["componentRef"]["name"]]
            item = task["parameterIterator"]["itemInput"]
            of_item = loop["inputDefinitions"]["parameters"][item]["parameterType"]
            for name, inner in loop["dag"]["tasks"].items():
                types = ir["components"][inner["componentRef"]["name"]]["inputDefinitions"].get("parameters", {})
                for parameter, source in inner.get("inputs", {}).get("parameters", {}).items():
                    if source.get("componentInputParameter") == item:
                        wanted = types[parameter]["parameterType"]
                        yield item, of_item, name, "STRUCT" if "parameterExpressionSelector" in source else wanted


@pytest.mark.parametrize(("graph", "items"), [("main", 3), ("stand-alone", 1)])
def test_every_loop_item_has_the_type_that_its_consumers_expect(
    graph: str, items: int, graphs: dict[str, dict[str, Any]]
) -> None:
    """A back end's driver refuses an item of another type: bare `list` parameters compile to STRING items."""
    ir = graphs[graph]
    found = list(loops(ir))
    assert len({item for item, *_ in found}) == items
    assert [row for row in found if row[1] != row[3]] == []


def executors_of(paper: tuple[dict[str, Any], dict[str, Any]], name: str) -> list[dict[str, Any]]:
    found = paper[0]["deploymentSpec"]["executors"]
    return [e["container"] for key, e in found.items() if key.removeprefix("exec-").rstrip("-0123456789") == name]


def test_only_tasks_that_run_networks_request_gpus(paper: tuple[dict[str, Any], dict[str, Any]]) -> None:
    for name in ("train", "train-backbone", "train-best", "control", "evaluate", "analyse"):
        for container in executors_of(paper, name):
            assert container["resources"]["accelerator"]["resourceCount"] == "2", name
            assert container["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    for name in ("prepare", "start-weights", "insert-lhc", "best-of-b", "select", "compare", "register", "finish"):
        for container in executors_of(paper, name):
            assert "accelerator" not in container["resources"], name
    assert len(executors_of(paper, "train")) == 4


def test_image_and_execution_are_set_on_every_task(paper: tuple[dict[str, Any], dict[str, Any]]) -> None:
    executors = paper[0]["deploymentSpec"]["executors"]
    for name, executor in executors.items():
        assert executor["container"]["image"] == "registry.example/lhcnet:1", name
        assert any(e["name"] == "LHCNET_EXECUTION" for e in executor["container"]["env"]), name
    platform = paper[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert platform["exec-train"]["nodeSelector"]["labels"] == {"pool": "gpu"}
    assert "secretAsEnv" in platform["exec-prepare"]
    assert "unfinished" in str(platform["exec-train"]["pvcMount"])


@pytest.mark.parametrize("graph", ["main", "stand-alone"])
def test_no_list_of_artifacts_and_no_parameter_of_a_task_enters_a_loop(
    graph: str, graphs: dict[str, dict[str, Any]]
) -> None:
    """Both are wrong without an error.

    A back end (2.14 to 2.17) keeps one artifact of a list that enters a group of tasks; kfp's local runner puts the
    item of the loop in place of a parameter that another task has written.
    """
    ir = graphs[graph]
    groups = {name: component for name, component in ir["components"].items() if "dag" in component}
    assert len(groups) >= 2
    for name, group in groups.items():
        artifacts = group.get("inputDefinitions", {}).get("artifacts", {})
        assert [key for key, artifact in artifacts.items() if artifact.get("isArtifactList")] == [], name
        for task_name, task in group["dag"]["tasks"].items():
            if "parameterIterator" in task:
                sources = task["inputs"]["parameters"].values()
                assert [source for source in sources if "taskOutputParameter" in source] == [], task_name


@pytest.mark.parametrize("graph", ["main", "stand-alone"])
def test_every_loop_has_the_name_that_kfp_gave_it(graph: str, graphs: dict[str, dict[str, Any]]) -> None:
    """Back ends before 2.16 look for the collected outputs of a loop under this name, not under its display name."""
    ir = graphs[graph]
    tasks = ir["components"][BODY]["dag"]["tasks"]
    loops = {name: task["taskInfo"]["name"] for name, task in tasks.items() if "parameterIterator" in task}
    assert loops
    assert list(loops.values()) == list(loops)


@pytest.mark.parametrize("graph", ["main", "stand-alone"])
def test_the_code_that_computes_is_an_argument_of_every_task_that_may_come_from_the_cache(
    graph: str, graphs: dict[str, dict[str, Any]]
) -> None:
    ir = graphs[graph]
    groups = [ir["root"], *ir["components"].values()]
    tasks = [task for group in groups for task in group.get("dag", {}).get("tasks", {}).values()]
    cached = [
        task
        for task in tasks
        if "enableCache" in task.get("cachingOptions", {})
        and "executorLabel" in ir["components"][task["componentRef"]["name"]]
    ]
    assert len(cached) >= 4
    digests = {step_digest(step) for step in STEP_MODULES}
    for task in cached:
        assert task["inputs"]["parameters"]["code"]["runtimeValue"]["constant"] in digests


def test_people_see_what_a_task_is(paper: tuple[dict[str, Any], dict[str, Any]]) -> None:
    groups = [paper[0]["root"], *paper[0]["components"].values()]
    shown = [
        task["taskInfo"]["name"]
        for group in groups
        for name, task in group.get("dag", {}).get("tasks", {}).items()
        if not name.startswith("for-loop")
    ]
    assert len(set(shown)) == len(shown) == 18
    assert {"Set A: stage 4", "Set B: stage 4", "Set C: insert LHC, stage 4", "Experiment"} <= set(shown)
    assert "10 % loss rule" in paper[0]["pipelineInfo"]["description"]


def test_only_evaluate_receives_the_test_split(paper: tuple[dict[str, Any], dict[str, Any]]) -> None:
    receivers = {
        name
        for name, task in paper[0]["components"][BODY]["dag"]["tasks"].items()
        for source in task.get("inputs", {}).get("artifacts", {}).values()
        if source.get("taskOutputArtifact", {}).get("outputArtifactKey") == "test"
    }
    assert receivers == {"evaluate"}
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    with_test = {
        name for name, stage in stages.items() if "artifacts/test" in (stage.get("do") or stage).get("deps", [])
    }
    assert with_test == {"evaluate"}


def test_only_the_comparison_of_the_stand_alone_pipeline_receives_the_test_split(tiny: Config) -> None:
    ir, kubernetes = compiled(tiny, Local(), standalone=True)
    assert kubernetes is None
    tasks = ir["components"][BODY]["dag"]["tasks"]
    sealed = {
        name
        for name, task in tasks.items()
        for source in task.get("inputs", {}).get("artifacts", {}).values()
        if source.get("taskOutputArtifact", {}).get("outputArtifactKey") == "test"
    }
    assert sealed == {"compare-standalone"}
    stages = yaml.safe_load((ROOT / "standalone" / "dvc.yaml").read_text())["stages"]
    assert {name for name, stage in stages.items() if "../artifacts/test" in stage["deps"]} == {"compare"}
    (loop,) = (ir["components"][t["componentRef"]["name"]]["dag"]["tasks"] for n, t in tasks.items() if "loop" in n)
    runs = 2 * len(tiny.standalone.seeds)
    loops = 1
    assert count_tasks(tiny, standalone=True) == len(tasks) - loops + runs * len(loop) + EXIT


@pytest.mark.parametrize(("graph", "stage1"), [("main", "train-backbone"), ("stand-alone", "train-standalone")])
def test_stage_1_cannot_start_without_the_artifact_of_its_start_weights(
    graph: str, stage1: str, graphs: dict[str, dict[str, Any]]
) -> None:
    inputs = {
        name: component.get("inputDefinitions", {}).get("artifacts", {}).get("start_weights")
        for name, component in graphs[graph]["components"].items()
    }
    assert [name for name, found in inputs.items() if found] == [f"comp-{stage1}"]
    assert "isOptional" not in inputs[f"comp-{stage1}"]


def test_the_kubeflow_ui_describes_every_parameter(paper: tuple[dict[str, Any], dict[str, Any]]) -> None:
    parameters = paper[0]["root"]["inputDefinitions"]["parameters"]
    assert [name for name, parameter in parameters.items() if not parameter.get("description")] == []


def test_only_what_has_effects_outside_is_never_cached(paper: tuple[dict[str, Any], dict[str, Any]]) -> None:
    tasks = {**paper[0]["root"]["dag"]["tasks"], **paper[0]["components"][BODY]["dag"]["tasks"]}
    containers = {name: task for name, task in tasks.items() if not name.startswith(("for-loop", "exit-handler"))}
    never = {name for name, task in containers.items() if "enableCache" not in task["cachingOptions"]}
    assert never == {"register", "finish"}


def test_dvc_tracks_what_each_step_reads() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    params = {name: set((stage.get("do") or stage).get("params", [])) for name, stage in stages.items()}
    assert params["prepare"] == {"data"}
    assert params["stage1"] == {"network", "compute", "stage1", "seeds.backbone"}
    # a stage-4 setting re-runs stage 4 and what follows, nothing before
    assert {name for name, keys in params.items() if "stage4" in keys} == {"set_a", "set_b", "set_c"}
    assert {name for name, keys in params.items() if "network" in keys} == {"start_weights", "stage1"}


def test_nothing_in_the_library_imports_kfp_or_dvc_and_only_two_places_mlflow() -> None:
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            top = {name.split(".")[0] for name in names}
            assert not top & {"kfp", "dvc"}, file
            assert "mlflow" not in top or file.parent.name in ("tracking", "serving"), file


def test_cluster_settings_are_validated(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("image: a/b:1\ngpu: amd.com/gpu\ngpus: 1\nresources: {train: {memory: 32G}}\n")
    assert load_cluster(file).gpu == "amd.com/gpu"
    file.write_text("gpuss: 1\n")
    with pytest.raises(LhcnetError, match=r"cluster\.yaml: gpuss: unknown key"):
        load_cluster(file)


def test_count_tasks_agrees_with_the_compiled_pipeline(tiny: Config) -> None:
    ir, _ = compiled(tiny, Local())
    loops = {"for-loop-2": len(tiny.seeds.a), "for-loop-3": len(tiny.variants), "for-loop-4": len(tiny.seeds.c)}
    total = 0
    for name, task in ir["components"][BODY]["dag"]["tasks"].items():
        inner = ir["components"][task["componentRef"]["name"]]
        total += len(inner["dag"]["tasks"]) * loops[name] if "dag" in inner else 1
    assert count_tasks(tiny) == total + EXIT


def test_the_progress_shows_log_lines_and_finished_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(tmp_path, 2):
        (tmp_path / "steps.log").write_text("stage1 epoch 1\n")
        for task in ("prepare", "for-loop-1/train"):
            (tmp_path / task).mkdir(parents=True)
            (tmp_path / task / "executor_output.json").touch()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "stage1 epoch 1\n" in shown.err
    assert "2/2" in shown.err


def test_a_failed_task_ends_the_run_with_its_error(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kfp's own text names the task alone; the terminal shows what the task found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'src'}")
    for name in ("MLFLOW_TRACKING_URI", "LHCNET_JOURNAL", "LHCNET_TASK_FOLDER"):  # `run` sets them
        monkeypatch.setenv(name, "")
    (tmp_path / "raw.csv").write_text("emotion,pixels\n0,1 2 3\n")
    printer, handlers = builtins.print, logging.getLogger().handlers[:]
    with pytest.raises(LhcnetError, match=r"raw\.csv.*log: ") as error:
        run(tiny, str(tmp_path / "raw.csv"), tmp_path / "runs")
    assert "\n" not in str(error.value)
    (log,) = tmp_path.glob("runs/*/log.txt")
    assert "Traceback" in log.read_text()
    assert (builtins.print, logging.getLogger().handlers) == (printer, handlers)


def test_a_missing_source_is_reported_before_anything_runs(tiny: Config, tmp_path: Path) -> None:
    with pytest.raises(LhcnetError, match="expected FER2013 as a file, folder or zip"):
        run(tiny, str(tmp_path / "nothing.zip"), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_configuration_for_the_cpu_requests_no_gpu() -> None:
    for executor in compiled(profile("cpu"), Cluster())[0]["deploymentSpec"]["executors"].values():
        assert "accelerator" not in executor.get("container", {}).get("resources", {})
