"""The calls of Kubeflow Pipelines' API that the commands make, on one back end."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import kfp_server_api
from kfp_server_api import (
    V2beta1Experiment,
    V2beta1Pipeline,
    V2beta1PipelineVersionReference,
    V2beta1Run,
    V2beta1RuntimeConfig,
)

from pipeline.cluster import MINIMUM_BACK_END
from pipeline.connection import Api, ApiError, Connection, Reply
from pipeline.runs import Run, Task, failed_text, tasks_of_workflow


class Backend:
    """A back end of Kubeflow Pipelines.

    Args:
        connection: its address and the credentials.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._api = Api(connection)
        self._runs = kfp_server_api.RunServiceApi(self._api)
        self._pipelines = kfp_server_api.PipelineServiceApi(self._api)
        self._experiments = kfp_server_api.ExperimentServiceApi(self._api)
        self._uploads = kfp_server_api.PipelineUploadServiceApi(self._api)
        self._health = kfp_server_api.HealthzServiceApi(self._api)
        self._hands_out_events = True

    def check(self, needed: tuple[int, int] = MINIMUM_BACK_END) -> str:
        """Check that the endpoint is a Kubeflow Pipelines that can run the pipeline.

        Args:
            needed: (major, minor) version of the oldest one that can.

        Returns:
            A warning, or "".

        Raises:
            ApiError: no answer, no access, a version that is too old, or a namespace is missing.
        """
        reply = self._api.json(self._health.healthz_service_get_healthz)
        # the API server's own names; the server of the user interface, behind a gateway, has others
        if reply.get("apiServerReady") is False:
            raise self._api.error("its API server does not answer (says the user interface)", 503, transient=True)
        several_users = reply.get("multi_user") is True or reply.get("apiServerMultiUser") is True
        if several_users and not self.connection.namespace:
            raise self._api.error("this Kubeflow has several users; expected --namespace with yours")
        tag = str(reply.get("tag_name") or reply.get("apiServerTagName") or "unknown")
        found = re.match(r"v?(\d+)\.(\d+)", tag)
        minimum = ".".join(map(str, needed))
        if found is None:
            return f"the back end does not say its version ({tag}); expected at least {minimum}"
        if tuple(map(int, found.groups())) < needed:
            raise self._api.error(
                f"is Kubeflow Pipelines {tag}; expected at least {minimum}: older ones ignore settings, or hand only "
                "the first artifact of a list to a task"
            )
        return ""

    def experiment(self, name: str) -> str:
        """Id of the experiment of this name, which is made if there is none."""
        namespace = self.connection.namespace
        listed = self._api.json(
            self._experiments.experiment_service_list_experiments, filter=_named(name), **self._in_namespace()
        )
        if found := _first(listed, "experiments"):
            return self._id(found, "experiment_id")
        body = V2beta1Experiment(display_name=name, namespace=namespace or None)
        return self._id(self._api.json(self._experiments.experiment_service_create_experiment, body), "experiment_id")

    def pipeline(self, name: str, description: str) -> str:
        """Id of the pipeline of this name, which is made if there is none."""
        namespace = self.connection.namespace
        listed = self._api.json(
            self._pipelines.pipeline_service_list_pipelines, filter=_named(name), **self._in_namespace()
        )
        if found := _first(listed, "pipelines"):
            return self._id(found, "pipeline_id")
        body = V2beta1Pipeline(name=name, display_name=name, description=description, namespace=namespace or None)
        return self._id(self._api.json(self._pipelines.pipeline_service_create_pipeline, body), "pipeline_id")

    def pipeline_version(self, pipeline: str, name: str) -> tuple[str, str]:
        """(id, description) of a version of a pipeline, both "" if there is none of this name."""
        listed = self._api.json(self._pipelines.pipeline_service_list_pipeline_versions, pipeline, filter=_named(name))
        found = _first(listed, "pipeline_versions")
        return (self._id(found, "pipeline_version_id"), str(found.get("description", ""))) if found else ("", "")

    def upload_version(self, pipeline: str, name: str, description: str, file: Path) -> str:
        """Upload a compiled pipeline as a version; returns its id."""
        uploaded = self._api.json(
            self._uploads.upload_pipeline_version, str(file), name=name, pipelineid=pipeline, description=description
        )
        return self._id(uploaded, "pipeline_version_id")

    def create_run(
        self,
        name: str,
        *,
        experiment: str,
        pipeline: str,
        version: str,
        parameters: Mapping[str, Any],
        description: str = "",
        service_account: str = "",
    ) -> Run:
        """Start a run of a version of a pipeline.

        Args:
            name: name of the run, as the user interface shows it.
            experiment: id of the experiment.
            pipeline: id of the pipeline.
            version: id of its version.
            parameters: parameters that differ from the defaults of the version.
            description: of the run.
            service_account: of its pods; "" takes the one of the installation.
        """
        body = V2beta1Run(
            display_name=name,
            description=description,
            experiment_id=experiment,
            pipeline_version_reference=V2beta1PipelineVersionReference(pipeline, version),
            runtime_config=V2beta1RuntimeConfig(parameters=dict(parameters)),
            service_account=service_account or None,
        )
        created = self._api.json(self._runs.run_service_create_run, body)
        self._id(created, "run_id")
        return Run.of_reply(created)

    def run(self, run_id: str) -> Run:
        """State, times and tasks of a run."""
        reply = self._api.json(self._runs.run_service_get_run, run_id)
        if self._id(reply, "run_id") != run_id:
            raise self._api.error(f"was asked for run {run_id} and sent run {reply['run_id']}")
        return Run.of_reply(reply)

    def tasks(self, run: Run) -> list[Task]:
        """Tasks of a run, with what Kubernetes says about their pods.

        The API's current version (v2beta1) names the tasks and their states, but neither pods nor reasons. These are
        in the Argo workflow, which only its former version (v1beta1) hands out. Without it the tasks have no reasons.
        """
        try:
            path = f"/apis/v1beta1/runs/{_word(run.run_id)}"
            runtime = self._api.json(lambda **_: self._api.get(path)).get("pipeline_runtime")
            workflow = json.loads(runtime["workflow_manifest"]) if isinstance(runtime, dict) else {}
            found = tasks_of_workflow(workflow)
        except (ApiError, KeyError, TypeError, ValueError, AttributeError, zlib.error):
            found = []
        return found or list(run.tasks)

    def events(self, task: Task) -> str:
        """Last warning about a task's pod, "" if there is none or nothing hands it out.

        Only the server of the user interface does, which answers at the same address behind a gateway.
        """
        if not (task.pod and task.namespace and self._hands_out_events):
            return ""
        try:
            reply = self._api.get("/k8s/pod/events", podname=task.pod, podnamespace=task.namespace)
            items = json.loads(reply.body)["items"]
            warnings = [f"{e['reason']}: {e['message']}" for e in items if e.get("type") == "Warning"]
        except (ApiError, KeyError, TypeError, ValueError, AttributeError):
            self._hands_out_events = False
            return ""
        return warnings[-1] if warnings else ""

    def log(self, run_id: str, task: Task) -> str:
        """Log of the pod of a task, from the API server or from the server of the user interface.

        Raises:
            ApiError: neither hands it out.
        """
        query = {"podname": task.pod, "runid": run_id, "podnamespace": task.namespace}
        refused: ApiError | None = None
        for path, options in (
            (f"/apis/v1alpha1/runs/{_word(run_id)}/nodes/{_word(task.pod)}/log", {}),
            ("/k8s/pod/logs", {name: value for name, value in query.items() if value}),
        ):
            try:
                reply = self._api.get(path, **options)
            except ApiError as error:
                if error.status in (0, 401):
                    raise
                refused = error
                continue
            if not _is_no_log(reply):
                return reply.text
        detail = f" ({refused})" if refused and refused.status != 404 else ""
        where = f" -n {task.namespace}" if task.namespace else ""
        raise self._api.error(
            f"hands out no log of pod {task.pod}, which may be gone{detail}; try `kubectl logs{where} {task.pod}`"
        )

    def terminate(self, run_id: str) -> None:
        """Ask the back end to end a run; its pods get half a minute."""
        self._api.json(self._runs.run_service_terminate_run, run_id)

    def retry(self, run_id: str) -> None:
        """Run the failed tasks of a run again, and those that wait for them."""
        self._api.json(self._runs.run_service_retry_run, run_id)

    def explain(self, tasks: list[Task]) -> list[tuple[Task, str]]:
        """(task, why it failed or waits) of all tasks about which something is known."""
        return [(task, why) for task in tasks if (why := failed_text(task, self.events))]

    def _in_namespace(self) -> dict[str, str]:
        return {"namespace": self.connection.namespace} if self.connection.namespace else {}

    def _id(self, reply: Mapping[str, Any], key: str) -> str:
        value = reply.get(key)
        if not isinstance(value, str) or not value:
            raise self._api.error(f"answered without {key}; is it a Kubeflow Pipelines endpoint?")
        return value


def _named(name: str) -> str:
    predicate = {"operation": "EQUALS", "key": "display_name", "string_value": name}
    return quote(json.dumps({"predicates": [predicate]}))  # the server decodes it once more than other parameters


def _first(reply: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    rows = reply.get(key)
    return rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else None


def _word(text: str) -> str:
    """An id as a part of an address."""
    return re.sub(r"[^\w.-]", "", text)


def _is_no_log(reply: Reply) -> bool:
    """Whether a reply with status 200 is a web page, or the error that the API server writes after its header."""
    return reply.is_html or reply.body.startswith(b'{"error_message"')
