"""`pipeline check`: images, contradictions, and the needs of a run."""

from typing import Any

import pytest
from google.protobuf import json_format
from kfp import dsl

from components import component
from lhcnet.config import Config
from lhcnet.profiles import profile
from pipeline.check import check_pipeline, image_risk
from pipeline.cluster import Cluster, Resources
from pipeline.footprint import footprint
from pipeline.local import count_tasks

SHA = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("image", "problem", "note"),
    [
        (f"registry.example/lhcnet@{SHA}", "", ""),
        (f"registry.example:5000/lhcnet:1.0@{SHA}", "", ""),
        ("registry.example/lhcnet:0.1.0", "", "is named by a tag"),
        ("registry.example:5000/lhcnet", "neither tag nor digest", ""),
        ("registry.example/lhcnet:latest", "the tag 'latest'", ""),
        ("registry.example/lhcnet:main", "the tag 'main'", ""),
        ("registry.example/lhcnet@sha256:12", "a digest that is not 64", ""),
    ],
)
def test_an_image_without_a_fixed_name_is_a_problem_and_a_tag_a_risk(image: str, problem: str, note: str) -> None:
    found = image_risk(image)
    assert problem in found[0]
    assert note in found[1]
    assert [bool(text) for text in found] == [bool(problem), bool(note)]


@component
def train(value: int) -> int:
    """A task."""
    return value


@component
def select(values: list) -> int:
    """A task."""
    return len(values)


def test_needs_of_loops_that_run_at_the_same_time_add_up() -> None:
    @dsl.pipeline(name="loops")
    def loops(many: list[int] = [1, 2, 3, 4, 5]):  # noqa: B006 - kfp reads the default
        first = train(value=1).set_cpu_limit("7").set_memory_limit("1G").set_memory_request("512M")
        with dsl.ParallelFor(many, parallelism=2) as item:
            a = train(value=item).set_cpu_limit("2").set_memory_limit("4G").after(first)
        with dsl.ParallelFor([1, 2, 3]) as item:
            b = train(value=item).set_cpu_limit("500m").after(first)
            b.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(2)
        select(values=dsl.Collected(a.output)).set_cpu_limit("1").after(b)

    needs = footprint(json_format.MessageToDict(loops.pipeline_spec))
    assert dict(needs.tasks) == {"train": 1, "train-2": 5, "train-3": 3, "select": 1}
    # the run; `first` and `select`; each loop, its items, their tasks
    assert needs.drivers == 1 + 2 + (1 + 5 + 5) + (1 + 3 + 3)
    assert needs.pods == needs.drivers + 10
    assert needs.peak == {
        "tasks": 2 + 3,
        "cpu": 7.0,  # `first` alone asks for more than both loops
        "cpu_request": 7.0,
        "memory": 8e9,
        "memory_request": 8e9,
        "gpus": 6.0,
    }


@pytest.mark.parametrize("standalone", [False, True])
def test_the_needs_of_the_pipeline(standalone: bool) -> None:
    config = profile("paper")
    report = check_pipeline(config, Cluster(budget=6, gpus=2), standalone=standalone)
    tasks = sum(count for name, count in report.needs.tasks.items() if name != "importer")
    assert tasks == count_tasks(config, standalone=standalone)
    assert report.problems == ()
    peak = report.needs.peak
    assert (peak["tasks"], peak["cpu"], peak["gpus"]) == (6, 12.0, 12.0)
    assert peak["memory"] == 6 * 8 * 2**30
    assert peak["memory_request"] == 6 * 2 * 2**30
    text = "\n".join(report.lines())
    assert "6 tasks, 12 CPU (6 requested), 48.00 GiB of memory (12.00 GiB requested), 12 GPUs" in text
    assert f"{report.needs.pods} pods, {report.needs.drivers} of them drivers" in text
    assert "back end: Kubeflow Pipelines 2.14 or newer" in text


def test_a_profile_for_the_cpu_needs_no_gpu(tiny: Config) -> None:
    assert check_pipeline(tiny, Cluster()).needs.peak["gpus"] == 0


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("paper", {"gpus": 0}, "gpus: 0, but compute.device is cuda"),
        ("demo", {"time_limits": {"train": "20d"}, "retry_window": "10d"}, "time_limits.train: 20d is not below"),
        ("demo", {"time_limits": {"train": "20h"}, "deadline": "10h"}, "is more than deadline: 10h"),
        ("demo", {"image": "registry.example/lhcnet"}, "neither tag nor digest"),
        ("demo", {"env": {"A": "$(HOME)"}}, "would be changed"),
    ],
)
def test_contradictions_are_problems(name: str, values: dict[str, Any], says: str) -> None:
    report = check_pipeline(profile(name), Cluster.model_validate(values, strict=False))
    assert any(says in problem for problem in report.problems), report.problems
    assert report.lines()[-1].startswith("problem: ")


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("demo", {}, "checkpoints: none"),
        ("demo", {}, "deadline: none"),
        ("demo", {"resources": {"train": {"memory": "512Mi"}}}, "resources.train.memory: 512Mi may be too little"),
    ],
)
def test_risks_are_notes(name: str, values: dict[str, Any], says: str) -> None:
    report = check_pipeline(profile(name), Cluster.model_validate(values, strict=False))
    assert any(note.startswith(says) for note in report.notes), report.notes
    assert report.problems == ()


def test_threads_beyond_the_cpu_limit_are_a_note(tiny: Config) -> None:
    config = tiny.model_copy(update={"compute": tiny.compute.model_copy(update={"threads": 8})})
    assert any(note.startswith("compute.threads: 8 is more") for note in check_pipeline(config, Cluster()).notes)
    half = Cluster(resources={"train": Resources(cpu="0.5")})
    assert not any(note.startswith("compute.threads") for note in check_pipeline(tiny, half).notes)


def test_settings_that_leave_nothing_to_say_give_no_notes() -> None:
    cluster = Cluster(image=f"registry.example/lhcnet@{SHA}", checkpoints="unfinished", deadline="2d")
    report = check_pipeline(profile("demo"), cluster)
    assert (report.problems, report.notes) == ((), ())
