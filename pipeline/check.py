"""Check of a pipeline before it is submitted: `lhcnet pipeline check`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kubernetes.utils.quantity import parse_quantity

from lhcnet.config import Config
from lhcnet.estimate import gib, training_memory
from pipeline.cluster import STEPS, Cluster, Step, back_end_needed, seconds, step_of
from pipeline.compile import compiled
from pipeline.footprint import Footprint, footprint
from pipeline.structure import structure_problems

_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_MOVING_TAGS = ("latest", "main", "master", "dev", "develop", "edge", "nightly", "stable", "test", "tmp")
_PROCESS = 0.75 * 2**30  # bytes of a training beside tensors: Python, PyTorch, data, the writer of the record


@dataclass(frozen=True)
class CheckReport:
    """Result of a check.

    Args:
        name: of the pipeline.
        problems: what would fail, one sentence each.
        notes: what is allowed, and what it risks.
        needs: tasks, pods and peak resources of a run, nothing from the cache.
        steps: for each step: number of tasks, limits of CPU and memory, requests, time limit in seconds (0: none).
        back_end: oldest version of Kubeflow Pipelines that obeys the settings.
    """

    name: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    needs: Footprint
    steps: dict[Step, tuple[int, str, str, str, str, int]]
    back_end: tuple[int, int]

    def lines(self) -> list[str]:
        """The report as text, problems last."""
        peak, needs = self.needs.peak, self.needs
        head = ("step", "tasks", "CPU", "memory", "CPU requested", "memory requested", "time limit")
        rows = [head] + [
            (step, *map(str, row[:-1]), f"{row[-1]:,} s" if row[-1] else "none") for step, row in self.steps.items()
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        return [
            f"{self.name}: {needs.tasks.total()} tasks, {needs.pods} pods, {needs.drivers} of them drivers of Kubeflow "
            "(fewer where the cache has outputs)",
            f"at the same time at most: {peak['tasks']:.0f} tasks, {peak['cpu']:g} CPU ({peak['cpu_request']:g} "
            f"requested), {gib(peak['memory'])} of memory ({gib(peak['memory_request'])} requested), "
            f"{peak['gpus']:.0f} GPUs",
            f"back end: Kubeflow Pipelines {'.'.join(map(str, self.back_end))} or newer",
            *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
            *(f"note: {note}" for note in self.notes),
            *(f"problem: {problem}" for problem in self.problems),
        ]


def check_pipeline(config: Config, cluster: Cluster, *, standalone: bool = False) -> CheckReport:
    """Compile a pipeline in memory and check it, without a cluster.

    Args:
        config: the configuration.
        cluster: image, resources and environment of the tasks.
        standalone: the stand-alone pipeline instead of sets A, B and C.

    Returns:
        the report; the pipeline can be submitted if it has no problems.
    """
    ir, platform = compiled(config, cluster, standalone=standalone)
    needs = footprint(ir)
    tasks: dict[Step, int] = dict.fromkeys(STEPS, 0)
    for component, count in needs.tasks.items():
        if component != "importer":
            tasks[step_of(component)] += count
    steps = {step: _row(cluster, step, count) for step, count in tasks.items() if count}
    image_problem, image_note = image_risk(cluster.image)
    problems = [*structure_problems(ir, platform), *_contradictions(config, cluster)]
    notes = [*_risks(config, cluster)]
    return CheckReport(
        name=ir["pipelineInfo"]["name"],
        problems=tuple(problems + [image_problem] * bool(image_problem)),
        notes=tuple([image_note] * bool(image_note) + notes),
        needs=needs,
        steps=steps,
        back_end=back_end_needed(cluster),
    )


def _row(cluster: Cluster, step: Step, count: int) -> tuple[int, str, str, str, str, int]:
    wanted = cluster.resources_of(step)
    limits = wanted.cpu, wanted.memory, wanted.cpu_request, wanted.memory_request
    return (count, *limits, cluster.time_limit(step))


def image_risk(image: str) -> tuple[str, str]:
    """What is wrong with the name of an image, and what it risks; two sentences, "" where there is nothing to say."""
    if _DIGEST.search(image):
        return "", ""
    *_, last = image.split("/")
    _, _, tag = last.partition(":")
    if not tag or "@" in last or tag.lower() in _MOVING_TAGS:
        found = f"the tag {tag!r}, which names another image tomorrow" if tag else "neither tag nor digest"
        found = "a digest that is not 64 hexadecimal digits" if "@" in last else found
        return (
            f"image: {image} has {found}: tasks of one run could run different code; expected "
            "NAME@sha256:<digest>, or the tag of a version or a commit",
            "",
        )
    return "", (
        f"image: {image} is named by a tag: if it is built again under the same tag, some nodes run the old image, and "
        "Kubeflow's cache takes both for the same. NAME@sha256:<digest> is safe"
    )


def _contradictions(config: Config, cluster: Cluster) -> Iterator[str]:
    """Settings that cannot work together."""
    if config.compute.device == "cuda" and not cluster.gpus:
        yield "gpus: 0, but compute.device is cuda: expected at least 1, or compute.device: cpu"
    window = seconds(cluster.retry_window)
    for step, limit in cluster.time_limits.items():
        if cluster.retries and seconds(limit) >= window:
            yield (
                f"time_limits.{step}: {limit} is not below retry_window: {cluster.retry_window}; a task that fails "
                "late would not be retried: expected a longer retry_window"
            )
        if cluster.deadline and seconds(limit) > seconds(cluster.deadline):
            yield f"time_limits.{step}: {limit} is more than deadline: {cluster.deadline}, the limit of the whole run"


def _risks(config: Config, cluster: Cluster) -> Iterator[str]:
    """Settings that work, and what can happen."""
    if not cluster.checkpoints:
        yield "checkpoints: none: a training that loses its pod begins anew, and its record up to then is lost"
    limits = cluster.resources_of("train")
    if config.compute.device == "cpu":
        needed, where = _training_need(config)
        if needed > parse_quantity(limits.memory):
            yield (
                f"resources.train.memory: {limits.memory} may be too little: {where} needs about {gib(needed)}; "
                "a training that exceeds the limit is killed"
            )
    if config.compute.threads > math.ceil(parse_quantity(limits.cpu)):  # one thread fits into half a CPU, too
        yield (
            f"compute.threads: {config.compute.threads} is more than resources.train.cpu: {limits.cpu}; the threads "
            "would wait for each other"
        )
    if not (cluster.deadline or cluster.time_limits):
        yield "deadline: none: a task that no node has room for waits for ever; `deadline` ends the whole run"


def _training_need(config: Config) -> tuple[float, str]:
    """Estimated memory in bytes of the largest training on the CPU, and which one it is."""
    bfloat16 = config.compute.precision == "bfloat16"
    found = []
    for name, modules in (("network", None), *((f"variants.{key}", value) for key, value in config.variants.items())):
        for number, stage in enumerate(config.stages, 1):
            if modules is None or number == 4:  # of the main pipeline; only set B and C have modules
                if (sizes := config.network.sizes(modules)) is None:
                    continue
                memory = training_memory(
                    sizes,
                    batch_size=stage.batch_size,
                    adam=stage.optimizer == "adam",
                    bfloat16=bfloat16,
                    more_copies=stage.more_copies,
                )
                found.append((memory.total + _PROCESS, f"{name} in stage{number}"))
    return max(found, default=(0.0, ""))
