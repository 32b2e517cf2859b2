"""Submission of runs to a Kubeflow cluster. Everything that can be checked is checked before anything is created."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from google.protobuf import json_format

from lhcnet import __version__
from lhcnet.code_version import execution_name
from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from lhcnet.tracking.target import URI_VARIABLE, without_secrets
from pipeline.backend import Backend
from pipeline.cluster import Cluster
from pipeline.compile import build_pipeline
from pipeline.source import check_source, check_weights, version_of

SWEEP, SWEEP_VALUES = "LHCNET_SWEEP", "LHCNET_SWEEP_VALUES"  # environment variables of the tasks: tags of the record


@dataclass(frozen=True)
class Submission:
    """A compiled run, ready to be submitted.

    Attributes:
        name: of the run.
        pipeline: name of the pipeline.
        description: of the pipeline.
        changes: settings that differ from those of the other runs of a sweep, as text.
        text: the compiled pipeline.
        parameters: arguments of the run.
        execution: name of the execution in MLflow, without the run's id.
        tracking: address of MLflow, "" if only the cluster knows it.
        service_account: of the run.
    """

    name: str
    pipeline: str
    description: str
    changes: str
    text: str
    parameters: dict[str, Any]
    execution: str
    tracking: str
    service_account: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the compiled pipeline."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def with_source(config: Config, source: str) -> Config:
    """The settings with another source of FER2013: it becomes the default of the compiled pipeline."""
    return config.model_copy(update={"data": config.data.model_copy(update={"source": source})})


def submission_problems(cluster: Cluster, source: str) -> list[str]:
    """Why the tasks of a cluster would fail with a source and these settings, one sentence each."""
    problems = []
    try:
        check_source(source, cluster)
    except LhcnetError as error:
        problems.append(str(error))
    named = URI_VARIABLE in cluster.env or (cluster.secret and URI_VARIABLE in cluster.secret_keys)
    if not (cluster.tracking_injected or named):
        problems.append(
            f"cluster: env: {URI_VARIABLE} is missing; without it the record would be lost with the tasks' pods"
        )
    return problems


def prepare_runs(
    runs: Sequence[tuple[str, Config]],
    cluster: Cluster,
    source: str,
    *,
    name: str = "",
    standalone: bool = False,
    cache: bool = True,
    lost: Callable[[str], Mapping[str, int]] = lambda _: {},
) -> list[Submission]:
    """Check and compile runs. The runs of a sweep get the same tag, so that MLflow can show them side by side.

    Args:
        runs: (changes as text, settings) of each run, from `pipeline.sweep.sweep_of`.
        cluster: image, resources and environment of the tasks.
        source: where FER2013 is.
        name: of the run; "" takes the name of the execution.
        standalone: the stand-alone pipeline instead of sets A, B and C.
        cache: whether tasks may take their outputs from Kubeflow's cache.
        lost: from the name of an execution, the trainings that ended early in earlier runs of it; `build` says more.

    Raises:
        LhcnetError: the cluster cannot reach the source, the tasks would find no MLflow, an address of start weights
            has no digest, or `version_of` fails.
    """
    if problems := submission_problems(cluster, source):
        raise LhcnetError(problems[0])
    if len({config.data.source for _, config in runs}) > 1:
        raise LhcnetError("data.source: all runs of a sweep have one source; expected a submission for each of them")
    for _, config in runs:
        check_weights(config.network.weights)
    version = version_of(source)
    sweep = f"{name or 'sweep'}-{uuid4().hex[:8]}"
    prepared = []
    for changes, config in runs:
        tags = {SWEEP: sweep, SWEEP_VALUES: changes} if changes else {}
        tagged = cluster.model_copy(update={"env": {**cluster.env, **tags}})
        resolved = with_source(config, source)
        execution = execution_name(resolved)
        earlier = lost(execution) if cache and not standalone else {}
        text, spec = _compiled(resolved, tagged, lost=earlier, standalone=standalone, cache=cache)
        known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        arguments = {"source": source, "source_version": version}
        info = spec["pipelineInfo"]
        prepared.append(
            Submission(
                name=" ".join(filter(None, [name or execution, changes]))[:200],
                pipeline=str(info["name"]),
                description=str(info.get("description", "")),
                changes=changes,
                text=text,
                parameters={key: value for key, value in arguments.items() if key in known},
                execution=execution,
                tracking=without_secrets(cluster.env.get(URI_VARIABLE, "")),
                service_account=cluster.service_account,
            )
        )
    return prepared


def submit_runs(
    backend: Backend, submissions: Sequence[Submission], experiment: str, say: Callable[[str], None]
) -> list[str]:
    """Upload the pipeline as a version named by the commit, and start the runs.

    Args:
        backend: the back end; `Backend.check` comes first.
        submissions: the runs.
        experiment: name of the Kubeflow experiment.
        say: is called with a line about each version and each run.

    Returns:
        The ids of the runs.
    """
    experiment_id = backend.experiment(experiment)
    started: list[str] = []
    for submission in submissions:
        pipeline = backend.pipeline(submission.pipeline, submission.description)
        version = _version(backend, pipeline, submission, say)
        run = backend.create_run(
            submission.name,
            experiment=experiment_id,
            pipeline=pipeline,
            version=version,
            parameters=submission.parameters,
            description=submission.changes,
            service_account=submission.service_account,
        )
        started.append(run.run_id)
        say(f"{submission.name}: {run.run_id}")
        say(f"  Kubeflow: {run_link(backend, run.run_id)}")
        record = f"execution {submission.execution}-{run.run_id[:8]}"
        if submission.tracking:
            say(f"  MLflow: {submission.tracking}, {record}")
        for plugin, link in run.links.items():
            say(f"  {plugin}: {link}")
    return started


def run_link(backend: Backend, run_id: str) -> str:
    """Address of a run in the user interface; KF_PIPELINES_UI_ENDPOINT names it where it is not the API's."""
    host = os.environ.get("KF_PIPELINES_UI_ENDPOINT") or backend.connection.host
    return f"{host.rstrip('/')}/#/runs/details/{run_id}"


def version_name() -> str:
    """Name of a version of the pipeline: the commit, with `-dirty` if files differ from it; else the package's."""
    if commit := os.environ.get("LHCNET_COMMIT"):
        return commit[:12]
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return f"lhcnet-{__version__.replace('+', '-')}"
    return f"{commit[:12]}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit[:12]


def _version(backend: Backend, pipeline: str, submission: Submission, say: Callable[[str], None]) -> str:
    """Id of the version with exactly this compiled pipeline: one that exists, or a new one."""
    digest = submission.digest
    for name in (version_name(), f"{version_name()}-{digest[:8]}"):
        found, description = backend.pipeline_version(pipeline, name)
        if found and digest in description:
            say(f"Version {name} of the pipeline exists with the same content: used again.")
            return found
        if not found:
            text = f"lhcnet {__version__}, sha256:{digest}"
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "pipeline.yaml")
                file.write_text(submission.text, encoding="utf-8")
                uploaded = backend.upload_version(pipeline, name, text, file)
            say(f"Version {name} of the pipeline {submission.pipeline} uploaded.")
            return uploaded
        say(f"Version {name} of the pipeline exists with other settings.")
    raise LhcnetError(
        f"pipeline {submission.pipeline}: version {name} exists with other content; expected a name that is free"
    )


def _compiled(
    config: Config, cluster: Cluster, *, lost: Mapping[str, int], standalone: bool, cache: bool
) -> tuple[str, dict[str, Any]]:
    """(text, specification) of the pipeline. Without cache, the tasks inside loops do not use it either.

    The text is JSON, which is YAML too, and is written much faster.
    """
    pipeline = build_pipeline(config, cluster, lost=lost, standalone=standalone)
    # protobuf's maps have another order in every process
    spec, platform = (
        json.loads(json_format.MessageToJson(message, sort_keys=True))
        for message in (pipeline.pipeline_spec, pipeline.platform_spec)
    )
    if not cache:
        for group in (spec["root"], *spec["components"].values()):
            for task in group.get("dag", {}).get("tasks", {}).values():
                task["cachingOptions"] = {}
    documents = [json.dumps(document, indent=1, ensure_ascii=False) for document in (spec, platform) if document]
    return "\n---\n".join(documents) + "\n", spec


def _git(*arguments: str) -> str:
    """What git prints about the folder of this program; "" without git or a repository."""
    if shutil.which("git") is None:
        return ""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.strip() if done.returncode == 0 else ""
